"""How good probabilities are.

Belongs here: metrics of a binary classifier and its baselines. Does not: confidence bounds and
thresholds (`branching/`).
"""

from datetime import timedelta

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

_SMALLEST = 1e-15
_BINS = 10


def row_losses(labels: Labels, probabilities: Values) -> Values:
    """Log loss of every row, in nats; probabilities are kept off 0 and 1."""
    clipped = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return -np.log(np.where(labels, clipped, 1 - clipped))


def accuracy(labels: Labels, probabilities: Values) -> float:
    """Share of rows whose class is guessed right at 0.5."""
    return float(np.mean((probabilities >= 0.5) == labels))


def balanced_accuracy(labels: Labels, probabilities: Values) -> float:
    """Mean of the two classes' recalls; both classes must occur."""
    guessed = probabilities >= 0.5
    return float((guessed[labels].mean() + (~guessed[~labels]).mean()) / 2)


def auc(labels: Labels, probabilities: Values) -> float:
    """Chance that a positive ranks above a negative, ties half; both classes must occur.

    The Mann-Whitney U statistic over its maximum.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    _, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    # The mean rank of each distinct value. Not by scipy.stats: importing it costs every worker
    # half a second.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = ranks[inverse[labels]].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def brier(labels: Labels, probabilities: Values) -> float:
    """Mean squared error of the probabilities."""
    return float(np.mean((probabilities - labels) ** 2))


def calibration_error(labels: Labels, probabilities: Values) -> float:
    """Expected calibration error over ten equally wide bins (Naeini et al., 2015)."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    # Rows times |observed share - mean probability| of a bin is |the sum of their differences|.
    differences = np.bincount(bins, weights=labels - probabilities, minlength=_BINS)
    return float(np.abs(differences).sum() / len(labels))


def persistence(
    times: npt.NDArray[np.datetime64], labels: Labels, asked: Mask, delay: timedelta
) -> float | None:
    """Accuracy of guessing the newest label that was known at each row's time.

    Args:
        times: of all rows, ascending, shape (rows,).
        labels: of all rows, shape (rows,).
        asked: the rows to guess, shape (rows,).
        delay: how long after its event a label is known.

    Returns:
        None where no label was known to any of them.
    """
    known = times[asked] - np.timedelta64(delay)
    # Two events at one instant do not know each other's label, even without a delay.
    newest = np.searchsorted(times, known, side="left") - 1
    answered = newest >= 0
    if not answered.any():
        return None
    return float(np.mean(labels[newest[answered]] == labels[asked][answered]))


def measure(labels: Labels, probabilities: Values) -> dict[str, float]:
    """Every metric that these rows define.

    Args:
        labels: shape (rows,).
        probabilities: of the positive class, shape (rows,).

    Returns:
        By name. What the rows do not define is absent rather than zero: everything where there are
        no rows, `balanced_accuracy` and `auc` where there is one class only.
    """
    if not len(labels):
        return {}
    share = float(labels.mean())
    measured = {
        "accuracy": accuracy(labels, probabilities),
        "log_loss": float(row_losses(labels, probabilities).mean()),
        "brier": brier(labels, probabilities),
        "calibration_error": calibration_error(labels, probabilities),
        "majority_accuracy": max(share, 1 - share),
    }
    if 0 < share < 1:
        measured["balanced_accuracy"] = balanced_accuracy(labels, probabilities)
        measured["auc"] = auc(labels, probabilities)
    return measured
