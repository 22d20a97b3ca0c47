"""From landed files to the deduplicated events of some partitions.

Belongs here: reading what the ledger says counts, and choosing each event's newest version. Does
not: judging rows (`manifest.py`), running the user's SQL over them (`transform.py`).

Within a partition the newest version of an event wins, ties broken by content, never by arrival.

Only what was judged is built from: a file that is gone, or is no longer the one that was
registered, or in which not all rows are found again that the ledger accepted, holds up the
partitions that need it and no others. A partition that is exactly one Parquet file in which no id
repeats is not copied at all: the SQL reads the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

import duckdb

from ml_patterns.errors import SourceFileError
from ml_patterns.incremental import copying, files, sources
from ml_patterns.incremental.copying import Counts, copy
from ml_patterns.incremental.dead_letter import removed
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.ledger import stream_columns
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

_ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class RegisteredFile:
    """A file as it was when its rows were judged."""

    pipeline: str
    path: str
    size: int
    tag: str

    def problem(self) -> str | None:
        """What is wrong where it is no longer the file that was registered."""
        lies = files.look(self.path)
        if lies is None:
            return removed(self.path, self.pipeline)
        if (lies.size, lies.tag) != (self.size, self.tag):
            return (
                f"{self.path} changed since it was read; "
                "it is built from when it is registered again"
            )
        return None


@dataclass(frozen=True)
class WholeFile:
    """A registered file that is a partition.

    Attributes:
        select: reads it in the stream's columns.
    """

    file: RegisteredFile
    rows: int
    select: str


@dataclass(frozen=True)
class Loaded:
    """Partitions whose events can be computed from now.

    Attributes:
        counts: per partition that could be loaded.
        events: partition -> the SELECT of its events.
        direct: partition -> the one file that it is, read in place: to be looked at once more
            after it was read.
        problems: partition -> the sentence that says which file holds it up.
        seconds: it took to copy them.
    """

    counts: Mapping[datetime, Counts]
    events: Mapping[datetime, str]
    direct: Mapping[datetime, RegisteredFile]
    problems: Mapping[datetime, str]
    seconds: float


@dataclass(frozen=True)
class _Held:
    """What a partition is made from: its files, its accepted rows, the file to read in place."""

    files: Sequence[RegisteredFile]
    rows: int
    whole: WholeFile | None


def load(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
    scratch: str,
) -> Iterator[Loaded]:
    """Makes the accepted rows of partitions readable, deduplicated, as many as fit in memory.

    What is copied for one part is overwritten by the next.

    Args:
        scratch: the database in memory that takes the copies.

    Raises:
        SourceFileError: a file cannot be read although it is the one that was registered.
    """
    stream = stream_columns(connection, settings.name)
    held = _held(connection, settings, stream, partitions)
    for part in _parts(held):
        yield _load_part(connection, settings, stream, part, scratch)


def _parts(held: Mapping[datetime, _Held]) -> Iterator[dict[datetime, _Held]]:
    """Partitions in order, cut so that the rows that are copied for each part fit in memory."""
    part: dict[datetime, _Held] = {}
    rows = 0
    for partition, one in sorted(held.items()):
        copied = 0 if one.whole else one.rows
        if copied and rows and rows + copied > _ROWS_AT_ONCE:
            yield part
            part, rows = {}, 0
        part[partition] = one
        rows += copied
    if part:
        yield part


def _held(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    partitions: Sequence[datetime],
) -> dict[datetime, _Held]:
    """What the ledger says about each partition."""
    schema = quoted(settings.name)
    rows = connection.execute(
        f"""
        SELECT partition_start, sum(e.rows)::BIGINT, count(*) = 1 AND any_value(ids = e.rows),
            list((path, f.size, f.tag)), any_value(f.columns), any_value(f.types)
        FROM {schema}.entries e JOIN {schema}.source_files f USING (revision, path)
        WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)
        GROUP BY partition_start
        """,
        [list(partitions)],
    ).fetchall()
    found = dict.fromkeys(partitions, _Held((), 0, None))
    for partition, held, whole, described, names, types in rows:
        these = [RegisteredFile(settings.name, *file) for file in dict.fromkeys(described)]
        found[partition] = _Held(
            these,
            held,
            _in_place(settings, stream, these[0], held, dict(zip(names, types, strict=True)))
            if whole
            else None,
        )
    return found


def _in_place(
    settings: PipelineSettings,
    stream: sources.Columns,
    file: RegisteredFile,
    rows: int,
    columns: sources.Columns,
) -> WholeFile:
    """A partition that is one Parquet file, all of it, without repeated ids."""
    typed = sources.typed_rows([file.path], columns, stream, settings.events)
    return WholeFile(file, rows, f"SELECT {', '.join(map(quoted, stream))} FROM ({typed})")


def _load_part(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    held: Mapping[datetime, _Held],
    scratch: str,
) -> Loaded:
    started = perf_counter()
    problems: dict[datetime, str] = {}
    while True:
        problems |= _changed(held)
        sound = {partition: one for partition, one in held.items() if partition not in problems}
        direct = {partition: one.whole for partition, one in sound.items() if one.whole}
        copied = [p for p, one in sound.items() if one.files and not one.whole]
        try:
            counts = copy(connection, settings, stream, copied, scratch)
        except duckdb.Error as error:
            if _changed(sound):
                continue  # a file went away while it was read
            raise SourceFileError(
                f"a registered file of pipeline {settings.name} cannot be read any more "
                f"({str(error).splitlines()[0]}); land it again whole"
            ) from error
        lost = _changed({partition: sound[partition] for partition in copied})
        accepted = copying.accepted(connection) if copied else {}
        lost |= {
            partition: f"partition {Grain(settings.events.grain).key(partition)} of pipeline "
            f"{settings.name} is not built: {accepted.get(partition, 0)} rows of its files are "
            f"accepted in the ledger, {counts.get(partition, Counts()).accepted} were found in "
            "them; land them again whole"
            for partition in copied
            if partition not in lost
            and counts.get(partition, Counts()).accepted != accepted.get(partition, 0)
        }
        counts |= {
            partition: Counts(accepted=whole.rows, kept=whole.rows, scanned=whole.rows)
            for partition, whole in direct.items()
        }
        here = [partition for partition in sound if partition not in lost]
        columns = ", ".join(map(quoted, stream))
        events = {partition: no_events(stream) for partition in here}
        events |= {
            partition: f"SELECT {columns} FROM {scratch}._events "
            f"WHERE _partition = {timestamp(partition)}"
            for partition in copied
            if partition not in lost
        }
        return Loaded(
            {partition: counts.get(partition, Counts()) for partition in here},
            events | {partition: whole.select for partition, whole in direct.items()},
            {partition: whole.file for partition, whole in direct.items()},
            problems | lost,
            perf_counter() - started,
        )


def no_events(stream: sources.Columns) -> str:
    """A SELECT of the stream's columns that gives no row."""
    columns = (f"CAST(NULL AS {kind}) AS {quoted(name)}" for name, kind in stream.items())
    return f"SELECT {', '.join(columns)} WHERE FALSE"


def _changed(held: Mapping[datetime, _Held]) -> dict[datetime, str]:
    """Partition -> which of its files is not the one that was registered."""
    looked = {file: file.problem() for one in held.values() for file in one.files}
    return {
        partition: sentence
        for partition, one in held.items()
        for file in one.files
        if (sentence := looked[file])
    }
