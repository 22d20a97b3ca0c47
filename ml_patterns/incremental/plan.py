"""What is due in a layer, decided on the ledger alone.

Belongs here: comparing what each partition should be built from with what it was built from. Does
not: building (`build.py`), asking Dagster for runs (`sensors.py`).

A partition is described by three hashes. `events`: the accepted manifest entries; `code`: the
normalised SQL and the settings that change values; `upstream` (features only): the aggregates in
the window, as they were built, and the external tables of its day. It is due when one of them
differs from what was built. The command line, the sensor, the schedule and the reconciliation
after a crash all ask this module.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import duckdb

from ml_patterns.incremental import ledger
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.layer_code import code_of
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

Layer = Literal["aggregates", "features"]
LAYERS: tuple[Layer, ...] = ("aggregates", "features")


@dataclass(frozen=True)
class Wanted:
    """What a partition should be built from; equal to what was built when nothing is due."""

    events: str
    code: str
    upstream: str


@dataclass(frozen=True)
class DuePartition:
    """A partition that must be computed, and why.

    Attributes:
        partition: first instant, UTC.
        reason: `new`, `gap`, `late rows`, `corrected file`, `code`, `settings`, `aggregates` or
            `external`.
        rows: accepted rows that computing it reads.
        want: what it should be built from.
    """

    partition: datetime
    reason: str
    rows: int
    want: Wanted


def plan(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer, now: datetime
) -> list[DuePartition]:
    """The partitions of a layer that must be computed, oldest first.

    A feature partition waits until the aggregates in its window are built. A partition that has
    not ended by `now` is not Dagster's yet and waits, too.
    """
    return _chosen(connection, settings, layer, now, "due AND pending = 0")


def following(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, now: datetime
) -> list[DuePartition]:
    """The feature partitions that become due once the aggregates in their windows are built."""
    return _chosen(connection, settings, "features", now, "pending > 0")


def _chosen(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    now: datetime,
    condition: str,
) -> list[DuePartition]:
    if not ledger.exists(connection, settings.name):
        return []
    rows = connection.execute(
        f"""
        SELECT partition_start, rows, built_events IS NULL, events IS DISTINCT FROM built_events,
            split_part(code, '/', 1) IS DISTINCT FROM split_part(built_code, '/', 1),
            split_part(code, '/', 2) IS DISTINCT FROM split_part(built_code, '/', 2),
            pending > 0
                OR split_part(upstream, '/', 1) IS DISTINCT FROM split_part(built_upstream, '/', 1),
            events, code, upstream
        FROM ({compared(connection, settings, layer)}) WHERE {condition}
            AND partition_start + {Grain(settings.events.grain).interval} <= ?
        ORDER BY partition_start
        """,
        [naive(now)],
    ).fetchall()
    restated = [row[0] for row in rows if row[3] and not row[2]]
    corrected = _corrected(connection, settings, layer, restated) if restated else set()
    return [
        DuePartition(
            row[0], _reason(row[1], row[0] in corrected, *row[2:7]), row[1], Wanted(*row[7:])
        )
        for row in rows
    ]


def _corrected(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
) -> set[datetime]:
    """Those of some partitions in which a file was corrected or let go since they were built."""
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        WITH corrections AS (
            SELECT path, max(registered_at) AS corrected_at
            FROM {schema}.source_files WHERE state IN ('read', 'removed')
            GROUP BY path HAVING count(*) > 1
        ), computed AS (
            SELECT partition_start, max(computed_at) AS computed_at
            FROM {schema}.run_cost WHERE layer = ? GROUP BY partition_start
        )
        SELECT DISTINCT partition_start
        FROM {schema}.partition_manifest JOIN {schema}.source_files USING (revision)
        JOIN corrections USING (path) JOIN computed USING (partition_start)
        WHERE corrected_at >= computed_at
            AND partition_start IN (SELECT unnest(?::TIMESTAMP[]))
        """,
        [layer, list(partitions)],
    ).fetchall()
    return {row[0] for row in rows}


