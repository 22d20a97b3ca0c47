"""Computing partitions and committing each of them exactly once.

Belongs here: the order of things. Does not: what is due (`plan.py`), computing (`computing.py`),
what happens inside a transaction (`commit.py`).

Partitions are committed in order, a bounded batch in one transaction. A kill before the commit
changes nothing; after it, everything is there: it costs at most a batch. Where somebody else built
one partition of a batch meanwhile, the batch is undone and committed one by one, so that theirs
stands and ours before it do, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from time import perf_counter

import duckdb

from ml_patterns.base import Clock
from ml_patterns.errors import ConflictError, SourceFileError
from ml_patterns.incremental import computing, files, ledger, loading, transform
from ml_patterns.incremental.commit import TABLES, Commit
from ml_patterns.incremental.computing import Result
from ml_patterns.incremental.copying import Counts
from ml_patterns.incremental.layer_code import code_of
from ml_patterns.incremental.loading import Loaded
from ml_patterns.incremental.manifest import Step
from ml_patterns.incremental.plan import Layer, Wanted, wanted
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

PARTITIONS_AT_ONCE = 32
_WORTH_A_BATCH = 8
_ROWS_AT_ONCE: Mapping[Layer, int] = {"aggregates": 4_000_000, "features": 1_000_000}


@dataclass(frozen=True)
class Built:
    """A partition that was committed.

    Attributes:
        counts: accepted = kept + superseded + duplicate.
        rows: rows written to the layer's table.
        scanned: rows read from landed files for it, those of other partitions included.
        seconds: its share of what its batch took, by rows.
        generation: how often it has been built.
    """

    partition: datetime
    counts: Counts
    rows: int
    scanned: int
    seconds: float
    generation: int


def build(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
    clock: Clock,
    step: Step = lambda name: None,
    wants: Mapping[datetime, Wanted] | None = None,
) -> Iterator[Built]:
    """Computes partitions of a layer and commits them in order, a batch in a transaction.

    Args:
        step: called at each boundary; tests end the process there.
        wants: what each partition should be built from, where a plan has just said it; what has
            changed since is due afterwards.

    Raises:
        ConflictError: somebody else built one of the partitions meanwhile; theirs stands.
        TransformError: with a sentence; partitions before it are committed.
        SourceFileError: names files that are gone or changed, after all partitions that do not
            need them were committed.
    """
    partitions = sorted(set(partitions))
    if not partitions:
        return
    ledger.ensure_tables(connection, settings.name)
    files.attach_filesystem(connection, settings.event_glob)
    builder = _Builder(connection, settings, layer, partitions, clock, step, wants)
    problems: set[str] = set()
    workers = computing.threads(connection) if len(partitions) > _WORTH_A_BATCH else 1
    with computing.scratch(connection) as scratch:
        for loaded in loading.load(connection, settings, partitions, scratch):
            problems |= set(loaded.problems.values())
            step("loaded")
            batches = _batches(layer, loaded.counts, workers)
            results = computing.ahead(
                connection, builder.transformation, loaded, batches, scratch, workers
            )
            with closing(results):
                for result in results:
                    step("computed")
                    yield from builder.commit(result, loaded)
                    problems |= set(result.problems.values())
                    if result.failure:
                        raise result.failure
    if problems:
        raise SourceFileError("; ".join(sorted(problems)))


def _batches(layer: Layer, counts: Mapping[datetime, Counts], workers: int) -> list[list[datetime]]:
    """Partitions in order, cut into transactions of bounded size; all workers get some."""
    longest = min(PARTITIONS_AT_ONCE, max(_WORTH_A_BATCH, ceil(len(counts) / workers)))
    batches: list[list[datetime]] = []
    rows = 0
    for partition, count in counts.items():
        rows += count.accepted
        if not batches or len(batches[-1]) == longest or rows > _ROWS_AT_ONCE[layer]:
            batches.append([])
            rows = count.accepted
        batches[-1].append(partition)
    return batches


class _Builder:
    """What is the same for all batches of a run."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        settings: PipelineSettings,
        layer: Layer,
        partitions: Sequence[datetime],
        clock: Clock,
        step: Step,
        wants: Mapping[datetime, Wanted] | None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._layer = layer
        self._clock = clock
        self._step = step
        nothing = Wanted("none", code_of(settings, layer), "-")
        if wants is None:
            wants = wanted(connection, settings, layer, partitions)
        self._wants = dict.fromkeys(partitions, nothing) | dict(wants)
        self._generations = _generations(connection, settings.name, layer, partitions)
        self._fits = False
        self.transformation = transform.prepare(connection, settings, layer)

    def commit(self, result: Result, loaded: Loaded) -> Iterator[Built]:
        """Commits a batch, or what of it nobody else has built."""
        partitions = list(result.rows)
        if not partitions:
            return
        try:
            done = self._commit(partitions, result, loaded)
        except ConflictError:
            if len(partitions) == 1:
                raise
            for partition in partitions:
                yield from self._commit([partition], result, loaded)
        else:
            yield from done

    def _commit(
        self, partitions: Sequence[datetime], result: Result, loaded: Loaded
    ) -> list[Built]:
        started = perf_counter()
        step = self._step
        with Commit(self._connection, self._settings, self._layer, partitions) as commit:
            commit.claim(self._generations, self._wants)
            step("claimed")
            if not self._fits:
                commit.fit_table(self.transformation.columns)
            commit.delete()
            step("deleted")
            commit.insert(result.table)
            step("inserted")
            commit.check(result.rows)
            step("checked")
            seconds = _shares(result, loaded, perf_counter() - started)
            commit.record_cost(self._generations, loaded.counts, seconds, self._clock())
            step("before commit")
        step("committed")
        self._fits = True
        return [
            Built(
                partition,
                loaded.counts[partition],
                result.rows[partition],
                loaded.counts[partition].scanned,
                seconds[partition],
                self._generations[partition] + 1,
            )
            for partition in partitions
        ]


