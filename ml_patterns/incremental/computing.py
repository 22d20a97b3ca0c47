"""Running a layer's SQL over partitions, several at a time and ahead of their commit.

Belongs here: computing results in memory. Does not: what the SQL sees (`transform.py`), putting
results into the warehouse (`commit.py`).

One statement computes a batch of partitions: most of what a small partition costs is the statement.
Batches are computed side by side, each on a connection of its own, because one statement over many
small files keeps one processor busy. Computing changes nothing but a database in memory, so that
neither its order nor how far it got matters to anybody.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count, cycle
from time import perf_counter

import duckdb

from ml_patterns.errors import TransformError
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.loading import Loaded
from ml_patterns.incremental.transform import Transformation
from ml_patterns.storage.side_by_side import side_by_side
from ml_patterns.storage.sql import quoted

_numbers = count()  # connections of one process see each other's databases


@dataclass(frozen=True)
class Result:
    """A batch of partitions, computed.

    Attributes:
        table: holds the rows of `partitions`, and maybe others.
        rows: rows of each partition that is right, in the partitions' order.
        problems: partition -> the sentence that says which file changed while it was read.
        failure: what stopped the batch; partitions before it are in `rows`.
    """

    table: str
    rows: Mapping[datetime, int]
    seconds: float
    problems: Mapping[datetime, str] = field(default_factory=dict)
    failure: TransformError | None = None


@contextmanager
def scratch(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """The name of a database in memory that other connections of this process see, too."""
    name = f"_computing_{next(_numbers)}"
    connection.execute(f"ATTACH ':memory:' AS {name} (READ_WRITE)")
    try:
        yield name
    finally:
        connection.execute(f"DETACH {name}")


def threads(connection: duckdb.DuckDBPyConnection) -> int:
    """How many statements are worth running at once."""
    row = connection.execute("SELECT current_setting('threads')").fetchone()
    return int(row[0]) if row else 1


def ahead(
    connection: duckdb.DuckDBPyConnection,
    transformation: Transformation,
    loaded: Loaded,
    batches: Sequence[Sequence[datetime]],
    database: str,
    workers: int,
) -> Generator[Result, None, None]:
    """Computes batches side by side; yields them in order. At most one waits per worker.

    Args:
        database: of `scratch`.
    """
    workers = min(workers, len(batches))
    if workers <= 1:
        for batch in batches:
            yield compute(connection, transformation, loaded, batch, f"{database}._result")
        return
    tables = cycle(f"{database}._result_{number}" for number in range(2 * workers + 1))
    running: deque[Future[Result]] = deque()
    with side_by_side(connection, workers) as submit:
        for batch in batches:
            if len(running) == 2 * workers:
                yield running.popleft().result()
            work = partial(
                compute,
                transformation=transformation,
                loaded=loaded,
                partitions=batch,
                table=next(tables),
            )
            running.append(submit(work))
        while running:
            yield running.popleft().result()


def compute(
    connection: duckdb.DuckDBPyConnection,
    transformation: Transformation,
    loaded: Loaded,
    partitions: Sequence[datetime],
    table: str,
) -> Result:
    """Computes partitions into a table of their own.

    Where one statement for all of them fails, they are computed one by one up to the one at fault.
    """
    started = perf_counter()
    events = {partition: loaded.events[partition] for partition in partitions}
    problems: dict[datetime, str] = {}
    failure: TransformError | None = None
    try:
        connection.execute(f"CREATE OR REPLACE TABLE {table} AS {transformation.select(events)}")
    except duckdb.InterruptException:
        raise  # nobody wants the result any more
    except duckdb.Error:
        columns = ", ".join(f"{quoted(n)} {kind}" for n, kind in transformation.columns.items())
        connection.execute(f"CREATE OR REPLACE TABLE {table}({columns})")
        for partition, select in events.items():
            try:
                connection.execute(
                    f"INSERT INTO {table} {transformation.select({partition: select})}"
                )
            except duckdb.Error as error:
                gone = _problems(loaded, [partition])
                if not gone:
                    failure = transformation.failed(partition, error)
                    partitions = [before for before in partitions if before < partition]
                    break
                problems |= gone
    problems |= _problems(loaded, partitions)
    rows = _rows(connection, transformation, table)
    right: dict[datetime, int] = {}
    for partition in partitions:
        if partition in problems:
            continue
        found = rows.get(partition, (0, 0, 0, 0))
        if transformation.layer == "features":
            wrong = _wrong(transformation, partition, found, loaded.counts[partition].kept)
            if wrong:
                failure = wrong
                break
        right[partition] = found[0]
    return Result(table, right, perf_counter() - started, problems, failure)


def _problems(loaded: Loaded, partitions: Sequence[datetime]) -> dict[datetime, str]:
    """Partitions whose file, read in place, is not the one that was registered."""
    looked = {
        partition: loaded.direct[partition].problem()
        for partition in partitions
        if partition in loaded.direct
    }
    return {partition: sentence for partition, sentence in looked.items() if sentence}


def _rows(
    connection: duckdb.DuckDBPyConnection, transformation: Transformation, table: str
) -> dict[datetime, tuple[int, ...]]:
    """Per partition: rows; for features also event ids, rows without region, rows elsewhere."""
    grain = transformation.settings.events.grain
    more = (
        ", count(DISTINCT event_id), count(*) FILTER (region IS NULL), count(*) FILTER "
        f"(date_trunc('{grain}', event_time) IS DISTINCT FROM partition_start)"
        if transformation.layer == "features"
        else ""
    )
    rows = connection.execute(
        f"SELECT partition_start, count(*){more} FROM {table} GROUP BY partition_start"
    ).fetchall()
    return {row[0]: row[1:] for row in rows}


def _wrong(
    transformation: Transformation, partition: datetime, found: tuple[int, ...], kept: int
) -> TransformError | None:
    """`features.sql` must return every event of the partition exactly once, with its own time."""
    if found == (kept, kept, 0, 0):
        return None
    settings = transformation.settings
    rows, events, nowhere, elsewhere = found
    return TransformError(
        f"{settings.features.sql} of pipeline {settings.name} returned {rows} rows with "
        f"{events} event ids for the {kept} events of partition "
        f"{Grain(settings.events.grain).key(partition)} "
        f"({nowhere} without region, {elsewhere} with a time outside of it); "
        "it must return each event once: check its joins and filters"
    )
