"""The ledger: which files were seen, what is in them, what was built from it.

Belongs here: the ledger's tables and the listing. Does not: finding files (`files.py`), judging
their rows (`manifest.py`), rows that do not count (`dead_letter.py`), deciding what is due
(`plan.py`), the commit (`commit.py`).

The ledger lies in the warehouse beside the data, so that both change in one transaction. Three
cursors are never mixed: the ingest sequence (`revision`, ours), the watermark (event time), and
closure (the watermark before a file's first listing).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ml_patterns.errors import UserError
from ml_patterns.incremental.files import LandedFile, look
from ml_patterns.incremental.grain import naive
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

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
        new: revisions numbered by it.
        missing: paths that were read before and are no longer there.
    """

    new: int
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


def _asked(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[object, ...] | None:
    """A row, or None where the table is missing: ten times cheaper than DuckDB's list of tables."""
    try:
        return connection.execute(sql).fetchone()
    except duckdb.CatalogException:
        return None


def reading_of(events: EventsSettings) -> str:
    """The settings that decide how a file's rows are read; a change reads every file again."""
    return "|".join(
        str(part)
        for part in (
            events.id, events.time, events.version, events.region,
            events.timezone, events.grain, events.start, events.end,
        )
    )  # fmt: skip


def watermark(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> datetime | None:
    """Event time up to which the stream is believed complete (UTC); None before the first event.

    Greatest event time accepted by all listings so far, minus the grace period. It never falls:
    revisions that were replaced still count.
    """
    if not exists(connection, settings.name):
        return None
    row = connection.execute(
        f"SELECT max(newest) FROM {quoted(settings.name)}.partition_manifest "
        "WHERE class = 'accepted'"
    ).fetchone()
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
    reading = reading_of(settings.events)
    before = watermark(connection, settings)
    known: dict[str, tuple[int, str, str, str]] = {
        path: (size, tag, held, state)
        for path, size, tag, held, state in connection.execute(
            f"SELECT path, size, tag, reading, state FROM {schema}.source_files "
            "QUALIFY row_number() OVER (PARTITION BY path ORDER BY revision DESC) = 1"
        ).fetchall()
    }
    new = [f for f in files if known.get(f.path, ())[:3] != (f.size, f.tag, reading)]
    listed = {file.path for file in files}
    missing = tuple(
        sorted(p for p, (*_, state) in known.items() if p not in listed and state == "read")
    )
    if not new:
        return Listing(0, missing)
    with Transaction(connection):
        listing = _next(connection, f"{schema}.listings", "listing")
        connection.execute(
            f"INSERT INTO {schema}.listings VALUES (?, ?, ?)",
            [listing, naive(registered_at), before and naive(before)],
        )
        first = _next(connection, f"{schema}.source_files", "revision")
        connection.executemany(
            f"""
            INSERT INTO {schema}.source_files
            SELECT ?, ?, ?, ?, l.listing,
                -- A corrected file keeps the watermark of its first revision.
                CASE WHEN f.revision IS NULL THEN l.watermark_before ELSE f.watermark_before END,
                l.registered_at, ?, 'listed', NULL, NULL, NULL
            FROM {schema}.listings l
            LEFT JOIN (
                SELECT * FROM {schema}.source_files WHERE path = ? ORDER BY revision LIMIT 1
            ) f ON TRUE
            WHERE l.listing = ?
            """,
            [
                [first + offset, f.path, f.size, f.tag, reading, f.path, listing]
                for offset, f in enumerate(new)
            ],
        )
    return Listing(len(new), missing)


def waiting(connection: duckdb.DuckDBPyConnection, pipeline: str) -> list[Revision]:
    """Registered revisions that were not read yet, in ingest order."""
    rows = connection.execute(
        f"SELECT revision, path, registered_at, watermark_before "
        f"FROM {quoted(pipeline)}.source_files WHERE state = 'listed' ORDER BY revision"
    ).fetchall()
    return [Revision(*row) for row in rows]


def mark_unreadable(
    connection: duckdb.DuckDBPyConnection, pipeline: str, revision: Revision, error: str
) -> None:
    """Notes why a revision cannot be read; it is tried again when the file changes."""
    gone = "disappeared" in error
    connection.execute(
        f"UPDATE {quoted(pipeline)}.source_files SET state = 'unreadable', error = ?, "
        # Whatever comes back under the name of a vanished file is new.
        f"tag = CASE WHEN ? THEN 'gone' ELSE tag END WHERE revision = ?",
        [error, gone, revision.revision],
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
