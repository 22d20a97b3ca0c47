"""A first `aggregates.sql` and `features.sql`.

Belongs here: SQL as text, for a person to read and change. Does not: which columns may be features
(`leaks.py`), running it (`incremental/transform.py`).
"""

import re
from collections.abc import Iterable
from functools import cache

import duckdb

from ml_patterns.onboarding.leaks import Feature
from ml_patterns.onboarding.proposal import Proposal
from ml_patterns.onboarding.sample import Column
from ml_patterns.storage.sql import quoted

_REQUIRED = ("event_id", "event_time", "region", "label")
_OF_LABELS = ("labels_known", "labels_true")
_OF_AGGREGATES = ("partition_start", "region", "events", *_OF_LABELS)

_AGGREGATES = """\
-- One {grain} of events, summed up per region.
--
-- Sees `events`: the events of this {grain} (UTC), each in its newest version.
-- Only counts, and sums of whole or decimal numbers: adding them up again gives the same bits in
-- any order; shares and averages are taken from them where they are needed (features.sql).
-- What comes from labels is listed in `aggregates.label_columns`: features see it only when the
-- label is sure to be known.

SELECT
    {columns}
FROM events
GROUP BY {region}
"""

_FEATURES = """\
-- What is known of an event when it happens.
--
-- Sees `events`: the events of this {grain} (UTC), each in its newest version; `aggregates`: the
-- rows of aggregates.sql for the {window} {grain}s before it, label columns NULL where labels are
-- still coming in. Nothing but the event's own row is taken from its own {grain}.
-- What is known only later is no feature, whatever it would do for the accuracy.

WITH recent AS (
    SELECT
        {recent}
    FROM aggregates
    GROUP BY region
)

SELECT
    {keys},
{own}
    -- its time (UTC)
    {times},

    -- its region, in the {window} {grain}s before
    {before}
FROM {events} AS event
LEFT JOIN recent ON recent.region = event.{region}
"""


def aggregates_sql(proposal: Proposal) -> str:
    """One partition summed up per region."""
    label, region = _label(proposal), name_in_sql(proposal["region"])
    columns = [
        _as(region, "region"),
        "count(*) AS events",
        f"count({label}) AS labels_known",
        f"count(*) FILTER (WHERE {label}) AS labels_true",
    ]
    for column, alias in _sums(proposal):
        columns += [f"{_total(column)} AS {alias}_sum", f"{_known(column)} AS {alias}_known"]
    return _AGGREGATES.format(grain=proposal["grain"], columns=_list(columns, 4), region=region)


def label_columns(proposal: Proposal) -> list[str]:
    """Columns of aggregates.sql that are known only when the labels are."""
    if not proposal.late:
        return list(_OF_LABELS)
    sums = [f"{alias}_{what}" for _, alias in _sums(proposal) for what in ("sum", "known")]
    return ["events", *_OF_LABELS, *sums]


def features_sql(proposal: Proposal) -> str:
    """One row per event: what is known of it when it happens."""
    names, back = _Names(_REQUIRED), f"{proposal['window']}{proposal['grain'][0]}"
    own = [
        f"    {_as(_value(feature), names.new(feature.column.name))},"
        for feature in proposal.features
    ]
    out = [f"    -- {' '.join(e.column.split())}: {e.why}" for e in proposal.left_out]
    time = f"event.{name_in_sql(proposal['time'])}"
    times = [f"hour({time}) AS {names.new('hour_of_day')}",
             f"isodow({time}) AS {names.new('weekday')}"]  # fmt: skip
    recent = [
        "region",
        "CAST(sum(events) AS BIGINT) AS events",
        "sum(labels_true) / nullif(sum(labels_known), 0) AS label_share",
    ]
    before = [f"recent.events AS {names.new(f'events_{back}')}",
              f"recent.label_share AS {names.new(f'label_share_{back}')}"]  # fmt: skip
    for _, alias in _sums(proposal):
        recent.append(f"sum({alias}_sum) / nullif(sum({alias}_known), 0) AS {alias}_mean")
        before.append(f"recent.{alias}_mean AS {names.new(f'{alias}_{back}')}")
    label, events = f"event.{name_in_sql(proposal['label'])}", "events"
    if not proposal.label_is_column:
        label, events = "event.is_true", f"(SELECT *, {proposal.label} AS is_true FROM events)"
    keys = [f"event.{name_in_sql(proposal['id'])}", time,
            f"event.{name_in_sql(proposal['region'])}", label]  # fmt: skip
    return _FEATURES.format(
        grain=proposal["grain"],
        window=proposal["window"],
        keys=_list([_as(value, name) for value, name in zip(keys, _REQUIRED, strict=True)], 4),
        region=name_in_sql(proposal["region"]),
        events=events,
        recent=_list(recent, 8),
        own=_section("the event", own) + _section("left out", out),
        times=_list(times, 4),
        before=_list(before, 4),
    )


class _Names:
    """Names of a result's columns: each once, and none that SQL or LightGBM would not take."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {*taken}

    def new(self, wanted: str) -> str:
        """A name like the wanted one."""
        plain = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_").lower()
        if not re.match(r"[a-z]", plain) or plain in _reserved():
            plain = f"c_{plain}"
        free = (f"{plain}_{number}" if number else plain for number in range(10_000))
        name = next(name for name in free if name not in self._taken)
        self._taken.add(name)
        return name


def _sums(proposal: Proposal) -> list[tuple[Column, str]]:
    """What is summed up, under which name."""
    names = _Names(_OF_AGGREGATES)
    return [(column, names.new(column.name)) for column in proposal.sums]


def _total(column: Column) -> str:
    """Adding up binary fractions gives other bits in another order; decimals do not."""
    if column.is_whole:
        return f"CAST(sum(CAST({name_in_sql(column.name)} AS BIGINT)) AS BIGINT)"
    return f"sum({_decimal(column)})"


def _known(column: Column) -> str:
    return f"count({name_in_sql(column.name) if column.is_whole else _decimal(column)})"


def _decimal(column: Column) -> str:
    return f"TRY_CAST({name_in_sql(column.name)} AS DECIMAL(18, 3))"


def _value(feature: Feature) -> str:
    """A feature; a number that names something becomes a text, so that it is a category."""
    name = f"event.{name_in_sql(feature.column.name)}"
    as_text = feature.category and not feature.column.is_text
    return f"CAST({name} AS VARCHAR)" if as_text else name


def _as(value: str, name: str) -> str:
    return value if value.rsplit(".", 1)[-1] == name else f"{value} AS {name}"


def _label(proposal: Proposal) -> str:
    """The label's SQL, without quotes that a plain name does not need."""
    plain = proposal.label == quoted(proposal["label"])
    return name_in_sql(proposal["label"]) if plain else proposal.label


def _list(parts: list[str], indent: int) -> str:
    return f",\n{' ' * indent}".join(parts)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join(["", f"    -- {title}", *lines, ""]) if lines else ""


def name_in_sql(name: str) -> str:
    """A column, in quotes only where it needs them."""
    plain = re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) and name.lower() not in _reserved()
    return name if plain else quoted(name)


@cache
def _reserved() -> frozenset[str]:
    """DuckDB's words that cannot be names as they are."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        ).fetchall()
    return frozenset(row[0] for row in rows)
