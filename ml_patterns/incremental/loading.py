"""From landed files to the deduplicated events of some partitions.

Belongs here: reading what the ledger says counts, and choosing each event's newest version. Does
not: judging rows (`manifest.py`), running the user's SQL over them (`transform.py`).

Within a partition the newest version of an event wins, ties broken by content, never by arrival.

Only what was judged is built from: a file that is gone, or is no longer the one that was
registered, holds up the partitions that need it and no others. A partition that is exactly one
Parquet file in which no id repeats is not copied at all: the SQL reads the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.errors import SourceFileError
from ml_patterns.incremental import sources
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.manifest import stream_columns, timestamp
from ml_patterns.incremental.plan import interval
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

FILE_VARIABLE = "_path"


@dataclass(frozen=True)
class Counts:
    """Where a partition's accepted rows went: kept + superseded + duplicate = accepted.

    Attributes:
        scanned: its share of all rows in the files that were read for it.
    """

    accepted: int = 0
    kept: int = 0
    superseded: int = 0
    duplicate: int = 0
    scanned: int = 0


@dataclass(frozen=True)
class WholeFile:
    """A registered file that is a partition.

    Attributes:
        select: reads the file that the session variable names, in the stream's columns; the same
            text for all files with the same columns.
    """

    pipeline: str
    path: str
    size: int
    tag: str
    select: str

    def problem(self) -> str | None:
        """What is wrong where it is no longer the file that was registered."""
        return _problem(self.pipeline, sources.look(self.path), self.path, self.size, self.tag)


@dataclass(frozen=True)
class Loaded:
    """Partitions whose events can be computed from now.

    Attributes:
        counts: per partition that could be loaded.
        direct: partition -> the one file that it is; all others are in `_events`.
        problems: partition -> the sentence that says which file holds it up.
    """

    counts: Mapping[datetime, Counts]
    direct: Mapping[datetime, WholeFile]
    problems: Mapping[datetime, str]


def load(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> Loaded:
    """Makes the accepted rows of some partitions readable, deduplicated.

    Raises:
        SourceFileError: a file cannot be read although it is the one that was registered.
    """
    problems: dict[datetime, str] = {}
    while True:
        problems |= _changed(connection, settings, partitions)
        sound = [partition for partition in partitions if partition not in problems]
        direct = _direct(connection, settings, sound)
        try:
            counts = _load(connection, settings, [p for p in sound if p not in direct])
        except duckdb.Error as error:
            if _changed(connection, settings, sound):
                continue  # a file went away while it was read
            raise SourceFileError(
                f"a registered file of pipeline {settings.name} cannot be read any more "
                f"({str(error).splitlines()[0]}); land it again whole"
            ) from error
        lost = _changed(connection, settings, sound)
        counts |= {
            partition: Counts(accepted=rows, kept=rows, scanned=rows)
            for partition, (_, rows) in direct.items()
        }
        return Loaded(
            {p: counts.get(p, Counts()) for p in sound if p not in lost},
            {partition: file for partition, (file, _) in direct.items()},
            problems | lost,
        )


def _changed(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> dict[datetime, str]:
    """Partition -> which of its files is not the one that was registered."""
    rows = connection.execute(
        f"SELECT f.path, f.size, f.tag, list(DISTINCT e.partition_start) "
        f"FROM {quoted(settings.name)}.entries e "
        f"JOIN {quoted(settings.name)}.current_files f USING (revision) "
        "WHERE e.counts AND list_contains(?::TIMESTAMP[], e.partition_start) GROUP BY ALL",
        [list(partitions)],
    ).fetchall()
    found: dict[datetime, str] = {}
    for path, size, tag, touched in rows:
        sentence = _problem(settings.name, sources.look(path), path, size, tag)
        if sentence:
            found |= dict.fromkeys(touched, sentence)
    return found


def _problem(
    pipeline: str, lies: sources.LandedFile | None, path: str, size: int, tag: str
) -> str | None:
    if lies is None:
        return (
            f"{path} was read before and is gone; put it back, or let it go with "
            f"`ml-patterns dead-letter acknowledge {pipeline} {path}`"
        )
    if (lies.size, lies.tag) != (size, tag):
        return f"{path} changed since it was read; it is built from when it is registered again"
    return None


def _direct(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> dict[datetime, tuple[WholeFile, int]]:
    """Partitions that are one Parquet file, all of it, without repeated ids; and their rows."""
    schema, stream = quoted(settings.name), stream_columns(connection, settings.name)
    rows = connection.execute(
        f"""
        SELECT e.partition_start, any_value(e.rows), any_value(f.path), any_value(f.size),
            any_value(f.tag), any_value(f.columns), any_value(f.types)
        FROM {schema}.entries e JOIN {schema}.current_files f USING (revision)
        WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)
        GROUP BY partition_start HAVING count(*) = 1 AND any_value(ids) = any_value(rows)
        """,
        [list(partitions)],
    ).fetchall()
    found = {}
    for partition, held, path, size, tag, names, types in rows:
        columns = dict(zip(names, types, strict=True))
        typed = sources.typed_rows([path], columns, stream, settings.events, variable=FILE_VARIABLE)
        select = f"SELECT {', '.join(map(quoted, stream))} FROM ({typed})"
        found[partition] = (WholeFile(settings.name, path, size, tag, select), held)
    return found


def empty_events(connection: duckdb.DuckDBPyConnection, stream: sources.Columns) -> None:
    """`_rows` and `_events` without rows, so that SQL over them can be bound."""
    columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in stream.items())
    for table in ("_rows", "_events"):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table}({columns}, _partition TIMESTAMP)")


def _load(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> dict[datetime, Counts]:
    events, stream = settings.events, stream_columns(connection, settings.name)
    empty_events(connection, stream)
    _choose_entries(connection, settings, partitions)
    selects = _selects(connection, settings, stream, partitions)
    if not selects:
        return {}
    for select in selects:
        connection.execute(f"INSERT INTO _rows BY NAME {select}")
    names = {"id": quoted(events.id), "version": quoted(events.version)}
    connection.execute(_DEDUPLICATE.format(**names, content=_content(stream)))
    scanned = _scanned(connection, settings)
    rows = connection.execute(_COUNT.format(**names)).fetchall()
    return {
        partition: Counts(accepted, kept, superseded, duplicate, scanned[partition])
        for partition, accepted, kept, superseded, duplicate in rows
    }


_DEDUPLICATE = """
CREATE OR REPLACE TEMP TABLE _repeated AS
    SELECT _partition, {id} FROM _rows GROUP BY ALL HAVING count(*) > 1;
