"""What is measured on a test slice, and how sure we may be of it.

Belongs here: metrics, confidence bounds and paired tests. Does not: what follows from them
(`decide.py`).

Accuracy is a binomial share: its bound is Clopper-Pearson's, its paired comparison McNemar's exact
test. The other metrics have no such law: their bounds are percentiles of a bootstrap over the rows
(1000 resamples, a fixed seed, so that a verdict can be reproduced). The laws are `scipy.special`'s;
the tests hold what is made of them against `scipy.stats`, whose import takes half a second of every
run and whose resampling would sort the rows anew for every resample of an AUC.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ml_patterns.branching.policy import Metric

Labels = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64]
Statistic = Callable[[Labels, Probabilities, Values], Values]
"""Takes labels and probabilities, shape (rows,), and how often each row counts, shape (..., rows):
ones for the value, the draws of a bootstrap for its distribution. Returns shape (...)."""

RESAMPLES = 1000
_SEED = 20_260_101
_BATCH_CELLS = 2_000_000


def accuracy(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Share of right answers at threshold 0.5."""
    right: Values = counts @ _right(labels, probabilities) / counts.sum(axis=-1)
    return right


def majority_accuracy(labels: Labels, counts: Values) -> Values:
    """Accuracy of always answering with the commoner class of these rows."""
    share: Values = np.maximum(counts @ labels, counts @ ~labels) / counts.sum(axis=-1)
    return share


