"""Questions that find a lost or doubled row.

Belongs here: comparing ledger, files and tables with each other. Does not: repairing (`build.py`
does, once a partition is due).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import duckdb

from ml_patterns.incremental import computing, files, ledger, loading, sources, transform
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.layer_code import code_of
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.incremental.plan import LAYERS, Layer, compared
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table


@dataclass(frozen=True)
class Discrepancy:
    """Something that should be equal and is not, as one sentence."""

    sentence: str


def data_checks(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> dict[str, bool]:
    """What the gate takes into a model's evidence; empty where there is no ledger to ask.

    Files are left out: one that is being landed again is no reason to reject a fleet.
    """
    if not ledger.exists(connection, settings.name):
        return {}
    return {"every_row_accounted_for": not _tables_against_ledger(connection, settings)}


def unaccounted_rows(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    """Looks for rows that no account explains; empty when every row is accounted for.

    Three sums are held against each other: the rows in the files of the latest listing against the
    manifest; a partition's accepted rows in the manifest against those that it was built from, and
    these against kept + superseded + duplicate; the kept events against the rows of
    `event_features`.
    """
    return [
        *_files_against_manifest(connection, settings),
        *_tables_against_ledger(connection, settings),
    ]


def _tables_against_ledger(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    found = _manifest_against_build(connection, settings)
    if has_table(connection, settings.name, "event_features"):
        found += _events_against_features(connection, settings)
    return found


def _files_against_manifest(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT path, f.size, f.tag, coalesce(sum(m.rows), 0)::BIGINT FROM {schema}.current_files f
        LEFT JOIN {schema}.partition_manifest m USING (revision)
        WHERE f.state = 'read' AND listing = (SELECT max(listing) FROM {schema}.source_files)
        GROUP BY ALL ORDER BY path
        """
    ).fetchall()
    found = []
    for path, size, tag, recorded in rows:
        try:
            delivered = sources.count_rows(connection, path)
        except duckdb.Error:
            continue  # gone since: `every_file_readable` speaks of it
        registered = loading.RegisteredFile(settings.name, path, size, tag)
        if delivered != recorded and not registered.problem():  # or it is being written again
            found.append(
                Discrepancy(f"{path} holds {delivered} rows, the manifest accounts for {recorded}")
            )
    return found


