"""The ledger: which files were seen, what is in them, what was built from it.

Belongs here: the ledger's tables and the listing. Does not: finding files (`files.py`), judging
their rows (`manifest.py`), rows that do not count (`dead_letter.py`), deciding what is due
(`plan.py`), the commit (`commit.py`).

The ledger lies in the warehouse beside the data, so that both change in one transaction. Three
cursors are never mixed: the ingest sequence (`revision`, ours), the watermark (event time), and
closure (the watermark before a file's first listing).
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from ml_patterns.errors import FileNotDeliveredError, SourceFileError, UserError
from ml_patterns.incremental.files import LandedFile, look
from ml_patterns.incremental.grain import naive
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

_TABLES = (Path(__file__).parent / "ledger.sql").read_text()


@dataclass(frozen=True)
class Revision:
    """A file revision that was registered and waits to be read.

    Attributes:
        revision: our ingest sequence.
        watermark_before: of the listing that first saw this path; None for a first load.
        registered_at: of the listing that saw this revision.
    """

    revision: int
    path: str
    registered_at: datetime
    watermark_before: datetime | None


@dataclass(frozen=True)
class Listing:
    """What one look at the landed files changed.

    Attributes:
        new: revisions numbered by it, in ingest order.
        missing: paths that were read before and are no longer there.
    """

    new: tuple[Revision, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class UnreadableFile:
    """A file that could not be read, with the sentence that says why."""

    path: str
    error: str


@dataclass(frozen=True)
class Accounts:
    """Where every delivered row of the current readable revisions went."""

    delivered: int
    accepted: int
    too_late: int
    future: int
    invalid: int
    kept: int
    superseded: int
    duplicate: int


def ensure_tables(connection: duckdb.DuckDBPyConnection, pipeline: str) -> None:
    """Creates a pipeline's ledger where there is none, or where another version made it."""
    schema = quoted(pipeline)
    layout = hashlib.sha256(_TABLES.encode()).hexdigest()[:16]
    if _asked(connection, f"SELECT any_value(layout) FROM {schema}.ledger_layout") == (layout,):
        return
    with Transaction(connection):  # one write for all of them
        connection.execute(_TABLES.format(schema=schema))
        connection.execute(
            f"CREATE OR REPLACE TABLE {schema}.ledger_layout AS SELECT '{layout}' AS layout"
        )


def exists(connection: duckdb.DuckDBPyConnection, pipeline: str) -> bool:
    """Whether the pipeline has a ledger in this warehouse. Not for inside a transaction."""
    return (
        _asked(connection, f"SELECT count(*) FROM {quoted(pipeline)}.partition_state") is not None
    )


def _asked(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...] | None:
    """A row, or None where the table is missing: ten times cheaper than DuckDB's list of tables."""
    try:
        rows = connection.execute(sql).fetchall()  # a result left unread would bar the next `.sql`
    except duckdb.CatalogException:
        return None
    return rows[0] if rows else None


