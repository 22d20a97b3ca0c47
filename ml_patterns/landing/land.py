"""Landing what changed in a table since the last time.

Belongs here: reading from the overlap on, leaving out what has landed, writing the rest. Does not:
the connection (`table.py`), types (`typed.py`), files and the cursor's place (`files.py`).

Everything after it is one path: the pipeline registers the files as any others, and its newest
version of an event wins. So a row that lands twice would do no harm; it is left out so that an
idle table lands nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from ml_patterns.errors import SettingsError
from ml_patterns.landing.cursor import Cursor
from ml_patterns.landing.files import Landed, LandingFolder
from ml_patterns.landing.settings import SourceSettings
from ml_patterns.landing.table import Rows, Table
from ml_patterns.landing.typed import typed, types_of
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import literal, quoted

Step = Callable[[str], None]


@dataclass(frozen=True)
class Landing:
    """What one reading of a table came to.

    Attributes:
        files: that landed.
        rows: in them.
        read: rows that were read, those of the overlap included.
        without_cursor: rows of the table that can never land.
        high: the greatest cursor; None: the table is empty.
    """

    files: tuple[Path, ...]
    rows: int
    read: int
    without_cursor: int
    high: Cursor | None


def source_of(settings: PipelineSettings) -> SourceSettings:
    """The pipeline's table.

    Raises:
        SettingsError: it has none.
    """
    if settings.source is None:
        raise SettingsError(
            f"pipeline {settings.name} has no source: its events land as files by themselves; give "
            "it a block source to land a table"
        )
    return settings.source


def land(settings: PipelineSettings, step: Step = lambda name: None) -> Landing:
    """Lands the rows that are new or changed, as Parquet files of at most `batch_rows` rows.

    Killed at any instant, what landed stays and says how far it goes; the next call lands the rest.

    Args:
        step: called at each boundary; tests end the process there.

    Raises:
        UserError: settings, the database or its types; one sentence, never a credential.
        ConflictError: another process lands the same table at this moment.
    """
    source = source_of(settings)
    folder, table = LandingFolder(settings, source), Table(source)
    folder.clear(time.time())
    newest = folder.newest()
    number, high = (newest.number, newest.high) if newest else (0, None)
    files: list[Path] = []
    landed = read = 0
    with _batches(source, folder, table, newest) as batches:
        for batch in batches:
            step("read")
            read, high = read + batch.read, batch.high
            if batch.fresh.num_rows:
                number += 1
                files.append(folder.write(batch.fresh, number, batch.high))
                landed += batch.fresh.num_rows
                step("landed")
    return Landing(tuple(files), landed, read, table.without_cursor(), high)


def waits(settings: PipelineSettings) -> str | None:
    """What lands next, as a key that stays the same until it has landed; None: nothing waits.

    Raises:
        UserError: as `land`.
    """
    source = source_of(settings)
    folder = LandingFolder(settings, source)
    newest = folder.newest()
    with _batches(source, folder, Table(source), newest) as batches:
        fresh = any(batch.fresh.num_rows for batch in batches)
    return str(newest.number + 1 if newest else 1) if fresh else None


@dataclass(frozen=True)
class _Batch:
    """Rows of a file's worth of reading that have not landed yet; `high`: see `Landed`."""

    fresh: pa.Table
    read: int
    high: Cursor


@contextmanager
def _batches(
    source: SourceSettings, folder: LandingFolder, table: Table, newest: Landed | None
) -> Iterator[Iterator[_Batch]]:
    """What was read from the overlap on."""
    since = newest.high.back(source) if newest else None
    with duckdb.connect() as connection, table.rows(since) as rows:
        connection.execute("SET TimeZone = 'UTC'")
        types = types_of(connection, rows, newest.columns if newest else None, source)
        known = _known(connection, folder, newest, since, types)
        yield _read(connection, source, rows, types, known, newest.high if newest else None)


def _read(
    connection: duckdb.DuckDBPyConnection,
    source: SourceSettings,
    rows: Rows,
    types: dict[str, str | None],
    known: bool,
    high: Cursor | None,
) -> Iterator[_Batch]:
    place = rows.columns.index(source.cursor)
    for batch in rows.batches:
        last = Cursor.of(batch[-1][place], source)
        high = last if high is None or high.before(last) else high
        found = typed(connection, rows.columns, batch, types, source)
        # What the first values decided holds for all that follow.
        types = types_of(connection, rows, found.schema, source)
        yield _Batch(_fresh(connection, found, source) if known else found, len(batch), high)


def _known(
    connection: duckdb.DuckDBPyConnection,
    folder: LandingFolder,
    newest: Landed | None,
    since: Cursor | None,
    types: dict[str, str | None],
) -> bool:
    """Makes `_known`, the rows that landed from a cursor on; False before the first file."""
    if newest is None or since is None:
        return False
    files = folder.since(newest, since)
    paths = ", ".join(literal(str(file.path)) for file in files)
    held = {name for file in files for name in file.columns.names}
    columns = ", ".join(
        quoted(name) if name in held else f"NULL AS {quoted(name)}" for name in types
    )
    connection.execute(
        f"CREATE TEMP TABLE _known AS SELECT {columns} "
        f"FROM read_parquet([{paths}], union_by_name = true)"
    )
    return True


def _fresh(
    connection: duckdb.DuckDBPyConnection, found: pa.Table, source: SourceSettings
) -> pa.Table:
    """The rows that have not landed yet, in the cursor's order."""
    connection.register("_found", found)
    fresh = connection.sql(
        "SELECT * FROM (SELECT * FROM _found EXCEPT SELECT * FROM _known) "
        f"ORDER BY {quoted(source.cursor)}"
    ).to_arrow_table()
    connection.unregister("_found")
    return fresh
