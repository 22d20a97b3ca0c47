"""What a reviewer sees of a model's test results, as numbers.

Belongs here: comparisons, tables and the points of curves, from recorded evidence alone. Does not:
reading anything (`desk.py`), drawing (`templates/charts.html`), the verdict (`branching/`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ml_patterns.branching.evidence import ChampionEvidence, Evidence
from ml_patterns.branching.policy import Metric, Policy
from ml_patterns.branching.statistics import (
    METRICS,
    Labels,
    Probabilities,
    binomial_bound,
    binomial_upper_bound,
    is_worse,
    lower_bound,
    right_answers,
    value,
)
from ml_patterns.storage.card import ModelCard, Window

Point = tuple[float, float]

_BINS = 10
_MOST_POINTS = 200
_AFFORDABLE = 5_000
"""Test rows up to which every metric is resampled; above, only the policy's: a page is to be fast.
"""


@dataclass(frozen=True)
class MetricRow:
    """A metric of the model on all test rows, and of both on the rows that they share."""

    name: str
    value: float | None
    bound: float | None
    shared: float | None
    champion: float | None
    champion_bound: float | None
    comparison: str


@dataclass(frozen=True)
class SliceRow:
    """One value of a text column; `champion` on the rows of it that both answered."""

    column: str
    value: str
    rows: int
    accuracy: float
    champion: float | None


@dataclass(frozen=True)
class Confusion:
    """Right and wrong answers at threshold 0.5."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


@dataclass(frozen=True)
class CalibrationBin:
    """Rows with about the same probability, and how often it came true (with its 90 % interval)."""

    said: float
    share: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Analysis:
    """Everything on the page that comes from test results.

    Attributes:
        problem: why there is nothing to show; empty if there is.
        shared_rows: test rows after the champion's training, on which both are compared.
        histogram: per tenth of probability, rows of the negative and of the positive class.
    """

    problem: str
    shared_rows: int
    metrics: tuple[MetricRow, ...]
    slices: tuple[SliceRow, ...]
    confusion: Confusion | None
    champion_confusion: Confusion | None
    roc: tuple[Point, ...]
    champion_roc: tuple[Point, ...]
    calibration: tuple[CalibrationBin, ...]
    histogram: tuple[tuple[int, int], ...]


def analyse(evidence: Evidence, champion: ChampionEvidence | None, policy: Policy) -> Analysis:
    """Measures what the page shows; half a second for some thousand test rows."""
    labels, said = evidence.labels, evidence.probabilities
    if evidence.rows == 0 or not np.isfinite(said).all():
        problem = evidence.problem or "there are no test rows with predictions"
        return Analysis(problem, 0, (), (), None, None, (), (), (), ())
    other = champion if champion is not None and _answers(champion) else None
    rows = np.zeros(len(labels), dtype=np.bool_) if other is None else other.rows
    return Analysis(
        problem="",
        shared_rows=int(rows.sum()),
        metrics=tuple(_metrics(evidence, other, policy)),
        slices=tuple(_slices(evidence, other, policy.slice_min_rows)),
        confusion=_confusion(labels, said),
        champion_confusion=_confusion(labels[rows], other.probabilities) if other else None,
        roc=_roc(labels, said),
        champion_roc=_roc(labels[rows], other.probabilities) if other else (),
        calibration=tuple(_calibration(labels, said)),
        histogram=_histogram(labels, said),
    )


def _answers(champion: ChampionEvidence) -> bool:
    there = not champion.problem and champion.rows.any()
    return bool(there and np.isfinite(champion.probabilities).all())


def _metrics(
    evidence: Evidence, champion: ChampionEvidence | None, policy: Policy
) -> Iterator[MetricRow]:
    measured = dict(evidence.metrics)
    ordered: list[Metric] = [policy.metric, *(name for name in METRICS if name != policy.metric)]
    for name in ordered:
        resampled = evidence.rows <= _AFFORDABLE or name in ("accuracy", policy.metric)

        def bound(
            labels: Labels, said: Probabilities, name: Metric = name, wanted: bool = resampled
        ) -> float | None:
            return lower_bound(name, labels, said, policy.confidence) if wanted else None

        row = MetricRow(
            name=name.replace("_", " "),
            value=measured.pop(name),
            bound=bound(evidence.labels, evidence.probabilities),
            shared=None,
            champion=None,
            champion_bound=None,
            comparison="",
        )
        if champion is not None:
            labels = evidence.labels[champion.rows]
            ours = evidence.probabilities[champion.rows]
            row = MetricRow(
                name=row.name,
                value=row.value,
                bound=row.bound,
                shared=_finite(value(name, labels, ours)),
                champion=_finite(value(name, labels, champion.probabilities)),
                champion_bound=bound(labels, champion.probabilities),
                comparison=_comparison(name, labels, ours, champion.probabilities, policy)
                if resampled
                else "",
            )
        yield row
    for rest, of_all in measured.items():
        yield MetricRow(rest.replace("_", " "), of_all, None, None, None, None, "")


def _comparison(
    name: Metric, labels: Labels, ours: Probabilities, theirs: Probabilities, policy: Policy
) -> str:
    sure = policy.confidence
    worse = is_worse(name, labels, ours, theirs, confidence=sure, tolerance=0)
    better = is_worse(name, labels, theirs, ours, confidence=sure, tolerance=0)
    if worse is None or better is None:
        return "cannot be compared"
    if worse:
        return "worse, beyond chance"
    return "better, beyond chance" if better else "no difference beyond chance"


