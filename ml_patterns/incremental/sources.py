"""Landed files as one typed relation.

Belongs here: formats, column types, times. Does not: finding files (`files.py`), remembering which
file was seen (`ledger.py`), judging rows (`manifest.py`).

The types of the stream's columns are those of the first file that brought a value of each; later
files are cast to them, and a value that cannot be cast makes its file unreadable rather than wrong.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import duckdb

from ml_patterns.errors import FileNotDeliveredError, SettingsError, SourceFileError
from ml_patterns.incremental.files import list_files
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.engine import scratch
from ml_patterns.storage.sql import literal, quoted

FILE_COLUMN = "_file"
_TIME = "TIMESTAMP"
_SAMPLE = 3
# After a clock time: a date ends alike.
_HAS_OFFSET = r":\d{2}(\.\d+)?\s*(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?)\s*$"
_PASSES = re.compile(r"([\w.]*\.)?(\w*(Connection|Timeout)\w*|BrokenPipeError|OSError)\b")
_HIVE_KEY = re.compile(r"([^/=]+)=[^/]*/")
NOTHING = '"NULL"'
"""The type of a column of which no file has brought a value yet."""
_INTEGERS = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER",
    "UBIGINT", "UHUGEINT",
)  # fmt: skip
_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".ndjson": "json",
    ".ndjson.gz": "json",
    ".json": "json",
}

Columns = Mapping[str, str]
"""Column name -> DuckDB type."""


def format_of(path: str) -> str:
    """`parquet`, `csv` or `json`.

    Raises:
        SourceFileError: the ending is none that we read.
    """
    for ending, name in _FORMATS.items():
        if path.lower().endswith(ending):
            return name
    raise SourceFileError(
        f"{path} has an ending that is not read; land {', '.join(_FORMATS)} or narrow events.path"
    )


def kind_of(path: str) -> tuple[str, ...]:
    """Files of one kind can be read together: the format, and which columns the folders give."""
    return (format_of(path), *_HIVE_KEY.findall(path))


def scan(paths: Sequence[str], *, as_text: bool = True) -> str:
    """A table function over files of one kind; CSV as text unless its types are asked for."""
    files = f"[{', '.join(map(literal, paths))}]"
    # Left to itself DuckDB takes no folder for a column as soon as one of the files lies elsewhere.
    hive = "true" if _HIVE_KEY.search(paths[0]) else "false"
    # A folder `region=17` is text like `region=eu`, or its type would depend on what lies there.
    options = (
        f"union_by_name = true, hive_partitioning = {hive}, hive_types_autocast = false, "
        f"filename = {literal(FILE_COLUMN)}"
    )
    match format_of(paths[0]):
        case "parquet":
            return f"read_parquet({files}, {options})"
        case "csv":
            types = "all_varchar = true" if as_text else "sample_size = -1"
            return f"read_csv({files}, {options}, header = true, {types})"
        case _:
            # Of what comes after a sample a new key would be dropped, and a fraction rounded.
            return f"read_json({files}, {options}, format = 'newline_delimited', sample_size = -1)"


def describe(
    connection: duckdb.DuckDBPyConnection, path: str, *, as_text: bool = True
) -> dict[str, str]:
    """Columns and types of one file.

    Raises:
        SourceFileError: it is gone, empty, truncated or not of its format; says which file.
    """
    try:
        rows = connection.execute(
            f"DESCRIBE SELECT * EXCLUDE ({FILE_COLUMN}) FROM {scan([path], as_text=as_text)}"
        ).fetchall()
    except duckdb.Error as error:
        raise unreadable(path, error) from error
    return {row[0]: row[1] for row in rows}


def count_rows(connection: duckdb.DuckDBPyConnection, path: str) -> int:
    """Rows of a file as it lies there now."""
    row = connection.execute(f"SELECT count(*) FROM {scan([path])}").fetchone()
    return int(row[0]) if row else 0


def unreadable(path: str, error: Exception) -> SourceFileError:
    """What DuckDB raised as one sentence that names the file and what is wrong with it."""
    lines = str(error).strip().splitlines()
    # A store of fsspec fails in Python: what it says stands below its stack, which is indented.
    below = (line for line in lines[1:] if not line.startswith(" "))
    first_line = next(below, lines[0]) if lines[0].startswith("Traceback") else lines[0]
    if _PASSES.match(first_line):
        return FileNotDeliveredError(
            f"{path} was not delivered ({first_line}); it is tried again by the next registration"
        )
    if "No files found" in first_line or "No such file" in first_line:
        return FileNotDeliveredError(
            f"{path} disappeared between listing and reading; it is read when it comes back"
        )
    return SourceFileError(f"{path} cannot be read ({first_line}); land it again whole")


def check_columns(path: str, found: Iterable[str], events: EventsSettings) -> None:
    """A file must have the four columns that the settings name.

    Raises:
        SourceFileError: names the file, the missing columns and those that are there.
    """
    columns = list(found)
    missing = [
        f"{name} (events.{setting})"
        for setting, name in (
            ("id", events.id),
            ("time", events.time),
            ("version", events.version),
            ("region", events.region),
        )
        if name not in columns
    ]
    if missing:
        raise SourceFileError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}: "
            "land it again with its header, or correct the setting"
        )


def verify_columns(settings: PipelineSettings) -> str | None:
    """Looks at a few landed files when a pipeline is loaded; one that fits is enough.

    Returns:
        A warning where no file has landed yet: the stream may not have started.

    Raises:
        SettingsError: a column that the settings name is not in the events; names it and those
            that are.
    """
    if "://" in settings.event_glob:
        return None  # loading a code location must not depend on the network
    listed = list_files(settings.event_glob)
    if not listed:
        return f"events.path of pipeline {settings.name} matches no file yet: {settings.event_glob}"
    sample = {file.path: file for file in (*listed[:_SAMPLE], *listed[-_SAMPLE:])}
    mistake: SourceFileError | None = None
    with scratch() as connection:
        for path in sample:
            try:
                found = describe(connection, path)
            except SourceFileError:
                continue  # the next listing says what is wrong with it
            try:
                check_columns(path, found, settings.events)
            except SourceFileError as error:
                mistake = error
            else:
                return None
    if mistake:
        raise SettingsError(f"pipeline {settings.name}: {mistake}") from mistake
    return None


def stream_types(
    connection: duckdb.DuckDBPyConnection, path: str, events: EventsSettings
) -> dict[str, str]:
    """The types that a file's columns would give the stream; both times become UTC timestamps.

    A column without a value is `NOTHING`: labels come later than the events.

    In CSV and JSON, ids and regions are text: whether `007` is a number must not depend on which
    file came first.
    """
    types = describe(connection, path, as_text=False) | dict.fromkeys(
        (events.time, events.version), _TIME
    )
    if format_of(path) != "parquet":
        types |= dict.fromkeys((events.id, events.region), "VARCHAR")
        empty = [name for name, kind in types.items() if kind in ("VARCHAR", "JSON")]
        types |= dict.fromkeys(_without_a_value(connection, path, empty), NOTHING)
    return types


def _without_a_value(
    connection: duckdb.DuckDBPyConnection, path: str, names: Sequence[str]
) -> list[str]:
    """Those of some columns of a file that are NULL in every row."""
    if not names:
        return []
    counted = ", ".join(f"count({quoted(name)})" for name in names)
    (row,) = connection.execute(f"SELECT {counted} FROM {scan([path])}").fetchall()
    return [name for name, count in zip(names, row, strict=True) if not count]


def check_types(
    connection: duckdb.DuckDBPyConnection,
    path: str,
    found: Columns,
    stream: Columns,
    events: EventsSettings,
) -> None:
    """Every value of a file must fit the stream's types without loss.

    Raises:
        SourceFileError: names the file, the column, a value and the type.
    """
    for name, kind in found.items():
        if name in (events.time, events.version):
            if not (kind.startswith(_TIME) or kind in ("DATE", "VARCHAR", NOTHING)):
                raise SourceFileError(
                    f"{path}: column {name} is {kind}, not a time; land it as a timestamp"
                )
            continue
        wanted = stream[name]
        if kind == wanted or wanted in ("VARCHAR", NOTHING):
            continue
        column, cast = quoted(name), f"TRY_CAST({quoted(name)} AS {wanted})"
        wider = _wider(wanted) if kind == "VARCHAR" else None
        lossy = ""
        if wider:
            lossy = f" OR TRY_CAST({column} AS {wider}) <> CAST({cast} AS {wider})"
        elif kind != "VARCHAR":
            lossy = f" OR CAST({cast} AS {kind}) IS DISTINCT FROM {column}"
        try:
            example = connection.execute(
                f"SELECT CAST({column} AS VARCHAR) FROM {scan([path])} "
                f"WHERE {column} IS NOT NULL AND ({cast} IS NULL{lossy}) LIMIT 1"
            ).fetchone()
        except duckdb.Error as error:
            raise unreadable(path, error) from error
        if example:
            raise SourceFileError(
                f"{path}: column {name} holds {example[0]!r}, which is no {wanted} as in earlier "
                "files; land it again with the old type"
            )


def _wider(kind: str) -> str | None:
    """A type in which a text keeps what it would lose in another: a fraction, a time of day."""
    if kind in _INTEGERS:
        return "DOUBLE"
    if kind == "DATE":
        return _TIME
    if scale := re.fullmatch(r"DECIMAL\(\d+,(\d+)\)", kind):
        return f"DECIMAL(38,{min(int(scale[1]) + 6, 38)})"
    return None


def typed_rows(
    paths: Sequence[str],
    found: Columns,
    stream: Columns,
    events: EventsSettings,
    between: tuple[str, str] | None = None,
) -> str:
    """A SELECT of files that share their columns: the stream's columns, typed, and `_file`.

    Args:
        paths: files of one kind.
        found: the files' own columns and types.
        stream: the stream's columns and types; what a file lacks is NULL.
        between: bounds of the event time, as SQL timestamps, that the scan may use to skip.
    """
    selected = [
        f"{_converted(name, kind, found, events)} AS {quoted(name)}"
        for name, kind in stream.items()
    ]
    where = ""
    if between and found[events.time] == _TIME and events.timezone == "UTC":
        column = quoted(events.time)
        where = f" WHERE {column} >= {between[0]} AND {column} < {between[1]}"
    return f"SELECT {', '.join(selected)}, {FILE_COLUMN} FROM {scan(paths)}{where}"


def _converted(name: str, kind: str, found: Columns, events: EventsSettings) -> str:
    if name not in found or kind == NOTHING:
        return f"CAST(NULL AS {kind})"
    if name in (events.time, events.version):
        return _utc(quoted(name), found[name], events.timezone)
    return quoted(name) if found[name] == kind else f"CAST({quoted(name)} AS {kind})"


def _utc(column: str, kind: str, zone: str) -> str:
    """A time column as UTC timestamps without zone; what is no finite time is NULL."""
    local = f"TRY_CAST({column} AS TIMESTAMP)"
    if zone != "UTC":
        local = f"timezone('UTC', timezone({literal(zone)}, {local}))"
    aware = f"timezone('UTC', TRY_CAST({column} AS TIMESTAMPTZ))"
    if kind == "TIMESTAMP WITH TIME ZONE":
        value = aware
    elif kind == "VARCHAR":
        value = (
            f"CASE WHEN regexp_matches({column}, {literal(_HAS_OFFSET)}) THEN {aware} "
            f"ELSE {local} END"
        )
    else:
        value = local
    return f"CASE WHEN isfinite({value}) THEN {value} END"
