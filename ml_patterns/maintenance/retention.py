"""Retention: what grows by itself and nothing needs any more.

Belongs here: which rows and artifacts may go. Does not: how long they are kept (`settings.py`),
the prediction cache and the retry budget, which bound themselves as they are written.

Whatever a champion, a rollback, an open review or a replay of the gate needs is not asked about
here at all: versions, decisions, reviews, generations and the audit log have no retention. Nor have
features and aggregates: the ledger accounts for each of their rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import sqlalchemy as sa

from ml_patterns.circuit_breaker.due import unjudged_days
from ml_patterns.circuit_breaker.tables import breaker_events, degraded_partitions, prediction_cache
from ml_patterns.incremental import ledger
from ml_patterns.incremental.grain import naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.maintenance.contents import referred_artifacts
from ml_patterns.registry.tables import outbox, outbox_deliveries
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import reading
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import Warehouse, has_table


@dataclass(frozen=True)
class Pruned:
    """What went, or would go.

    Attributes:
        of: a pipeline, or `all` for what they share.
        what: in words.
        rows: how many rows or artifacts.
    """

    of: str
    what: str
    rows: int


def prune_pipeline(
    settings: PipelineSettings,
    warehouse: Warehouse,
    engine: sa.Engine,
    now: datetime,
    *,
    dry_run: bool = False,
) -> list[Pruned]:
    """Removes what a pipeline alone needs no more; with `dry_run`, only counts it."""
    found: list[Pruned] = []
    if warehouse.path.exists():
        with warehouse.connect(read_only=dry_run) as connection:
            found += _in_warehouse(connection, settings, now, dry_run)
    keep = settings.retention
    old = outbox.c.created_at < now - keep.notifications
    done = sa.and_(outbox.c.pipeline == settings.name, outbox.c.delivered_at.is_not(None), old)
    told = outbox_deliveries.c.notification_id.in_(sa.select(outbox.c.id).where(done))
    healed = sa.and_(
        degraded_partitions.c.pipeline == settings.name,
        degraded_partitions.c.healed_at < now - keep.breaker_events,
    )
    _delete(engine, outbox_deliveries, told, dry_run)  # rows that refer to the next ones
    found += [
        Pruned(settings.name, "notifications", _delete(engine, outbox, done, dry_run)),
        Pruned(
            settings.name,
            "healed partitions",
            _delete(engine, degraded_partitions, healed, dry_run),
        ),
    ]
    return found


def prune_shared(
    pipelines: Sequence[PipelineSettings],
    engine: sa.Engine,
    store: ArtifactStore,
    now: datetime,
    *,
    dry_run: bool = False,
) -> list[Pruned]:
    """Removes what no pipeline of an installation needs; with `dry_run`, only counts it.

    Args:
        pipelines: all of the installation.
    """
    if not pipelines:
        return []
    events = max(each.retention.breaker_events for each in pipelines)
    cached = max(each.predictions.cache_max_age for each in pipelines)
    orphans = max(each.retention.orphans for each in pipelines)
    return [
        Pruned(
            "all",
            "breaker events",
            _delete(engine, breaker_events, breaker_events.c.at < now - events, dry_run),
        ),
        # A client that writes removes them, too; one that never gets an answer does not.
        Pruned(
            "all",
            "cached predictions",
            _delete(engine, prediction_cache, prediction_cache.c.made_at < now - cached, dry_run),
        ),
        Pruned("all", "artifacts", _orphans(engine, store, now - orphans, dry_run)),
    ]


def _delete(
    engine: sa.Engine, table: sa.Table, condition: sa.ColumnElement[bool], dry_run: bool
) -> int:
    """How many rows went, or would."""
    if dry_run:
        with reading(engine) as connection:
            counted = sa.select(sa.func.count()).select_from(table).where(condition)
            return connection.scalar(counted) or 0
    with engine.begin() as connection:
        return connection.execute(sa.delete(table).where(condition)).rowcount


def _orphans(engine: sa.Engine, store: ArtifactStore, before: datetime, dry_run: bool) -> int:
    """Artifacts that nothing refers to.

    The store is listed first and the rows are asked afterwards, so that a version registered in
    between keeps its artifact.
    """
    old = [address for address, written_at in store.written() if written_at < before]
    with reading(engine) as connection:
        needed = set(referred_artifacts(connection))
    gone = [address for address in old if address not in needed]
    for address in () if dry_run else gone:
        store.remove(address)
    return len(gone)


def _in_warehouse(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, now: datetime, dry_run: bool
) -> Iterator[Pruned]:
    keep, schema = settings.retention, quoted(settings.name)
    if ledger.exists(connection, settings.name):
        yield Pruned(
            settings.name,
            "costs",
            _delete_rows(
                connection,
                f"{schema}.run_cost",
                "computed_at < ? AND (layer, partition_start, generation) NOT IN "
                f"(SELECT (layer, partition_start, generation) FROM {schema}.partition_state)",
                [naive(now - keep.costs)],
                dry_run,
            ),
        )
        if keep.dead_letters is not None:
            before = naive(now - keep.dead_letters)
            yield Pruned(
                settings.name, "dead letters", _dead_letters(connection, schema, before, dry_run)
            )
    if keep.predictions is not None:
        rows = _predictions(connection, settings, keep.predictions, dry_run)
        yield Pruned(settings.name, "predictions", rows)


def _dead_letters(
    connection: duckdb.DuckDBPyConnection, schema: str, before: datetime, dry_run: bool
) -> int:
    """Refused rows of old files, those of the latest listing excepted: they are held against the
    files whenever the pipeline is checked. Counts rows of files, not entries."""
    condition = (
        f"(revision, coalesce(partition_start, TIMESTAMP 'epoch'), class) IN ("
        f"SELECT (revision, coalesce(partition_start, TIMESTAMP 'epoch'), class) "
        f"FROM {schema}.entries JOIN {schema}.source_files USING (revision) "
        f"WHERE NOT counts AND source_files.registered_at < ? "
        f"AND listing < (SELECT max(listing) FROM {schema}.source_files))"
    )
    table = f"{schema}.partition_manifest"
    row = connection.execute(
        f"SELECT coalesce(sum(rows), 0)::BIGINT FROM {table} WHERE {condition}", [before]
    ).fetchone()
    _delete_rows(connection, table, condition, [before], dry_run)
    return int(row[0]) if row else 0


def _predictions(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    keep: timedelta,
    dry_run: bool,
) -> int:
    """Answers of whole days that were judged and that nothing looks back at."""
    schema = quoted(settings.name)
    for table in ("predictions", "event_features"):
        if not has_table(connection, settings.name, table):
            return 0
    keep = max(keep, settings.predictions.horizon, settings.predictions.quality_window)
    return _delete_rows(
        connection,
        f"{schema}.predictions",
        f"partition_start < date_trunc('day', (SELECT max(partition_start) FROM "
        f"{schema}.event_features) - INTERVAL {int(keep.total_seconds())} SECONDS) "
        "AND NOT list_contains(?::TIMESTAMP[], date_trunc('day', partition_start)::TIMESTAMP)",
        [unjudged_days(connection, settings)],
        dry_run,
    )


def _delete_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    condition: str,
    values: Iterable[object],
    dry_run: bool,
) -> int:
    values = list(values)
    with Transaction(connection):
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}", values)
        rows = int((row.fetchone() or (0,))[0])
        if rows and not dry_run:
            connection.execute(f"DELETE FROM {table} WHERE {condition}", values)
    return rows
