"""The manifest: what a file holds for each partition, and whether it came in time.

Belongs here: reading registered files once and judging every row. Does not: registering them
(`ledger.py`), computing anything from them (`transform.py`).

The class of a row is a pure function of the row and its file's recorded listing; the first that
applies wins:

1. *invalid*: no id, no region, no readable time, or a time outside the stream;
2. *future*: later than the listing's `registered_at` plus the allowed skew;
3. *too late*: its partition ended at or before `watermark_before`;
4. *accepted*.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from ml_patterns.base import Clock
from ml_patterns.errors import SourceFileError
from ml_patterns.incremental import ledger, sources
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.ledger import Revision, Transaction
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import literal, quoted

_FILES_AT_ONCE = 64
WORTH_READING_IN_PLACE = 20_000

Step = Callable[[str], None]


@dataclass(frozen=True)
class Ingest:
    """What registering the landed files came to.

    Attributes:
        files: revisions read now.
        rows: rows in them.
        changed: partitions whose accepted rows may have changed (first instants, UTC).
        unreadable: every file that cannot be read at present.
        missing: files that were read before and are gone.
        watermark: after this ingest.
    """

    files: int
    rows: int
    changed: tuple[datetime, ...]
    unreadable: tuple[ledger.UnreadableFile, ...]
    missing: tuple[str, ...]
    watermark: datetime | None


def timestamp(moment: datetime | None) -> str:
    """A moment as an SQL timestamp literal."""
    return "NULL::TIMESTAMP" if moment is None else f"TIMESTAMP {literal(str(naive(moment)))}"


def class_of_row(events: EventsSettings, row: str, future_after: str, watermark_before: str) -> str:
    """The SQL expression that judges a row; see the module's docstring.

    Args:
        events: names the columns and bounds the stream.
        row: alias of the relation that holds the row.
        future_after: SQL of the last event time that is not future.
        watermark_before: SQL of the watermark before the file's first listing.
    """
    time, grain = f"{row}.{quoted(events.time)}", Grain(events.grain)
    region = f"trim(CAST({row}.{quoted(events.region)} AS VARCHAR))"
    after_end = (
        f"WHEN {time} >= {timestamp(events.end_time)} THEN 'invalid' " if events.end_time else ""
    )
    return (
        f"CASE WHEN {row}.{quoted(events.id)} IS NULL OR {region} IS NULL OR {region} = '' "
        f"OR {time} IS NULL OR {time} < {timestamp(events.start_time)} THEN 'invalid' "
        f"WHEN {time} > {future_after} THEN 'future' {after_end}"
        f"WHEN date_trunc('{events.grain}', {time}) + {grain.interval} <= {watermark_before} "
        "THEN 'too_late' ELSE 'accepted' END"
    )


def ingest(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    clock: Clock,
    step: Step = lambda name: None,
) -> Ingest:
    """Registers what has landed and reads it; what an earlier run left unread comes first.

    Args:
        step: called at each boundary; tests end the process there.
    """
    pipeline, events, pattern = settings.name, settings.events, settings.event_glob
    ledger.ensure_tables(connection, pipeline)
    sources.attach_filesystem(connection, pattern)
    before = _last_revision(connection, pipeline)
    leftover = ledger.waiting(connection, pipeline)
    _read(connection, pipeline, events, leftover, step)
    listed = sources.list_files(pattern)
    listing = ledger.record_listing(connection, settings, listed, clock())
    step("listed")
    fresh = ledger.waiting(connection, pipeline)
    _read(connection, pipeline, events, fresh, step)
    revisions = [r.revision for r in leftover] + list(
        range(before + 1, _last_revision(connection, pipeline) + 1)
    )
    files, rows = _size(connection, pipeline, revisions)
    return Ingest(
        files=files,
        rows=rows,
        changed=_changed(connection, pipeline, revisions),
        unreadable=tuple(ledger.unreadable_files(connection, pipeline)),
        missing=listing.missing,
        watermark=ledger.watermark(connection, settings),
    )


def _read(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revisions: Sequence[Revision],
    step: Step,
) -> None:
    """Reads revisions, many at a time where their columns agree; a bad file costs only itself."""
    described = []
    for revision in revisions:
        try:
            described.append((revision, _describe(connection, pipeline, events, revision)))
        except SourceFileError as error:
            ledger.mark_unreadable(connection, pipeline, revision, str(error))
    while described:
        _, found = described[0]
        kind = sources.format_of(described[0][0].path)
        alike = [
            revision
            for revision, columns in described
            if columns == found and sources.format_of(revision.path) == kind
        ][:_FILES_AT_ONCE]
        taken = {revision.revision for revision in alike}
        described = [pair for pair in described if pair[0].revision not in taken]
        try:
            _judge(connection, pipeline, events, alike, found)
        except duckdb.Error:
            for revision in alike:
                try:
                    _judge(connection, pipeline, events, [revision], found)
                except duckdb.Error as error:
                    ledger.mark_unreadable(
                        connection, pipeline, revision, sources.why_unreadable(revision.path, error)
                    )
        step("manifest")


def _describe(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revision: Revision,
) -> dict[str, str]:
    """A file's columns; columns that the stream did not have yet are added to it."""
    found = sources.describe(connection, revision.path)
    sources.check_columns(revision.path, found, events)
    stream = stream_columns(connection, pipeline)
    if any(name not in stream for name in found):
        types = sources.stream_types(connection, revision.path, events)
        brought = {name: types[name] for name in found if name not in stream}
        sources.check_types(connection, revision.path, found, {**stream, **brought}, events)
        connection.executemany(
            f"INSERT INTO {quoted(pipeline)}.event_columns VALUES (?, ?, ?)",
            [
                [len(stream) + offset, name, kind]
                for offset, (name, kind) in enumerate(brought.items())
            ],
        )
    else:
        sources.check_types(connection, revision.path, found, stream, events)
    return found