CREATE OR REPLACE TEMP TABLE _versions AS
    SELECT *, row_number() OVER newest AS _rank, {content} AS _content
    FROM _rows SEMI JOIN _repeated USING (_partition, {id})
    WINDOW newest AS (
        PARTITION BY _partition, {id} ORDER BY {version} DESC NULLS LAST, {content} DESC
    );
CREATE OR REPLACE TEMP TABLE _events AS
    SELECT * FROM (
        SELECT * FROM _rows ANTI JOIN _repeated USING (_partition, {id})
        UNION ALL BY NAME
        SELECT * EXCLUDE (_rank, _content) FROM _versions WHERE _rank = 1
    )
    ORDER BY _partition, {id};
"""

_COUNT = """
SELECT _partition, accepted, coalesce(kept, 0), accepted - kept - coalesce(duplicate, 0),
    coalesce(duplicate, 0)
FROM (SELECT _partition, count(*) AS accepted FROM _rows GROUP BY ALL)
LEFT JOIN (SELECT _partition, count(*) AS kept FROM _events GROUP BY ALL) USING (_partition)
LEFT JOIN (
    SELECT _partition, sum(copies - 1)::BIGINT AS duplicate FROM (
        SELECT _partition, count(*) AS copies FROM _versions GROUP BY _partition, {id}, _content
    ) GROUP BY ALL
) USING (_partition)
"""


def _content(stream: sources.Columns) -> str:
    """A row's whole content as text."""
    return f"CAST(ROW({', '.join(map(quoted, stream))}) AS VARCHAR)"


def _choose_entries(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    partitions: Sequence[datetime],
) -> None:
    """Temporary table `_chosen`: which rows of which file count for which partition."""
    skew = interval(settings.events.allowed_skew)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE _chosen AS
        SELECT path, revision, partition_start, sum(rows) AS rows,
            any_value(registered_at) + {skew} AS future_after,
            bool_or(class = 'future') AS future, bool_or(class <> 'future') AS past
        FROM {quoted(settings.name)}.entries
        WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)
        GROUP BY path, revision, partition_start
        """,
        [list(partitions)],
    )


def _scanned(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings
) -> dict[datetime, int]:
    """All rows of the files that were read, shared out to the partitions they were read for."""
    rows = connection.execute(
        f"""
        SELECT partition_start, round(sum(c.rows * held.rows / wanted.rows))::BIGINT
        FROM _chosen c
        JOIN (SELECT revision, sum(rows) AS rows FROM _chosen GROUP BY revision) wanted
            USING (revision)
        JOIN (
            SELECT revision, sum(rows) AS rows FROM {quoted(settings.name)}.partition_manifest
            GROUP BY revision
        ) held USING (revision)
        GROUP BY partition_start
        """
    ).fetchall()
    return dict(rows)


def _selects(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    stream: sources.Columns,
    partitions: Sequence[datetime],
) -> list[str]:
    """One SELECT per group of files that share format and columns."""
    events, grain = settings.events, Grain(settings.events.grain)
    time, region = f"e.{quoted(events.time)}", f"e.{quoted(events.region)}"
    files = connection.execute(
        f"SELECT path, columns, types FROM {quoted(settings.name)}.current_files "
        "WHERE path IN (SELECT path FROM _chosen) ORDER BY path"
    ).fetchall()
    if not files:
        return []
    groups: dict[tuple[str, ...], list[str]] = {}
    described: dict[tuple[str, ...], dict[str, str]] = {}
    for path, names, types in files:
        group = (sources.format_of(path), *names, *types)
        groups.setdefault(group, []).append(path)
        described[group] = dict(zip(names, types, strict=True))
    between = (timestamp(min(partitions)), timestamp(max(partitions) + grain.length))
    chosen = ", ".join(f"e.{quoted(name)}" for name in stream)
    return [
        f"SELECT {chosen}, c.partition_start AS _partition "
        f"FROM ({sources.typed_rows(paths, described[group], stream, events, between)}) e "
        f"JOIN _chosen c ON c.path = e.{sources.FILE_COLUMN} "
        f"AND c.partition_start = date_trunc('{events.grain}', {time}) "
        f"WHERE e.{quoted(events.id)} IS NOT NULL "
        f"AND trim(CAST({region} AS VARCHAR)) <> '' "
        f"AND CASE WHEN {time} > c.future_after THEN c.future ELSE c.past END"
        for group, paths in groups.items()
    ]