def _manifest_against_build(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    """The manifest is asked only about partitions that are built from what it says now."""
    schema = quoted(settings.name)
    found = []
    for layer in LAYERS:
        rows = connection.execute(
            f"""
            SELECT c.partition_start, held, accepted, kept, superseded, duplicate FROM (
                SELECT cost.*,
                    CASE WHEN now.events = now.built_events THEN now.rows ELSE accepted END AS held
                FROM {schema}.run_cost cost JOIN {schema}.partition_state
                    USING (layer, partition_start, generation)
                JOIN ({compared(connection, settings, layer)}) now USING (partition_start)
                WHERE layer = '{layer}'
            ) c
            WHERE held <> accepted OR accepted <> kept + superseded + duplicate ORDER BY ALL
            """
        ).fetchall()
        found += [
            Discrepancy(
                f"{layer} {partition} has {held} accepted rows in the manifest and was built from "
                f"{accepted}: kept {kept}, superseded {superseded}, dropped {duplicate} duplicates"
            )
            for partition, held, accepted, kept, superseded, duplicate in rows
        ]
    return found


def _events_against_features(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    """Only partitions that were built from the same events in both layers can be compared."""
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT c.partition_start, c.kept, coalesce(f.rows, 0)
        FROM {schema}.run_cost c
        JOIN {schema}.partition_state a USING (layer, partition_start, generation)
        JOIN {schema}.partition_state b ON b.layer = 'features'
            AND b.partition_start = c.partition_start AND b.events = a.events AND b.code = ?
        LEFT JOIN (
            SELECT partition_start, count(*) AS rows FROM {schema}.event_features GROUP BY ALL
        ) f ON f.partition_start = c.partition_start
        WHERE c.layer = 'aggregates' AND c.kept <> coalesce(f.rows, 0) ORDER BY ALL
        """,
        [code_of(settings, "features")],
    ).fetchall()
    return [
        Discrepancy(f"partition {row[0]} kept {row[1]} events, event_features holds {row[2]}")
        for row in rows
    ]


def closed_partitions(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    count: int,
    chance: random.Random,
) -> list[datetime]:
    """Some partitions, chosen at random, that lie below the watermark and are not due."""
    mark = ledger.watermark(connection, settings)
    if mark is None:
        return []
    rows = connection.execute(
        f"SELECT partition_start FROM ({compared(connection, settings, layer)}) WHERE NOT due "
        f"AND partition_start + {Grain(settings.events.grain).interval} <= ? ORDER BY ALL",
        [naive(mark)],
    ).fetchall()
    closed = [row[0] for row in rows]
    return sorted(chance.sample(closed, min(count, len(closed))))


def recompute_differences(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
) -> list[Discrepancy]:
    """Computes partitions again from the files and compares every row, bit for bit.

    Nothing is written. Partitions whose files are gone or changed cannot be compared and are told.
    """
    if not partitions:
        return []
    files.attach_filesystem(connection, settings.event_glob)
    transformation = transform.prepare(connection, settings, layer)
    table = f"{quoted(settings.name)}.{quoted('event_' + layer)}"
    columns = ", ".join(map(quoted, transformation.columns))
    problems: set[str] = set()
    found: list[Discrepancy] = []
    with computing.scratch(connection) as scratch:
        for loaded in loading.load(connection, settings, partitions, scratch):
            problems |= set(loaded.problems.values())
            for partition in loaded.counts:
                result = computing.compute(
                    connection, transformation, loaded, [partition], f"{scratch}._result"
                )
                if result.failure:
                    raise result.failure
                problems |= set(result.problems.values())
                if partition in result.rows:
                    found += _differences(
                        connection,
                        f"{layer} {Grain(settings.events.grain).key(partition)}",
                        f"SELECT {columns} FROM {table} "
                        f"WHERE partition_start = {timestamp(partition)}",
                        f"SELECT {columns} FROM {result.table}",
                    )
    return [*(Discrepancy(sentence) for sentence in sorted(problems)), *found]


def _differences(
    connection: duckdb.DuckDBPyConnection, name: str, here: str, again: str
) -> list[Discrepancy]:
    row = connection.execute(
        f"SELECT (SELECT count(*) FROM (({here}) EXCEPT ALL ({again}))), "
        f"(SELECT count(*) FROM (({again}) EXCEPT ALL ({here})))"
    ).fetchone()
    extra, missing = row or (0, 0)
    if not extra and not missing:
        return []
    return [
        Discrepancy(
            f"{name} holds {extra} rows that a recompute does not give "
            f"and lacks {missing} that it gives"
        )
    ]


def gaps(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> list[datetime]:
    """Partitions below the watermark that were never built in one of the layers."""
    mark = ledger.watermark(connection, settings)
    if mark is None:
        return []
    found: set[datetime] = set()
    for layer in LAYERS:
        rows = connection.execute(
            f"SELECT partition_start FROM ({compared(connection, settings, layer)}) "
            "WHERE built_events IS NULL "
            f"AND partition_start + {Grain(settings.events.grain).interval} <= ?",
            [naive(mark)],
        ).fetchall()
        found |= {row[0] for row in rows}
    return sorted(found)


def ids_with_many_times(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[str]:
    """Event ids that lie in more than one open partition: a version changed the event's time.

    Versions meet only within a partition, so that such an event counts twice.
    """
    if not has_table(connection, settings.name, "event_features"):
        return []
    mark = ledger.watermark(connection, settings)
    rows = connection.execute(
        f"SELECT event_id FROM {quoted(settings.name)}.event_features "
        f"WHERE partition_start + {Grain(settings.events.grain).interval} > "
        "coalesce(?::TIMESTAMP, TIMESTAMP '-infinity') "
        "GROUP BY event_id HAVING count(*) > 1 ORDER BY event_id",
        [mark and naive(mark)],
    ).fetchall()
    return [row[0] for row in rows]


def schema_changes(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    """How the columns of the latest listing's files differ from those of the file before them."""
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        WITH latest AS (SELECT max(listing) AS listing FROM {schema}.source_files), before AS (
            SELECT max(revision) AS revision FROM {schema}.current_files
            WHERE state = 'read' AND listing < (SELECT listing FROM latest)
        )
        SELECT path, columns, types FROM {schema}.current_files
        WHERE state = 'read' AND (
            listing = (SELECT listing FROM latest) OR revision = (SELECT revision FROM before)
        )
        ORDER BY revision
        """
    ).fetchall()
    found = []
    for (_, *old), (path, names, types) in pairwise(rows):
        before, now = dict(zip(*old, strict=True)), dict(zip(names, types, strict=True))
        changes = [f"brought {name}" for name in now if name not in before]
        changes += [f"lacks {name}" for name in before if name not in now]
        changes += [
            f"has {name} as {now[name]}, not {kind}"
            for name, kind in before.items()
            if now.get(name, kind) != kind
        ]
        if changes:
            found.append(Discrepancy(f"{path} {', '.join(changes)}"))
    return found