def watermark(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> datetime | None:
    """Event time up to which the stream is believed complete (UTC); None before the first event.

    Greatest event time accepted by all listings so far, minus the grace period. It never falls:
    revisions that were replaced still count.
    """
    row = _asked(
        connection,
        f"SELECT max(newest) FROM {quoted(settings.name)}.partition_manifest "
        "WHERE class = 'accepted'",
    )
    newest = row[0] if row else None
    return None if newest is None else (newest - settings.events.grace).replace(tzinfo=UTC)


def record_listing(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    files: Sequence[LandedFile],
    registered_at: datetime,
) -> Listing:
    """Numbers every new file revision, in one transaction.

    All files of an earlier listing must have been read (`waiting` is empty), so that the watermark
    is that of everything seen before.
    """
    schema = quoted(settings.name)
    reading = settings.events.judging
    before = watermark(connection, settings)
    # The newest revision of each path: the last one wins. A listing costs a history of files what
    # it costs for each of them, here and in `list_files`, so that little is done for each.
    known = {
        row[0]: row
        for row in connection.execute(
            "SELECT path, size, CASE WHEN reading = ? THEN tag END "
            f"FROM {schema}.source_files ORDER BY revision",
            [reading],
        ).fetchall()
    }
    none = (None,) * 3
    new = [f for f in files if (row := known.get(f.path, none))[1] != f.size or row[2] != f.tag]
    missing = _read_before(connection, schema, known.keys() - {file.path for file in files})
    if not new:
        return Listing((), missing)
    at, mark = naive(registered_at), before and naive(before)
    firsts = _first_watermarks(connection, schema, [f.path for f in new if f.path in known])
    with Transaction(connection):
        first, listing = connection.execute(
            f"SELECT (SELECT coalesce(max(revision), 0) + 1 FROM {schema}.source_files), "
            f"(SELECT coalesce(max(listing), 0) + 1 FROM {schema}.listings)"
        ).fetchall()[0]
        numbered = tuple(
            Revision(first + offset, file.path, at, firsts.get(file.path, mark))
            for offset, file in enumerate(new)
        )
        connection.execute(f"INSERT INTO {schema}.listings VALUES (?, ?, ?)", [listing, at, mark])
        connection.execute(
            f"INSERT INTO {schema}.source_files SELECT unnest(?::BIGINT[]), unnest(?::VARCHAR[]), "
            "unnest(?::BIGINT[]), unnest(?::VARCHAR[]), ?, unnest(?::TIMESTAMP[]), ?, ?, 'listed', "
            "NULL, NULL, NULL",
            [
                [revision.revision for revision in numbered], [file.path for file in new],
                [file.size for file in new], [file.tag for file in new], listing,
                [revision.watermark_before for revision in numbered], at, reading,
            ],
        )  # fmt: skip
    return Listing(numbered, missing)


def _read_before(
    connection: duckdb.DuckDBPyConnection, schema: str, paths: Collection[str]
) -> tuple[str, ...]:
    """Those of some paths whose rows count, by whichever revision of theirs could be read."""
    if not paths:
        return ()
    rows = connection.execute(
        f"SELECT path FROM {schema}.current_files "
        "WHERE state = 'read' AND list_contains(?, path) ORDER BY path",
        [list(paths)],
    ).fetchall()
    return tuple(path for (path,) in rows)


def _first_watermarks(
    connection: duckdb.DuckDBPyConnection, schema: str, corrected: Sequence[str]
) -> dict[str, datetime | None]:
    """A corrected file keeps the watermark of its first revision."""
    if not corrected:
        return {}
    return dict(
        connection.execute(
            f"SELECT path, watermark_before FROM {schema}.source_files "
            "WHERE list_contains(?, path) "
            "QUALIFY row_number() OVER (PARTITION BY path ORDER BY revision) = 1",
            [list(corrected)],
        ).fetchall()
    )


def waiting(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[Revision]:
    """Registered revisions that were not read yet, in ingest order."""
    rows = connection.execute(
        f"SELECT revision, path, registered_at, watermark_before "
        f"FROM {quoted(pipeline)}.source_files WHERE state = 'listed' ORDER BY revision"
    ).fetchall()
    return [Revision(*row) for row in rows]


def mark_unreadable(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    revision: Revision,
    error: SourceFileError,
) -> None:
    """Notes why a revision cannot be read; it is tried again when the file changes.

    Where the file is not at fault (it vanished, its store did not deliver it), whatever the next
    listing finds under its name is new.
    """
    connection.execute(
        f"UPDATE {quoted(pipeline)}.source_files SET state = 'unreadable', error = ?, "
        f"tag = CASE WHEN ? THEN 'unknown' ELSE tag END WHERE revision = ?",
        [str(error), isinstance(error, FileNotDeliveredError), revision.revision],
    )


def unreadable_files(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[UnreadableFile]:
    """Files whose newest revision could not be read."""
    rows = connection.execute(
        f"SELECT path, error FROM (SELECT * FROM {quoted(pipeline)}.source_files "
        "QUALIFY row_number() OVER (PARTITION BY path ORDER BY revision DESC) = 1) "
        "WHERE state = 'unreadable' ORDER BY path"
    ).fetchall()
    return [UnreadableFile(*row) for row in rows]


def acknowledge_removal(
    connection: duckdb.DuckDBPyConnection, pipeline: str, paths: Iterable[str], at: datetime
) -> None:
    """Takes the rows of removed files out of their partitions, which become due.

    Raises:
        UserError: a path was never read, or its file is still there.
    """
    schema = quoted(pipeline)
    with Transaction(connection):
        for path in paths:
            if look(path):
                raise UserError(f"{path} is still there; remove the file before letting it go")
            revision = _next(connection, f"{schema}.source_files", "revision")
            known = connection.execute(
                f"INSERT INTO {schema}.source_files SELECT ?, path, 0, 'removed', listing, "
                f"watermark_before, ?, reading, 'removed', NULL, columns, types "
                f"FROM {schema}.current_files WHERE path = ? AND state = 'read' RETURNING path",
                [revision, naive(at), path],
            ).fetchone()
            if known is None:
                raise UserError(
                    f"no file {path} was read by pipeline {pipeline}; "
                    f'name it as `ml-patterns sql "FROM {pipeline}.current_files"` shows it'
                )


def forget_outside(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> None:
    """Takes out what was built of partitions before `events.start` or from `events.end` on.

    The settings were changed since: these are no partitions any more, and nobody could build them.
    """
    schema, events = quoted(settings.name), settings.events
    outside = "(partition_start < ? OR partition_start >= coalesce(?, 'infinity'::TIMESTAMP))"
    bounds = [naive(events.start_time), events.end_time and naive(events.end_time)]
    state = f"FROM {schema}.partition_state WHERE {outside}"
    if not connection.execute(f"SELECT 1 {state} LIMIT 1", bounds).fetchall():
        return
    with Transaction(connection):
        connection.execute(f"DELETE {state}", bounds)
        connection.execute(f"DELETE FROM {schema}.run_cost WHERE {outside}", bounds)
        for table in ("event_aggregates", "event_features"):
            if has_table(connection, settings.name, table):
                connection.execute(f"DELETE FROM {schema}.{table} WHERE {outside}", bounds)


def stream_columns(connection: duckdb.DuckDBPyConnection, pipeline: str) -> dict[str, str]:
    """The columns of the stream and their types, in the order in which files brought them."""
    return dict(
        connection.execute(
            f"SELECT name, type FROM {quoted(pipeline)}.event_columns ORDER BY position"
        ).fetchall()
    )


def accounts(connection: duckdb.DuckDBPyConnection, pipeline: str) -> Accounts:
    """Sums the ledger over the current readable revisions; costs no look at the data."""
    schema = quoted(pipeline)
    classes = connection.execute(
        f"SELECT coalesce(sum(rows), 0), coalesce(sum(rows) FILTER (counts), 0), "
        "coalesce(sum(rows) FILTER (NOT counts AND class = 'too_late'), 0), "
        "coalesce(sum(rows) FILTER (NOT counts AND class = 'future'), 0), "
        "coalesce(sum(rows) FILTER (NOT counts AND class = 'invalid'), 0) "
        f"FROM {schema}.entries"
    ).fetchone()
    kept = connection.execute(
        "SELECT coalesce(sum(kept), 0), coalesce(sum(superseded), 0), "
        f"coalesce(sum(duplicate), 0) FROM {schema}.run_cost "
        f"JOIN {schema}.partition_state USING (layer, partition_start, generation) "
        "WHERE layer = 'aggregates'"
    ).fetchone()
    return Accounts(*map(int, (*(classes or ()), *(kept or ()))))


class Transaction:
    """Commits what happens inside, or nothing of it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN TRANSACTION")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _next(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> int:
    row = connection.execute(f"SELECT coalesce(max({column}), 0) + 1 FROM {table}").fetchone()
    return int(row[0]) if row else 1
