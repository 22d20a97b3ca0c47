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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import duckdb

from ml_patterns.incremental import ledger
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

Layer = Literal["aggregates", "features"]
LAYERS: tuple[Layer, ...] = ("aggregates", "features")

_TOKEN = re.compile(
    r"(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)|--[^\n]*|(?P<comment>/\*)|\s+",
    re.DOTALL,
)
_COMMENT_MARK = re.compile(r"/\*|\*/")


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


def normalised(sql: str) -> str:
    """SQL without comments and superfluous white space: a changed comment restates nothing."""
    parts: list[str] = []
    position = 0
    while token := _TOKEN.search(sql, position):
        parts += [sql[position : token.start()], token["text"] or " "]
        position = _comment_end(sql, token.start()) if token["comment"] else token.end()
    parts = [part for part in (*parts, sql[position:]) if part]
    once = [part for n, part in enumerate(parts) if part != " " or parts[n - 1 : n] != [" "]]
    return "".join(once).strip().rstrip(";").strip()


def _comment_end(sql: str, start: int) -> int:
    """Comments nest in DuckDB as in PostgreSQL."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(sql, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def code_of(settings: PipelineSettings, layer: Layer) -> str:
    """Hashes of a layer's SQL and of the settings that change its values: `<SQL>/<settings>`."""
    if layer == "aggregates":
        sql, values = settings.aggregates_sql, [ledger.reading_of(settings.events)]
    else:
        sql = settings.features_sql
        values = [
            ledger.reading_of(settings.events),
            str(settings.aggregates.window),
            ",".join(sorted(settings.aggregates.label_columns)),
            str(settings.events.label_delay),
            ",".join(table.name for table in settings.external),
        ]
    return f"{_short(normalised(sql))}/{_short(*values)}"


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def plan(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer, now: datetime
) -> list[DuePartition]:
    """The partitions of a layer that must be computed, oldest first.

    A feature partition waits until the aggregates in its window are built. A partition that has
    not ended by `now` is not Dagster's yet and waits, too.
    """
    if not ledger.exists(connection, settings.name):
        return []
    compare(connection, settings, layer)
    rows = connection.execute(
        f"""
        SELECT partition_start, rows, corrected, built_events IS NULL,
            events IS DISTINCT FROM built_events,
            split_part(code, '/', 1) IS DISTINCT FROM split_part(built_code, '/', 1),
            split_part(code, '/', 2) IS DISTINCT FROM split_part(built_code, '/', 2),
            split_part(upstream, '/', 1) IS DISTINCT FROM split_part(built_upstream, '/', 1),
            events, code, upstream
        FROM _{layer} WHERE due AND pending = 0
            AND partition_start + {Grain(settings.events.grain).interval} <= ?
        ORDER BY partition_start
        """,
        [naive(now)],
    ).fetchall()
    return [DuePartition(row[0], _reason(*row[1:8]), row[1], Wanted(*row[8:])) for row in rows]


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
    compare(connection, settings, layer)
    rows = connection.execute(
        f"SELECT partition_start, events, code, upstream FROM _{layer} "
        "WHERE list_contains(?::TIMESTAMP[], partition_start)",
        [list(partitions)],
    ).fetchall()
    return {row[0]: Wanted(*row[1:]) for row in rows}


def compare(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> None:
    """Makes the temporary table `_<layer>`: per partition what is wanted and what is built.

    Every partition counts that has accepted rows, was built before, or lies wholly below the
    watermark (then without rows: a gap is built empty).
    """
    schema, events = quoted(settings.name), settings.events
    grain = Grain(events.grain)
    mark = ledger.watermark(connection, settings)
    last = None if mark is None else grain.floor(mark) - grain.length
    if last is not None and events.end_time is not None:
        last = min(last, naive(events.end_time) - grain.length)
    if layer == "features":
        compare(connection, settings, "aggregates")
        upstream = _upstream(connection, settings)
    else:
        upstream = "SELECT NULL::TIMESTAMP AS partition_start, '-' AS upstream, 0 AS pending"
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE _{layer} AS
        WITH held AS (
            SELECT partition_start, sum(rows)::BIGINT AS rows,
                md5(string_agg(fingerprint || ':' || rows, ',' ORDER BY fingerprint, rows))
                    AS events
            FROM {schema}.entries WHERE counts GROUP BY partition_start
        ), corrections AS (
            -- Files that were corrected or let go, and when.
            SELECT path, max(registered_at) AS corrected_at
            FROM {schema}.source_files WHERE state IN ('read', 'removed')
            GROUP BY path HAVING count(*) > 1
        ), corrected AS (
            SELECT partition_start, max(corrected_at) AS corrected_at
            FROM {schema}.partition_manifest
            JOIN {schema}.source_files USING (revision) JOIN corrections USING (path)
            GROUP BY partition_start
        ), computed AS (
            SELECT partition_start, max(computed_at) AS computed_at
            FROM {schema}.run_cost WHERE layer = '{layer}' GROUP BY partition_start
        ), named AS (
            SELECT partition_start FROM held
            UNION SELECT unnest(generate_series(
                {timestamp(events.start_time)}, {timestamp(last)}, {grain.interval}))
            UNION SELECT partition_start FROM {schema}.partition_state WHERE events IS NOT NULL
        ), built AS (
            SELECT * FROM {schema}.partition_state WHERE layer = '{layer}'
        ), upstream AS ({upstream})
        SELECT partition_start, coalesce(rows, 0) AS rows,
            coalesce(corrected_at >= computed_at, FALSE) AS corrected,
            coalesce(held.events, 'none') AS events,
            '{code_of(settings, layer)}' AS code,
            coalesce(upstream.upstream, '-') AS upstream,
            built.events AS built_events, built.code AS built_code,
            built.upstream AS built_upstream,
            (coalesce(held.events, 'none'), '{code_of(settings, layer)}',
                coalesce(upstream.upstream, '-'))
                IS DISTINCT FROM (built.events, built.code, built.upstream) AS due,
            coalesce(pending, 0) AS pending
        FROM named LEFT JOIN held USING (partition_start) LEFT JOIN built USING (partition_start)
        LEFT JOIN upstream USING (partition_start) LEFT JOIN corrected USING (partition_start)
        LEFT JOIN computed USING (partition_start)
        """
    )


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
        SELECT a.partition_start, coalesce(hash::VARCHAR, '-') || '/' || {external} AS upstream,
            pending
        FROM (
            SELECT partition_start, sum(due::BIGINT) OVER in_window AS pending,
                sum(md5_number_lower(partition_start || built_events || built_code))
                    OVER in_window AS hash
            FROM _aggregates
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
