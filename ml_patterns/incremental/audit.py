"""Questions that find a lost or doubled row.

Belongs here: comparing ledger, files and tables with each other. Does not: repairing (`build.py`
does, once a partition is due).
"""

from dataclasses import dataclass

import duckdb

from ml_patterns.incremental import sources
from ml_patterns.incremental.plan import code_of
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table


@dataclass(frozen=True)
class Discrepancy:
    """Something that should be equal and is not, as one sentence."""

    sentence: str


def unaccounted_rows(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    """Looks for rows that no account explains; empty when every row is accounted for.

    Three sums are held against each other: the rows in the files of the latest listing against the
    manifest; a partition's accepted rows against kept + superseded + duplicate; the kept events
    against the rows of `event_features`.
    """
    found = [
        *_files_against_manifest(connection, settings),
        *_manifest_against_build(connection, settings),
    ]
    if has_table(connection, settings.name, "event_features"):
        found += _events_against_features(connection, settings)
    return found


def _files_against_manifest(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT path, coalesce(sum(m.rows), 0)::BIGINT FROM {schema}.current_files f
        LEFT JOIN {schema}.partition_manifest m USING (revision)
        WHERE f.state = 'read' AND listing = (SELECT max(listing) FROM {schema}.source_files)
        GROUP BY path ORDER BY path
        """
    ).fetchall()
    found = []
    for path, recorded in rows:
        try:
            delivered = sources.count_rows(connection, path)
        except duckdb.Error:
            continue  # gone since: `every_file_readable` speaks of it
        if delivered != recorded:
            found.append(
                Discrepancy(f"{path} holds {delivered} rows, the manifest accounts for {recorded}")
            )
    return found


def _manifest_against_build(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> list[Discrepancy]:
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT partition_start, accepted, kept, superseded, duplicate
        FROM {schema}.run_cost JOIN {schema}.partition_state
            USING (layer, partition_start, generation)
        WHERE accepted <> kept + superseded + duplicate ORDER BY ALL
        """
    ).fetchall()
    return [
        Discrepancy(
            f"partition {row[0]} accepted {row[1]} rows, but kept {row[2]}, superseded {row[3]} "
            f"and dropped {row[4]} duplicates"
        )
        for row in rows
    ]


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