def stream_columns(connection: duckdb.DuckDBPyConnection, pipeline: str) -> dict[str, str]:
    """The columns of the stream and their types, in the order in which files brought them."""
    return dict(
        connection.execute(
            f"SELECT name, type FROM {quoted(pipeline)}.event_columns ORDER BY position"
        ).fetchall()
    )


def _judge(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revisions: Sequence[Revision],
    found: sources.Columns,
) -> None:
    """Writes the manifest of some files and marks them read, in one transaction."""
    schema = quoted(pipeline)
    stream = stream_columns(connection, pipeline)
    numbers = [revision.revision for revision in revisions]
    rows = sources.typed_rows([revision.path for revision in revisions], found, stream, events)
    skew = f"INTERVAL {int(events.allowed_skew.total_seconds() * 1_000_000)} MICROSECONDS"
    verdict = class_of_row(events, "e", f"f.registered_at + {skew}", "f.watermark_before")
    content = ", ".join(f"e.{quoted(name)}" for name in stream if name in found)
    with Transaction(connection):
        connection.execute(
            f"""
            INSERT INTO {schema}.partition_manifest
            SELECT
                CASE WHEN class <> 'invalid' THEN date_trunc('{events.grain}', time) END,
                revision, class, count(*), sum(content)::VARCHAR, max(time), NULL
            FROM (
                SELECT f.revision, {verdict} AS class, hash({content}) AS content,
                    e.{quoted(events.time)} AS time
                FROM ({rows}) e
                JOIN {schema}.source_files f ON f.path = e.{sources.FILE_COLUMN}
                WHERE list_contains(?, f.revision)
            )
            GROUP BY ALL
            """,
            [numbers],
        )
        _count_ids(connection, pipeline, events, revisions, found)
        connection.execute(
            f"UPDATE {schema}.source_files SET state = 'read', error = NULL, columns = ?, "
            "types = ? WHERE list_contains(?, revision)",
            [list(found), list(found.values()), numbers],
        )


def _count_ids(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revisions: Sequence[Revision],
    found: sources.Columns,
) -> None:
    """Notes how many ids a large Parquet file holds that is one partition, whole.

    Where none repeats, the partition needs no deduplication and is read in place. One file at a
    time: that is three times faster than counting within groups.
    """
    schema, stream = quoted(pipeline), stream_columns(connection, pipeline)
    whole = connection.execute(
        f"SELECT revision FROM {schema}.partition_manifest "
        "WHERE list_contains(?, revision) GROUP BY revision "
        "HAVING count(*) = 1 AND any_value(class) <> 'invalid' AND any_value(rows) >= ?",
        [[revision.revision for revision in revisions], WORTH_READING_IN_PLACE],
    ).fetchall()
    paths = {revision.revision: revision.path for revision in revisions}
    for (revision,) in whole:
        if sources.format_of(paths[revision]) == "parquet":
            rows = sources.typed_rows([paths[revision]], found, stream, events)
            connection.execute(
                f"UPDATE {schema}.partition_manifest SET ids = (SELECT count(*) FROM "
                f"(SELECT {quoted(events.id)} FROM ({rows}) GROUP BY ALL)) WHERE revision = ?",
                [revision],
            )


def _changed(
    connection: duckdb.DuckDBPyConnection, pipeline: str, revisions: Sequence[int]
) -> tuple[datetime, ...]:
    """Partitions that revisions touch, or that the revisions they replace touched."""
    schema = quoted(pipeline)
    rows = connection.execute(
        f"""
        SELECT DISTINCT partition_start FROM {schema}.partition_manifest m
        JOIN {schema}.source_files f USING (revision)
        WHERE class = 'accepted' AND f.path IN (
            SELECT path FROM {schema}.source_files WHERE list_contains(?, revision)
        )
        ORDER BY partition_start
        """,
        [list(revisions)],
    ).fetchall()
    return tuple(row[0] for row in rows)


def _size(
    connection: duckdb.DuckDBPyConnection, pipeline: str, revisions: Sequence[int]
) -> tuple[int, int]:
    row = connection.execute(
        f"SELECT count(DISTINCT revision), coalesce(sum(rows), 0) "
        f"FROM {quoted(pipeline)}.partition_manifest WHERE list_contains(?, revision)",
        [list(revisions)],
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _last_revision(connection: duckdb.DuckDBPyConnection, pipeline: str) -> int:
    row = connection.execute(
        f"SELECT coalesce(max(revision), 0) FROM {quoted(pipeline)}.source_files"
    ).fetchone()
    return int(row[0]) if row else 0
