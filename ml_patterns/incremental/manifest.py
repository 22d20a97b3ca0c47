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
from functools import partial

import duckdb

from ml_patterns.base import Clock
from ml_patterns.errors import SourceFileError
from ml_patterns.incremental import ledger, sources
from ml_patterns.incremental.files import attach_filesystem, list_files
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.ledger import Revision, Transaction, stream_columns
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.side_by_side import side_by_side
from ml_patterns.storage.sql import literal, quoted

_FILES_AT_ONCE = 64
_READERS = 8  # of files that may be far away
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


def accepted_partitions(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[datetime]:
    """Partitions with accepted rows (first instants, UTC)."""
    rows = connection.execute(
        f"SELECT DISTINCT partition_start FROM {quoted(pipeline)}.partition_manifest "
        "WHERE class = 'accepted'"
    ).fetchall()
    return [partition for (partition,) in rows]


def timestamp(moment: datetime | None) -> str:
    """A moment as an SQL timestamp literal."""
    return "NULL::TIMESTAMP" if moment is None else f"TIMESTAMP {literal(str(naive(moment)))}"


def class_of_rows(events: EventsSettings) -> str:
    """The SQL expression that judges rows of one file and one hour or day.

    It sees `nameless` (no id or region), `future` (later than the skew allows), `partition_start`
    (NULL without a readable time) and `watermark_before` of the file's first listing. The stream
    starts and ends with a day, so that partitions lie inside of it or outside, whole.
    """
    after_end = (
        f"WHEN partition_start >= {timestamp(events.end_time)} THEN 'invalid' "
        if events.end_time
        else ""
    )
    return (
        "CASE WHEN nameless OR partition_start IS NULL "
        f"OR partition_start < {timestamp(events.start_time)} THEN 'invalid' "
        f"WHEN future THEN 'future' {after_end}"
        f"WHEN partition_start + {Grain(events.grain).interval} <= watermark_before "
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
    attach_filesystem(connection, pattern)
    leftover = ledger.waiting(connection, pipeline)
    _read(connection, pipeline, events, leftover, step)
    listed = list_files(pattern)
    listing = ledger.record_listing(connection, settings, listed, clock())
    step("listed")
    _read(connection, pipeline, events, listing.new, step)
    ledger.forget_outside(connection, settings)
    revisions = [revision.revision for revision in (*leftover, *listing.new)]
    files, rows, changed = _told(connection, pipeline, revisions) if revisions else (0, 0, ())
    return Ingest(
        files=files,
        rows=rows,
        changed=changed,
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
    if not revisions:
        return
    stream = stream_columns(connection, pipeline)
    described = []
    for revision in revisions:
        try:
            described.append((revision, _describe(connection, pipeline, events, revision, stream)))
        except SourceFileError as error:
            ledger.mark_unreadable(connection, pipeline, revision, error)
    while described:
        first, found = described[0]
        kind = sources.kind_of(first.path)
        alike = [
            revision
            for revision, columns in described
            if columns == found
            and sources.kind_of(revision.path) == kind
            and revision.registered_at == first.registered_at
        ][:_FILES_AT_ONCE]
        taken = {revision.revision for revision in alike}
        described = [pair for pair in described if pair[0].revision not in taken]
        try:
            _judge(connection, pipeline, events, alike, found, stream)
        except duckdb.Error:
            for revision in alike:
                try:
                    _judge(connection, pipeline, events, [revision], found, stream)
                except duckdb.Error as error:
                    why = sources.unreadable(revision.path, error)
                    ledger.mark_unreadable(connection, pipeline, revision, why)
        step("manifest")


def _describe(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revision: Revision,
    stream: dict[str, str],
) -> dict[str, str]:
    """A file's columns; what the stream does not have yet, column or type, is added to it."""
    found = sources.describe(connection, revision.path)
    sources.check_columns(revision.path, found, events)
    if any(stream.get(name, sources.NOTHING) == sources.NOTHING for name in found):
        types = sources.stream_types(connection, revision.path, events)
        brought = {
            name: types[name]
            for name in found
            if stream.get(name) in (None, sources.NOTHING) and stream.get(name) != types[name]
        }
        sources.check_types(connection, revision.path, found, {**stream, **brought}, events)
        if brought:
            positions = {name: position for position, name in enumerate({**stream, **brought})}
            connection.executemany(
                f"INSERT INTO {quoted(pipeline)}.event_columns VALUES (?, ?, ?) "
                "ON CONFLICT (position) DO UPDATE SET type = excluded.type",
                [[positions[name], name, kind] for name, kind in brought.items()],
            )
        stream |= brought
    else:
        sources.check_types(connection, revision.path, found, stream, events)
    return found


def _judge(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    events: EventsSettings,
    revisions: Sequence[Revision],
    found: sources.Columns,
    stream: sources.Columns,
) -> None:
    """Writes the manifest of files of one listing and marks them read, in one transaction.

    The rows are summed up per file and partition before they are judged: their class is the same.
    """
    schema = quoted(pipeline)
    paths = [revision.path for revision in revisions]
    numbers = [revision.revision for revision in revisions]
    watermarks = [revision.watermark_before for revision in revisions]
    rows = sources.typed_rows(paths, found, stream, events)
    content = ", ".join(quoted(name) for name in stream if name in found)
    time, region = quoted(events.time), f"trim(CAST({quoted(events.region)} AS VARCHAR))"
    future_after = timestamp(revisions[0].registered_at + events.allowed_skew)
    with Transaction(connection):
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE _summed AS
            SELECT {sources.FILE_COLUMN} AS path,
                date_trunc('{events.grain}', {time}) AS partition_start,
                {quoted(events.id)} IS NULL OR coalesce({region}, '') = '' AS nameless,
                {time} > {future_after} AS future, count(*) AS rows,
                sum(hash({content})) AS fingerprint, max({time}) AS newest
            FROM ({rows}) GROUP BY ALL
            """
        )
        ids = _count_ids(connection, events, found, stream)
        connection.execute(
            f"""
            INSERT INTO {schema}.partition_manifest
            SELECT CASE WHEN class <> 'invalid' THEN partition_start END, revision, class,
                sum(rows), sum(fingerprint)::VARCHAR, max(newest), any_value(ids)
            FROM (
                SELECT *, {class_of_rows(events)} AS class
                FROM _summed JOIN (
                    SELECT unnest(?::VARCHAR[]) AS path, unnest(?::BIGINT[]) AS revision,
                        unnest(?::TIMESTAMP[]) AS watermark_before, unnest(?::BIGINT[]) AS ids
                ) USING (path)
            )
            GROUP BY ALL
            """,
            [paths, numbers, watermarks, [ids.get(path) for path in paths]],
        )
        connection.execute(
            f"UPDATE {schema}.source_files SET state = 'read', error = NULL, columns = ?, "
            "types = ? WHERE list_contains(?, revision)",
            [list(found), list(found.values()), numbers],
        )


def _count_ids(
    connection: duckdb.DuckDBPyConnection,
    events: EventsSettings,
    found: sources.Columns,
    stream: sources.Columns,
) -> dict[str, int]:
    """How many ids a large Parquet file holds that is one partition, whole; per path.

    Where none repeats, the partition needs no deduplication and is read in place. One file at a
    time: that is three times faster than counting within groups. Two ids of one hash would only
    take the other way.
    """
    whole = connection.execute(
        "SELECT path FROM _summed GROUP BY path HAVING count(*) = 1 "
        "AND NOT any_value(nameless) AND any_value(rows) >= ?",
        [WORTH_READING_IN_PLACE],
    ).fetchall()
    paths = [path for (path,) in whole if sources.format_of(path) == "parquet"]

    def count(connection: duckdb.DuckDBPyConnection, path: str) -> int:
        rows = sources.typed_rows([path], found, stream, events)
        ids = f"SELECT hash({quoted(events.id)}) FROM ({rows}) GROUP BY ALL"
        row = connection.execute(f"SELECT count(*) FROM ({ids})").fetchone()
        return int(row[0]) if row else 0

    if len(paths) <= 1:
        return {path: count(connection, path) for path in paths}
    with side_by_side(connection, min(len(paths), _READERS)) as submit:
        counts = [submit(partial(count, path=path)) for path in paths]
        return {path: counted.result() for path, counted in zip(paths, counts, strict=True)}


def _told(
    connection: duckdb.DuckDBPyConnection, pipeline: str, revisions: Sequence[int]
) -> tuple[int, int, tuple[datetime, ...]]:
    """Files and rows of revisions, and the partitions that they or what they replace touch."""
    schema = quoted(pipeline)
    entries = connection.execute(
        f"SELECT revision, partition_start, class, rows FROM {schema}.partition_manifest "
        f"JOIN {schema}.source_files USING (revision) WHERE path IN ("
        f"SELECT path FROM {schema}.source_files WHERE list_contains(?, revision))",
        [revisions],
    ).fetchall()
    these = set(revisions)
    read = [(entry[0], entry[3]) for entry in entries if entry[0] in these]
    changed = {entry[1] for entry in entries if entry[2] == "accepted"}
    return len({revision for revision, _ in read}), sum(n for _, n in read), tuple(sorted(changed))