def fingerprint(due: Sequence[DuePartition]) -> str:
    """Hash of what is due: the same again means that a request was not carried out."""
    parts = [f"{d.partition}{d.want.events}{d.want.code}{d.want.upstream}" for d in due]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def external_days(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> dict[str, list[datetime]]:
    """Per external table, the days with events (first instants, UTC) that no answer covers yet."""
    if not settings.external or not ledger.exists(connection, settings.name):
        return {}
    schema = quoted(settings.name)
    answered = "SELECT NULL::TIMESTAMP AS partition_start WHERE ? IS NULL"
    if has_table(connection, settings.name, "external_responses"):
        answered = f"SELECT partition_start FROM {schema}.external_responses WHERE name = ?"
    return {
        table.name: [
            row[0]
            for row in connection.execute(
                f"SELECT DISTINCT date_trunc('day', partition_start)::TIMESTAMP AS day "
                f"FROM {schema}.entries WHERE counts "
                f"AND day NOT IN ({answered}) ORDER BY day",
                [table.name],
            ).fetchall()
        ]
        for table in settings.external
    }


def _reason(
    rows: int,
    corrected: bool,
    unbuilt: bool,
    events: bool,
    code: bool,
    settings: bool,
    aggregates: bool,
) -> str:
    if unbuilt:
        return "new" if rows else "gap"
    if events:
        return "corrected file" if corrected else "late rows"
    if code or settings:
        return "code" if code else "settings"
    return "aggregates" if aggregates else "external"


def wanted(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
) -> dict[datetime, Wanted]:
    """What some partitions of a layer should be built from, by their first instants."""
    rows = connection.execute(
        "SELECT partition_start, events, code, upstream "
        f"FROM ({compared(connection, settings, layer)}) "
        "WHERE partition_start IN (SELECT unnest(?::TIMESTAMP[]))",
        [list(partitions)],
    ).fetchall()
    return {row[0]: Wanted(*row[1:]) for row in rows}


def compared(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> str:
    """A SELECT that says of each partition of a layer what is wanted, what is built, what is due.

    Every partition counts that has accepted rows, was built before, or lies wholly below the
    watermark (then without rows: a gap is built empty), from `events.start` to `events.end`.
    """
    schema, events = quoted(settings.name), settings.events
    grain = Grain(events.grain)
    mark = ledger.watermark(connection, settings)
    last = None if mark is None else grain.floor(mark) - grain.length
    if last is not None and events.end_time is not None:
        last = min(last, naive(events.end_time) - grain.length)
    inside = (
        f"partition_start >= {timestamp(events.start_time)} "
        f"AND partition_start < coalesce({timestamp(events.end_time)}, 'infinity')"
    )
    aggregates = f"""
        WITH held AS (
            SELECT partition_start, sum(rows)::BIGINT AS rows,
                md5(string_agg(fingerprint || ':' || rows, ',' ORDER BY fingerprint, rows))
                    AS events
            FROM {schema}.entries WHERE counts AND {inside} GROUP BY partition_start
        ), named AS (
            SELECT partition_start FROM held
            UNION FROM generate_series(
                {timestamp(events.start_time)}, {timestamp(last)}, {grain.interval})
            UNION SELECT partition_start FROM {schema}.partition_state
                WHERE events IS NOT NULL AND {inside}
        ), wanted AS (
            SELECT partition_start, coalesce(rows, 0) AS rows, coalesce(events, 'none') AS events
            FROM named LEFT JOIN held USING (partition_start)
        ), aggregates AS ({
        _against_built(
            settings, "aggregates", "SELECT *, '-' AS upstream, 0 AS pending FROM wanted"
        )
    })"""
    if layer == "aggregates":
        return f"{aggregates} FROM aggregates"
    features = _against_built(settings, "features", _upstream(connection, settings))
    return f"{aggregates}, features AS ({features}) FROM features"


def _against_built(settings: PipelineSettings, layer: Layer, wanted: str) -> str:
    """What is wanted beside what is built."""
    code = f"'{code_of(settings, layer)}'"
    return f"""
        SELECT w.partition_start, w.rows, w.events, {code} AS code, w.upstream,
            built.events AS built_events, built.code AS built_code,
            built.upstream AS built_upstream, w.pending,
            (w.events, {code}, w.upstream)
                IS DISTINCT FROM (built.events, built.code, built.upstream) AS due
        FROM ({wanted}) w LEFT JOIN (
            FROM {quoted(settings.name)}.partition_state WHERE layer = '{layer}'
        ) built USING (partition_start)
    """


def _upstream(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> str:
    """Per feature partition: `<aggregates in the window>/<externals of the day>`, and how many
    aggregates in the window are still due.

    The window's hash is a sum of hashes, so that it slides in linear time.
    """
    schema, grain = quoted(settings.name), Grain(settings.events.grain)
    external = "'-'"
    if settings.external and has_table(connection, settings.name, "external_responses"):
        external = (
            f"coalesce((SELECT string_agg(name || fingerprint, ',' ORDER BY name) "
            f"FROM {schema}.external_responses r "
            "WHERE r.partition_start = date_trunc('day', a.partition_start)), '-')"
        )
    return f"""
        SELECT a.partition_start, a.rows, a.events,
            coalesce(hash::VARCHAR, '-') || '/' || {external} AS upstream,
            coalesce(pending, 0) AS pending
        FROM (
            SELECT partition_start, rows, events, sum(due::BIGINT) OVER in_window AS pending,
                sum(md5_number_lower(partition_start || built_events || built_code))
                    OVER in_window AS hash
            FROM aggregates
            WINDOW in_window AS (
                ORDER BY partition_start
                RANGE BETWEEN {interval(grain.length * settings.aggregates.window)} PRECEDING
                    AND {interval(grain.length)} PRECEDING
            )
        ) a
    """


def interval(length: timedelta) -> str:
    """A span of time as an SQL interval."""
    return f"INTERVAL {int(length.total_seconds())} SECONDS"
