"""Some landed files, read for a first look at them.

Belongs here: finding the files, reading them, facts on each column. Does not: what the columns
mean (`roles.py`), reading files in a pipeline (`incremental/sources.py`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ml_patterns.errors import SourceFileError, UserError
from ml_patterns.incremental.files import LandedFile, attach_filesystem, list_files
from ml_patterns.incremental.sources import format_of, scan, unreadable
from ml_patterns.storage.sql import quoted

MOST_BYTES = 64 * 1024 * 1024
"""Size of the files that are read; of more, the first and the newest."""

_ENDINGS = ".parquet, .csv, .csv.gz, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz and .json"
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
            "UINTEGER", "UBIGINT", "UHUGEINT")  # fmt: skip
_LIKE_A_TIME = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:.*)?$"
_ALMOST_ALL = 0.99


@dataclass(frozen=True)
class Column:
    """A column of the sample.

    Attributes:
        type: DuckDB's; texts that are times count as TIMESTAMP.
        rows: that have a value.
        values: distinct ones.
    """

    name: str
    type: str
    rows: int
    values: int

    @property
    def is_time(self) -> bool:
        """A date or a time with a date."""
        return self.type.startswith("TIMESTAMP") or self.type == "DATE"

    @property
    def is_text(self) -> bool:
        """A text, such as a category or a name."""
        return self.type == "VARCHAR" or self.type.startswith("ENUM")

    @property
    def is_whole(self) -> bool:
        """A whole number."""
        return self.type in _NUMBERS

    @property
    def is_number(self) -> bool:
        """A number, whole or not."""
        return self.is_whole or self.type in ("FLOAT", "DOUBLE") or self.type.startswith("DECIMAL")


@dataclass(frozen=True)
class Sample:
    """Rows of some landed files, in the table `rows` of an in-memory database.

    Attributes:
        path: what `events.path` should say.
        found: files that it matches.
        read: files of them that the sample holds.
    """

    connection: duckdb.DuckDBPyConnection
    path: str
    found: int
    read: int
    rows: int
    columns: Mapping[str, Column]

    def one(self, query: str) -> tuple[object, ...]:
        """The first row of a query's result."""
        return self.connection.execute(query).fetchone() or ()

    def share(self, condition: str, table: str = "rows") -> float:
        """Of a table's rows, the share for which a condition holds."""
        (value,) = self.one(
            f"SELECT coalesce(avg(CAST(coalesce({condition}, false) AS INTEGER)), 0) FROM {table}"
        )
        return float(str(value))


def read_sample(events: str, project: Path) -> Sample:
    """Reads a file, the files of a folder, or those that a glob matches.

    Args:
        events: relative to the working directory, absolute, or an fsspec URL.
        project: a path within it is proposed relative to it.

    Raises:
        UserError: there is no file that can be read; one sentence says why.
    """
    pattern, listed = _listed(events)
    chosen = _chosen(listed)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    attach_filesystem(connection, pattern)
    _read(connection, [file.path for file in chosen])
    (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone() or (0,)
    if not rows:
        raise UserError(f"{events}: the files hold no row; land events first")
    return Sample(
        connection, _relative(pattern, project), len(listed), len(chosen), rows,
        _columns(connection, rows),
    )  # fmt: skip


def _listed(events: str) -> tuple[str, list[LandedFile]]:
    """The glob and its files."""
    if "://" in events or any(sign in events for sign in "*?["):
        pattern = events if "://" in events else str(Path(events).absolute())
        listed = list_files(pattern)
        if not listed:
            raise UserError(f"{events} matches no file; name a folder, a file or a glob")
        kinds = {format_of(file.path) for file in listed}
        if len(kinds) > 1:
            raise UserError(
                f"{events} matches files of several formats ({', '.join(sorted(kinds))}); "
                "narrow it to one"
            )
        return pattern, listed
    path = Path(events).absolute()
    if path.is_file():
        format_of(str(path))
        return str(path), list_files(str(path))
    if not path.is_dir():
        raise UserError(f"there is no file or folder {events}; name one that holds events")
    for everything in (path / "*", path / "**" / "*"):
        listed = [file for file in list_files(str(everything)) if _readable(file.path)]
        if listed:
            ending = Counter(_ending(file.path) for file in listed).most_common(1)[0][0]
            narrowed = f"{everything}{ending}"
            return narrowed, list_files(narrowed)
    raise UserError(f"{events} holds no file that can be read as events; they end in {_ENDINGS}")


def _readable(path: str) -> bool:
    try:
        format_of(path)
    except SourceFileError:
        return False
    return True


def _ending(path: str) -> str:
    name = Path(path).name
    return "".join(Path(name).suffixes[-2:]) if name.endswith(".gz") else Path(name).suffix


def _chosen(listed: list[LandedFile]) -> list[LandedFile]:
    """All files, or the first and as many of the newest (by name) as may be read."""
    size, newest = listed[0].size, list[LandedFile]()
    for file in reversed(listed[1:]):
        size += file.size
        if newest and size > MOST_BYTES:
            break
        newest.insert(0, file)
    return [listed[0], *newest]


def _relative(pattern: str, project: Path) -> str:
    if "://" in pattern:
        return pattern
    path = Path(pattern)
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else pattern


def _read(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    """Makes the table `rows`; times as UTC timestamps."""
    try:
        connection.execute(
            f"CREATE TABLE read AS SELECT * EXCLUDE (_file) FROM {scan(paths, as_text=False)}"
        )
    except duckdb.Error as error:
        raise unreadable(paths[0], error) from error
    types = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE read)")
                 .fetchall())  # fmt: skip
    times = [name for name, kind in types.items() if _holds_times(connection, name, kind)]
    converted = ", ".join(
        f"timezone('UTC', TRY_CAST({quoted(name)} AS TIMESTAMPTZ)) AS {quoted(name)}"
        for name in times
    )
    replaced = f" REPLACE ({converted})" if times else ""
    connection.execute(f"CREATE TABLE rows AS SELECT *{replaced} FROM read")
    connection.execute("DROP TABLE read")


def _holds_times(connection: duckdb.DuckDBPyConnection, name: str, kind: str) -> bool:
    if kind != "VARCHAR":
        return kind.startswith("TIMESTAMP") or kind == "DATE"
    column = quoted(name)
    found = connection.execute(
        f"SELECT avg(CAST(regexp_matches({column}, ?) AND TRY_CAST({column} AS TIMESTAMPTZ) "
        f"IS NOT NULL AS INTEGER)) FROM read WHERE {column} IS NOT NULL",
        [_LIKE_A_TIME],
    ).fetchone()
    return bool(found and found[0] is not None and found[0] >= _ALMOST_ALL)


def _columns(connection: duckdb.DuckDBPyConnection, rows: int) -> dict[str, Column]:
    described = connection.execute(
        "SELECT column_name, column_type FROM (DESCRIBE rows)"
    ).fetchall()
    facts = ", ".join(
        f"count({quoted(name)}), count(DISTINCT {quoted(name)})" for name, _ in described
    )
    found = connection.execute(f"SELECT {facts} FROM rows").fetchone() or ()
    return {
        name: Column(name, kind, found[2 * place], found[2 * place + 1])
        for place, (name, kind) in enumerate(described)
    }
