"""Which column is the id, the time, the version, the region and the label.

Belongs here: guesses from names and from the data, each with its reason. Does not: how late rows
are (`timing.py`), what may be a feature (`leaks.py`).

The data counts more than the name: an id has many values, an event time stays as it is while the
version moves on and is never before it, a label is empty at first and filled in later.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from ml_patterns.errors import UserError
from ml_patterns.onboarding.sample import Column, Sample
from ml_patterns.storage.sql import quoted

_ID = re.compile(r"(^|_)(uu|gu)?id$|(^|_)(key|number|no|nr|ref|reference)$", re.I)
_VERSION = re.compile(
    r"record|updat|modif|chang|version|ingest|load|land|insert|known|receiv|arriv|extract|sync",
    re.I,
)
_TIME = re.compile(
    r"event|occur|happen|start|order|pick|schedul|depart|stamp|^ts$|^time|creat|placed|book|begin",
    re.I,
)
_REGIONS = (
    "region", "country", "market", "state", "site", "plant", "store", "shop", "branch", "city",
    "area", "zone", "dest", "location", "hub", "warehouse", "airport", "station", "depot",
    "tenant", "channel", "segment", "origin",
)  # fmt: skip
_LABEL = re.compile(
    r"label|target|outcome|^y$|late|cancel|churn|fraud|return|refund|click|convert|default|success"
    r"|fail|won|accept|reject|delay|no_?show|complain|escalat|renew",
    re.I,
)
_NUMBERED = re.compile(r"(^|_)(id|key|code|no|nr|number)$|^[a-z]+$", re.I)
_MANY = 0.2  # distinct ids per row: an event has a few versions, not dozens
_MOST_REGIONS = 1000
_USUAL_REGIONS = 50


@dataclass(frozen=True)
class Guess:
    """What a setting should say, and why.

    Attributes:
        others: what it could be instead.
        given: the user said so.
    """

    setting: str
    value: str
    why: str
    others: tuple[str, ...] = ()
    given: bool = False


@dataclass(frozen=True)
class Missing:
    """What could not be guessed, and why."""

    setting: str
    why: str


Found = Guess | Missing


def option(setting: str) -> str:
    """The command's option that gives a setting."""
    return f"--{setting.replace('_', '-')}"


def given(sample: Sample, setting: str, name: str) -> Guess:
    """A column that the user named.

    Raises:
        UserError: there is none of that name.
    """
    if name not in sample.columns:
        raise UserError(
            f"{option(setting)} names {name}, which is no column of the events; they have "
            f"{', '.join(sample.columns)}"
        )
    return Guess(setting, name, "you said so", given=True)


def guess_id(sample: Sample) -> Found:
    """The column that identifies an event."""
    able = [
        column
        for column in sample.columns.values()
        if (column.is_text or column.is_whole or column.type == "UUID")
        and column.values >= max(2, _MANY * column.rows)
        and column.rows >= sample.rows / 2
    ]
    named = [column for column in able if _ID.search(column.name)]
    if named:
        best = max(named, key=lambda column: column.values)
        what = "its name says so"
    else:
        unique = [c for c in able if c.values == c.rows and not c.is_whole]
        if not unique:
            return Missing("id", "no column is named like an id and has a value of its own for "
                           "each event")  # fmt: skip
        best, what = unique[0], "no two rows share a value"
    others = tuple(column.name for column in named if column is not best)
    return Guess("id", best.name, f"{what}; {best.values:,} values in {best.rows:,} rows", others)


def guess_times(
    sample: Sample, identity: str, time: Guess | None, version: Guess | None
) -> tuple[Found, Found]:
    """When an event happened, and when a row of it became known."""
    able = [c for c in sample.columns.values() if c.is_time and c.rows >= sample.rows * 0.95]
    names = [column.name for column in able]
    times = [time.value] if time else [n for n in names if not version or version.value != n]
    versions = [version.value] if version else names
    if not times:
        return Missing("time", _no_time(sample)), version or Missing("version", "there is no time")
    varying = _varying(sample, identity, {*times, *versions})
    pairs = [(t, v) for t in times for v in versions if t != v]
    scores = {pair: _pair_score(sample, *pair, varying) for pair in pairs}
    best = max(scores, key=lambda pair: scores[pair], default=None)
    if best is None or (scores[best] < 0 and not (time and version)):
        chosen = time or Guess("time", times[0], "it is the time that every row has")
        if version:
            return chosen, version
        why = f"no other time is always after {chosen.value}: a correction cannot be told from "
        return chosen, Guess("version", chosen.value, why + "the event's first row")
    first, second = best
    others = tuple(name for name in names if name not in best)
    move = varying.get(second)
    because = f"never before {first}" if sample.share(_after(*best)) == 1 else f"after {first}"
    if move is not None:
        because += f", and differs between the rows of {move:.0%} of the repeated events"
    return (
        time or Guess("time", first, "stays as it is in all rows of an event" if move is not None
                      else "the earlier of its times", others),
        version or Guess("version", second, because, others),
    )  # fmt: skip


def _no_time(sample: Sample) -> str:
    numbers = [c.name for c in sample.columns.values() if c.is_whole and _TIME.search(c.name)]
    hint = f"; {', '.join(numbers)} would have to land as a timestamp" if numbers else ""
    return f"no column holds a time in nearly every row{hint}"