def gain_over_majority(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Accuracy beyond that of the commoner class, in points of accuracy (-1 to 0.5)."""
    # Counts are subtracted before the division, so that a threshold is met exactly.
    more = counts @ _right(labels, probabilities) - np.maximum(counts @ labels, counts @ ~labels)
    gain: Values = more / counts.sum(axis=-1)
    return gain


def balanced_accuracy(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Mean of the shares of right answers in both classes; NaN if one class is absent."""
    right = _right(labels, probabilities)
    with np.errstate(invalid="ignore"):
        of_positives = counts @ (right & labels) / (counts @ labels)
        of_negatives = counts @ (right & ~labels) / (counts @ ~labels)
    mean: Values = (of_positives + of_negatives) / 2
    return mean


def auc(labels: Labels, probabilities: Probabilities, counts: Values) -> Values:
    """Area under the ROC curve (ties count half); NaN if one class is absent.

    Sorted once, however many resamples there are: per distinct probability, from the lowest, the
    positives stand above all negatives before them and above half of those beside them.
    """
    order = np.argsort(probabilities)
    ordered = probabilities[order]
    ties = np.flatnonzero(ordered != np.r_[np.nan, ordered[:-1]])
    positives = np.add.reduceat(counts[..., order] * labels[order], ties, axis=-1)
    negatives = np.add.reduceat(counts[..., order] * ~labels[order], ties, axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    with np.errstate(invalid="ignore"):
        area: Values = (positives * below).sum(axis=-1) / (
            positives.sum(axis=-1) * negatives.sum(axis=-1)
        )
    return area


def _right(labels: Labels, probabilities: Probabilities) -> Labels:
    right: Labels = (probabilities >= 0.5) == labels
    return right


METRICS: dict[Metric, Statistic] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auc": auc,
    "gain_over_majority": gain_over_majority,
}


def value(metric: Metric, labels: Labels, probabilities: Probabilities) -> float:
    """A metric of these rows; NaN where it is undefined."""
    return float(METRICS[metric](labels, probabilities, np.ones(len(labels))))


def all_metrics(labels: Labels, probabilities: Probabilities) -> dict[str, float | None]:
    """Every metric of a test slice; None where it is undefined.

    Args:
        labels: shape (rows,).
        probabilities: of the positive class, shape (rows,).
    """
    names = [*METRICS, "majority_accuracy", "log_loss", "brier"]
    if len(labels) == 0 or not np.isfinite(probabilities).all():
        return dict.fromkeys(names)
    values = {str(name): value(name, labels, probabilities) for name in METRICS}
    values["majority_accuracy"] = float(majority_accuracy(labels, np.ones(len(labels))))
    said = np.where(labels, probabilities, 1 - probabilities).clip(1e-15, 1)
    values["log_loss"] = float(-np.log(said).mean())
    values["brier"] = float(np.square(probabilities - labels).mean())
    return {name: values[name] if math.isfinite(values[name]) else None for name in names}


def lower_bound(
    metric: Metric, labels: Labels, probabilities: Probabilities, confidence: float
) -> float | None:
    """One-sided lower confidence bound of a metric; None where it is undefined."""
    if len(labels) == 0 or not np.isfinite(probabilities).all():
        return None
    if metric == "accuracy":
        right = int(_right(labels, probabilities).sum())
        return binomial_bound(right, len(labels), confidence)
    resampled = [METRICS[metric](labels, probabilities, counts) for counts in _draws(len(labels))]
    return _percentile(np.concatenate(resampled), 1 - confidence)


def binomial_bound(successes: float, rows: int, confidence: float) -> float:
    """Clopper and Pearson's exact one-sided lower bound of a share."""
    from scipy.special import betaincinv

    # A quantile of the beta distribution.
    return float(betaincinv(successes, rows - successes + 1, 1 - confidence)) if successes else 0.0


def binomial_upper_bound(successes: int, rows: int, confidence: float) -> float:
    """Clopper and Pearson's exact one-sided upper bound of a share."""
    from scipy.special import betaincinv

    failures = rows - successes
    return float(betaincinv(successes + 1, failures, confidence)) if failures else 1.0


def worse_than_majority(labels: Labels, probabilities: Probabilities, confidence: float) -> bool:
    """Whether always giving these rows' commoner answer is right more often, beyond chance."""
    commoner = np.full(len(labels), labels.mean() >= 0.5, dtype=np.float64)
    worse = is_worse(
        "accuracy", labels, probabilities, commoner, confidence=confidence, tolerance=0
    )
    return bool(worse)


def right_answers(labels: Labels, probabilities: Probabilities) -> Labels:
    """Which rows are answered right at threshold 0.5."""
    return _right(labels, probabilities)


def p_better_than_chance(labels: Labels, probabilities: Probabilities) -> float | None:
    """How likely an AUC this high is for a model that knows nothing (Mann-Whitney, one-sided).

    Returns:
        None if a class is absent or a probability is missing.
    """
    from scipy.special import ndtr

    if not np.isfinite(probabilities).all() or labels.all() or not labels.any():
        return None
    if np.ptp(probabilities) == 0:
        return 1.0
    rows, positives = len(labels), int(labels.sum())
    pairs = positives * (rows - positives)
    tied = np.unique(probabilities, return_counts=True)[1].astype(np.float64)
    spread = math.sqrt(pairs / 12 * (rows + 1 - (tied**3 - tied).sum() / (rows * (rows - 1))))
    # Half a pair less, because the statistic is discrete and the normal law is not.
    above = value("auc", labels, probabilities) * pairs - pairs / 2 - 0.5
    return float(ndtr(-above / spread))


def is_worse(
    metric: Metric,
    labels: Labels,
    challenger: Probabilities,
    champion: Probabilities,
    *,
    confidence: float,
    tolerance: float,
) -> bool | None:
    """Whether the challenger is worse than the champion on the same rows, beyond chance.

    Args:
        tolerance: how much worse it may be.

    Returns:
        None if it cannot be judged.
    """
    from scipy.special import betainc

    if not (np.isfinite(challenger).all() and np.isfinite(champion).all()) or len(labels) == 0:
        return None
    loss = value(metric, labels, champion) - value(metric, labels, challenger)
    if not math.isfinite(loss):
        return None
    if loss <= tolerance:
        return False
    if metric in ("accuracy", "gain_over_majority") and tolerance == 0:
        right, champion_right = _right(labels, challenger), _right(labels, champion)
        lost = int((champion_right & ~right).sum())
        won = int((right & ~champion_right).sum())
        # So many lost of those that changed, if losing were as likely as winning.
        p = betainc(lost, won + 1, 0.5)
        return bool(p <= 1 - confidence)

    of = METRICS[metric]
    losses = [
        # The same draws for both, so that the comparison stays paired.
        of(labels, champion, counts) - of(labels, challenger, counts)
        for counts in _draws(len(labels))
    ]
    bound = _percentile(np.concatenate(losses), 1 - confidence)
    return None if bound is None else bound > tolerance


def rows_to_pass(
    metric: Metric, value: float, bound: float, threshold: float, rows: int, confidence: float
) -> int | None:
    """How many more rows would lift the lower bound to a threshold if the value stayed.

    Exact for accuracy; for the others the distance of the bound is taken to shrink with the square
    root of the rows.

    Returns:
        None if the value itself does not lie above the threshold.
    """
    if bound >= threshold:
        return 0
    if value <= threshold:
        return None
    if metric != "accuracy":
        return math.ceil(rows * ((value - bound) / (value - threshold)) ** 2) - rows

    def passes(count: int) -> bool:
        return binomial_bound(value * count, count, confidence) >= threshold

    low, high = rows, rows * 2
    while not passes(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high - rows


def _draws(rows: int) -> Iterator[Values]:
    """How often each row is drawn, with replacement: batches of shape (some, rows)."""
    random = np.random.default_rng(_SEED)
    size = max(1, min(RESAMPLES, _BATCH_CELLS // rows))
    for start in range(0, RESAMPLES, size):
        drawn = random.integers(0, rows, (min(size, RESAMPLES - start), rows))
        yield np.array([np.bincount(row, minlength=rows) for row in drawn], dtype=np.float64)


def _percentile(values: Values, share: float) -> float | None:
    """A percentile; None if a resample held one class only, so that its value is undefined."""
    return float(np.quantile(values, share)) if np.isfinite(values).all() else None