def _finite(measured: float) -> float | None:
    return measured if np.isfinite(measured) else None


def _slices(
    evidence: Evidence, champion: ChampionEvidence | None, min_rows: int
) -> Iterator[SliceRow]:
    right = right_answers(evidence.labels, evidence.probabilities)
    champion_right = np.full(evidence.rows, np.nan)
    if champion is not None:
        answers = right_answers(evidence.labels[champion.rows], champion.probabilities)
        champion_right[champion.rows] = answers
    for column in sorted(evidence.slices):
        for name, rows in evidence.slices[column].of_at_least(min_rows):
            shared = champion_right[rows]
            known = shared[~np.isnan(shared)]
            yield SliceRow(
                column=column,
                value=name,
                rows=int(rows.sum()),
                accuracy=float(right[rows].mean()),
                champion=float(known.mean()) if len(known) else None,
            )


def _confusion(labels: Labels, said: Probabilities) -> Confusion:
    positive = said >= 0.5
    return Confusion(
        true_positives=int((positive & labels).sum()),
        false_positives=int((positive & ~labels).sum()),
        false_negatives=int((~positive & labels).sum()),
        true_negatives=int((~positive & ~labels).sum()),
    )


def _roc(labels: Labels, said: Probabilities) -> tuple[Point, ...]:
    """False and true positive rates, from the strictest threshold; empty if a class is absent."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return ()
    order = np.argsort(-said, kind="stable")
    last = np.flatnonzero(np.diff(said[order], append=np.nan) != 0)  # ties are one threshold
    hits = np.cumsum(labels[order])[last] / positives
    alarms = np.cumsum(~labels[order])[last] / negatives
    thinned = np.unique(np.linspace(0, len(last) - 1, _MOST_POINTS).round().astype(int))
    return ((0.0, 0.0), *((float(alarms[i]), float(hits[i])) for i in thinned))


def _calibration(labels: Labels, said: Probabilities) -> Iterator[CalibrationBin]:
    codes = _tenths(said)
    for tenth in np.unique(codes):
        inside = codes == tenth
        rows, came_true = int(inside.sum()), int(labels[inside].sum())
        yield CalibrationBin(
            said=float(said[inside].mean()),
            share=came_true / rows,
            low=binomial_bound(came_true, rows, 0.95),
            high=binomial_upper_bound(came_true, rows, 0.95),
            rows=rows,
        )


def _histogram(labels: Labels, said: Probabilities) -> tuple[tuple[int, int], ...]:
    codes = _tenths(said)
    negative = np.bincount(codes[~labels], minlength=_BINS)
    positive = np.bincount(codes[labels], minlength=_BINS)
    return tuple(zip(negative.tolist(), positive.tolist(), strict=True))


def _tenths(said: Probabilities) -> np.ndarray:
    codes: np.ndarray = np.clip((said * _BINS).astype(int), 0, _BINS - 1)
    return codes


@dataclass(frozen=True)
class Change:
    """Something about the data or the training that is not as it was for the champion."""

    what: str
    before: str
    now: str


def changes(card: ModelCard, champion: ModelCard) -> list[Change]:
    """What differs between the data and training of a model and those of the champion."""
    pairs: list[tuple[str, object, object]] = [
        ("trained on", _window(champion.train), _window(card.train)),
        ("validated on", _window(champion.validation), _window(card.validation)),
        ("tested on", _window(champion.test), _window(card.test)),
        ("share of positives", f"{champion.base_rate:.4f}", f"{card.base_rate:.4f}"),
        ("training rows (hash)", champion.data_fingerprint[:12], card.data_fingerprint[:12]),
        ("kind of model", champion.kind, card.kind),
        ("rounds of boosting", champion.rounds, card.rounds),
        ("parameters", _named(champion.candidate), _named(card.candidate)),
        ("libraries", _named(champion.versions), _named(card.versions)),
    ]
    then = {feature.name: feature for feature in champion.features}
    now = {feature.name: feature for feature in card.features}
    pairs += [(f"feature {name}", "there", "gone") for name in then if name not in now]
    pairs += [(f"feature {name}", "not there", "new") for name in now if name not in then]
    for name in sorted(now.keys() & then.keys()):
        gone = set(then[name].categories) - set(now[name].categories)
        new = set(now[name].categories) - set(then[name].categories)
        if gone or new:
            pairs.append((f"values of {name}", _some(gone, "gone"), _some(new, "new")))
    return [Change(what, str(before), str(now)) for what, before, now in pairs if before != now]


def _window(window: Window) -> str:
    ends = (f"{end:%Y-%m-%d %H:%M}" if end else "…" for end in (window.start, window.end))
    return f"{' to '.join(ends)}, {window.rows} rows, {window.positives} positive"


def _named(values: dict[str, float | int | str | bool] | dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))


def _some(values: set[str], what: str) -> str:
    if not values:
        return f"none {what}"
    shown = sorted(values)[:5]
    more = f" and {len(values) - len(shown)} more" if len(values) > len(shown) else ""
    return f"{what}: {', '.join(shown)}{more}"