def _shares(result: Result, loaded: Loaded, committing: float) -> dict[datetime, float]:
    """The seconds of a batch, shared out by rows."""
    weights = {partition: loaded.counts[partition].accepted + 1 for partition in result.rows}
    copying = loaded.seconds * len(weights) / len(loaded.counts)
    second = (copying + result.seconds + committing) / sum(weights.values())
    return {partition: weight * second for partition, weight in weights.items()}


def _generations(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    layer: Layer,
    partitions: Sequence[datetime],
) -> dict[datetime, int]:
    """Of every partition; each has its generation row before anybody claims it."""
    table = f"{quoted(pipeline)}.partition_state"
    rows = connection.execute(
        f"SELECT partition_start, generation FROM {table} "
        "WHERE layer = ? AND list_contains(?::TIMESTAMP[], partition_start)",
        [layer, list(partitions)],
    ).fetchall()
    found: dict[datetime, int] = dict(rows)
    fresh = [partition for partition in partitions if partition not in found]
    if fresh:  # where somebody else was faster, the claim of generation 0 fails
        connection.execute(
            f"INSERT INTO {table} "
            "SELECT ?, unnest(?::TIMESTAMP[]), NULL, NULL, NULL, 0 ON CONFLICT DO NOTHING",
            [layer, fresh],
        )
    return found | dict.fromkeys(fresh, 0)


def committed(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> list[tuple[Built, datetime]]:
    """What is built in a layer at present, as it was when it was built, and when that was (UTC)."""
    if not has_table(connection, settings.name, TABLES[layer]):
        return []
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT partition_start, accepted, kept, superseded, duplicate, scanned,
            coalesce(held.rows, 0), seconds, generation, computed_at
        FROM {schema}.run_cost
        JOIN {schema}.partition_state USING (layer, partition_start, generation)
        LEFT JOIN (
            SELECT partition_start, count(*) AS rows FROM {schema}.{TABLES[layer]} GROUP BY ALL
        ) held USING (partition_start)
        WHERE layer = ? ORDER BY partition_start
        """,
        [layer],
    ).fetchall()
    return [
        (
            Built(row[0], Counts(*row[1:6]), row[6], row[5], row[7], row[8]),
            row[9].replace(tzinfo=UTC),
        )
        for row in rows
    ]
