"""Which columns may be features, and why the others may not.

Belongs here: what the data gives away about a column. Does not: writing SQL (`writing.py`).

What is known only after the event must not be a feature: a model that has seen it looks brilliant
in training and knows nothing when it is asked. In doubt a column is left out, with the reason
beside it, so that a person can put it back.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_patterns.onboarding.sample import Column, Sample
from ml_patterns.storage.sql import quoted

TELLING = 0.98
"""AUC from which a column alone is taken to know the label (the gate asks a human from 0.99)."""

_LATER = re.compile(
    r"actual|final|outcome|result|resol|closed|complet|deliver|arriv|return|refund|cancel|label",
    re.I,
)
_MOST_CATEGORIES = 200
_ROWS_OF_CATEGORY = 50
_MOST_SUMS = 4
_CHANGING = 0.05
_ALMOST_ALWAYS = 0.999
_CODE = re.compile(r"(^|_)(id|key|code|no|nr|number)$", re.I)


@dataclass(frozen=True)
class Feature:
    """A column that is known when the event happens; whole numbers may be a category."""

    column: Column
    category: bool


@dataclass(frozen=True)
class LeftOut:
    """A column that is no feature, and why.

    Attributes:
        later: because it is known only after the event.
    """

    column: str
    why: str
    later: bool


def changed(sample: Sample, identity: str) -> tuple[dict[str, float], dict[str, float]]:
    """How columns differ between the first and the last row of events that have several versions.

    Returns:
        Column -> share of those events in which it differs, and in which it was empty at first;
        both empty where no event has several versions.
    """
    names = list(sample.columns)
    differ = [f"o.{quoted(name)} IS DISTINCT FROM n.{quoted(name)}" for name in names]
    filled = [f"o.{quoted(name)} IS NULL AND n.{quoted(name)} IS NOT NULL" for name in names]
    shares = ", ".join(f"avg(CAST({condition} AS INTEGER))" for condition in differ + filled)
    row = sample.one(
        f"SELECT {shares} FROM oldest o JOIN newest n USING ({quoted(identity)}) "
        "WHERE o._version < n._version"
    )
    if row[0] is None:
        return {}, {}
    values = [float(str(value)) for value in row]
    count = len(names)
    return (
        dict(zip(names, values[:count], strict=True)),
        dict(zip(names, values[count:], strict=True)),
    )


def sort_out(
    sample: Sample, taken: Mapping[str, str], label: str, differing: Mapping[str, float]
) -> tuple[list[Feature], list[LeftOut]]:
    """Every other column, as a feature or left out.

    Args:
        taken: role -> column of id, time, version, region; and `label` where it is one.
        label: SQL of the label.
        differing: of events with several versions, the share in which a column differs.
    """
    features: list[Feature] = []
    left_out: list[LeftOut] = []
    of_label = _named_in(label, sample)
    for name, column in sample.columns.items():
        if name in taken.values():
            continue
        later = _known_later(sample, column, label, of_label, differing)
        unfit = _unfit(sample, column)
        if later or unfit:
            left_out.append(LeftOut(name, later or unfit or "", later is not None))
        else:
            features.append(Feature(column, _is_category(column)))
    return features, left_out


def _named_in(label: str, sample: Sample) -> set[str]:
    """Columns that the label's SQL speaks of."""
    return {
        name
        for name in sample.columns
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", label, re.I)
    }


def _known_later(
    sample: Sample,
    column: Column,
    label: str,
    of_label: set[str],
    differing: Mapping[str, float],
) -> str | None:
    """Why a column is taken to be known only after the event."""
    name, sql = column.name, quoted(column.name)
    if name in of_label:
        return "the label is made of it"
    if differing.get(name, 0) > _CHANGING:
        return f"it changes in {differing[name]:.0%} of the events that have several versions"
    together = sample.share(f"({sql} IS NULL) = ({label} IS NULL)", "newest")
    if together >= _ALMOST_ALWAYS and sample.share(f"{label} IS NULL", "newest") > 0:
        return "it is empty exactly where the label is"
    (values,) = sample.one(f"SELECT count(DISTINCT {sql}) FROM newest WHERE {label} IS NOT NULL")
    if int(str(values)) == 1 and column.values > 1:
        return "it has one value wherever the label is known"
    if _can_tell(column):
        auc = _auc(sample, column, label)
        if auc is not None and auc >= TELLING:
            return f"alone it tells the label (AUC {auc:.3f})"
    return "its name sounds like an outcome" if _LATER.search(name) else None


def _can_tell(column: Column) -> bool:
    """With few rows in each, categories would tell any label."""
    plain = column.is_number or column.type == "BOOLEAN"
    return plain or column.values <= min(_MOST_CATEGORIES, column.rows / _ROWS_OF_CATEGORY)


def _auc(sample: Sample, column: Column, label: str) -> float | None:
    """How well a column alone separates the labels: the area under the ROC curve, 0.5 to 1.

    By the sum of ranks (Mann-Whitney); a category counts as the share of its rows that are true.
    """
    sql = quoted(column.name)
    plain = column.is_number or column.type == "BOOLEAN"
    score = f"CAST({sql} AS DOUBLE)" if plain else f"avg(positive) OVER (PARTITION BY {sql})"
    positives, negatives, ranks = sample.one(
        f"""
        SELECT sum(positive), sum(1 - positive), sum(place) FILTER (positive = 1) FROM (
            SELECT positive, rank() OVER (ORDER BY score)
                + (count(*) OVER (PARTITION BY score) - 1) / 2.0 AS place
            FROM (
                SELECT positive, {score} AS score FROM (
                    SELECT CAST({label} AS INTEGER) AS positive, {sql}
                    FROM newest WHERE {label} IS NOT NULL AND {sql} IS NOT NULL
                )
            )
        )
        """
    )
    if not positives or not negatives:
        return None
    ones, zeros = float(str(positives)), float(str(negatives))
    area = (float(str(ranks)) - ones * (ones + 1) / 2) / (ones * zeros)
    return max(area, 1 - area)


def _is_category(column: Column) -> bool:
    """A text, or a whole number that is a name rather than a quantity."""
    return column.is_text or (column.is_whole and bool(_CODE.search(column.name)))


def _unfit(sample: Sample, column: Column) -> str | None:
    """Why a column that is known in time is no feature as it is."""
    if column.rows == 0:
        return "it is empty"
    if column.values == 1 and column.rows == sample.rows:
        return "it has one value"
    if column.is_time:
        return "a time; take what is known of it when the event happens"
    if _is_category(column) and column.values > min(_MOST_CATEGORIES, max(2, sample.rows / 2)):
        return f"{column.values:,} values are too many for a category"
    if not (column.is_number or column.is_text or column.type == "BOOLEAN"):
        return f"{column.type} is neither a number nor a category"
    return None


def worth_summing(features: Sequence[Feature]) -> list[Column]:
    """The first few quantities, for the aggregates."""
    return [f.column for f in features if f.column.is_number and not f.category][:_MOST_SUMS]