def _after(time: str, version: str) -> str:
    return f"{quoted(version)} >= {quoted(time)}"


def _varying(sample: Sample, identity: str, names: Iterable[str]) -> dict[str, float]:
    """Of events with several distinct rows, the share in which a column differs; empty if none."""
    columns = sorted(set(names))
    differing = ", ".join(
        f"avg(CAST(many > 1 AS INTEGER)) FILTER (seen = {place})" for place, _ in enumerate(columns)
    )
    counted = " UNION ALL ".join(
        f"SELECT {place} AS seen, count(DISTINCT {quoted(name)}) AS many "
        f"FROM rows WHERE {quoted(identity)} IS NOT NULL GROUP BY {quoted(identity)} "
        "HAVING count(*) > 1"
        for place, name in enumerate(columns)
    )
    row = sample.one(f"SELECT {differing} FROM ({counted})")
    return {n: float(str(v)) for n, v in zip(columns, row, strict=True) if v is not None}


def _pair_score(sample: Sample, time: str, version: str, varying: Mapping[str, float]) -> float:
    """How well two columns fit as event time and version; below 0: they do not."""
    after = sample.share(_after(time, version))
    score = 3.0 if after >= 0.99 else 0.0 if after >= 0.95 else -10.0
    score += 2 * (varying.get(version, 0) - varying.get(time, 0))
    score += 2.0 * bool(_VERSION.search(version)) - 2.0 * bool(_VERSION.search(time))
    return score + bool(_TIME.search(time)) - bool(_TIME.search(version))


def guess_region(sample: Sample, taken: Sequence[str]) -> Found:
    """The column that says which model an event belongs to."""
    able = [
        column
        for column in sample.columns.values()
        if column.name not in taken
        and (column.is_text or (column.is_whole and _NUMBERED.search(column.name)))
        and 2 <= column.values <= _MOST_REGIONS
        and column.rows >= sample.rows * 0.8
    ]
    named = sorted((c for c in able if _rank(c) is not None), key=lambda c: _rank(c) or 0)
    if named:
        best, *rest = named
        return Guess("region", best.name, f"its name says so; {best.values:,} values",
                     tuple(column.name for column in rest))  # fmt: skip
    texts = [c for c in able if c.is_text and c.values <= _USUAL_REGIONS]
    if not texts:
        return Missing("region", f"no text has between 2 and {_USUAL_REGIONS} values")
    best = max(texts, key=lambda column: column.values)
    others = tuple(column.name for column in texts if column is not best)
    why = f"no name says region; of the texts with few values it has the most ({best.values})"
    return Guess("region", best.name, why, others)


def _rank(column: Column) -> int | None:
    """Place of a name among those that regions have."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", column.name).lower())
    return next((rank for rank, name in enumerate(_REGIONS) if any(map(_like(name), words))), None)


def _like(name: str) -> Callable[[str], bool]:
    return lambda word: word == name or word.startswith(name)


def guess_label(sample: Sample, taken: Sequence[str], filled: Mapping[str, float]) -> Found:
    """The column that a model should foretell: true or false.

    Args:
        filled: of events with several versions, the share in which a column was empty at first.
    """
    scores = {
        column.name: score
        for column in sample.columns.values()
        if column.name not in taken and (score := _label_score(sample, column, filled)) > 0
    }
    if not scores:
        return Missing("label", "no column is true or false in both ways; name one, or say a "
                       "condition such as 'minutes > 30'")  # fmt: skip
    best = max(reversed(scores), key=lambda name: scores[name])
    why = "true or false"
    if filled.get(best, 0) >= 0.5:
        why += f"; empty in the first row of {filled[best]:.0%} of the repeated events"
    elif _LABEL.search(best):
        why += ", and its name says so"
    others = tuple(name for name in scores if name != best)
    return Guess("label", best, why, others)


def _label_score(sample: Sample, column: Column, filled: Mapping[str, float]) -> float:
    as_boolean = f"TRY_CAST({quoted(column.name)} AS BOOLEAN)"
    if column.type == "BOOLEAN":
        score = 2.0
    elif (column.is_whole or column.is_text) and column.values == 2:
        odd = f"{quoted(column.name)} IS NOT NULL AND {as_boolean} IS NULL"
        if column.is_whole:
            odd = f"{quoted(column.name)} NOT IN (0, 1)"
        if sample.share(odd) > 0:
            return 0.0
        score = 1.0
    else:
        return 0.0
    if column.values < 2:
        return 0.0
    score += 5 * (filled.get(column.name, 0) >= 0.5) + 3 * bool(_LABEL.search(column.name))
    return score + 2 * (column.rows < sample.rows)  # not known of every event


def label_condition(sample: Sample, label: str) -> str:
    """The label as SQL over `rows`: a column, or the user's condition.

    Raises:
        UserError: it is neither.
    """
    if label in sample.columns:
        column = sample.columns[label]
        sql = quoted(label) if column.type == "BOOLEAN" else f"CAST({quoted(label)} AS BOOLEAN)"
    else:
        sql = f"CAST(({label}) AS BOOLEAN)"
    try:
        sample.connection.execute(f"SELECT count({sql}) FROM rows").fetchone()
    except duckdb.Error as error:
        raise UserError(
            f"--label {label!r} is neither a column nor a condition on the columns "
            f"{', '.join(sample.columns)}: {str(error).splitlines()[0]}"
        ) from error
    return sql
