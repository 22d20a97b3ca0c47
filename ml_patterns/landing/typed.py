"""Rows of a database as a typed table, the same types in every file.

Belongs here: which type a column has, and casting without loss. Does not: reading the rows
(`table.py`).

A column keeps the type that it first landed with. Before that, `source.types` decides, then what
the database declares, then the values.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from ml_patterns.errors import UserError
from ml_patterns.landing.settings import SourceSettings
from ml_patterns.landing.table import Row, Rows
from ml_patterns.storage.sql import quoted

_AS_THEY_ARE = (bool, int, float, str, bytes, datetime, date, Decimal)


def types_of(
    connection: duckdb.DuckDBPyConnection,
    rows: Rows,
    landed: pa.Schema | None,
    source: SourceSettings,
) -> dict[str, str | None]:
    """DuckDB's type of each column; None where only the values can tell.

    Raises:
        UserError: a column that has landed before is gone, or `source.types` names one that is not
            there.
    """  # fmt: skip
    before: dict[str, str] = {}
    if landed is not None:
        connection.register("_landed", landed.empty_table())
        before = dict(connection.execute(
            "SELECT column_name, column_type FROM (DESCRIBE _landed)").fetchall())  # fmt: skip
        connection.unregister("_landed")
    gone = [name for name in before if name not in rows.columns]
    if gone:
        raise UserError(
            f"{source.told} has no column {', '.join(gone)} any more, which landed before; put it "
            "back, or select NULL for it in source.query"
        )
    unknown = [name for name in source.types if name not in rows.columns]
    if unknown:
        raise UserError(
            f"source.types names {', '.join(unknown)}, which {source.told} does not have; it has "
            f"{', '.join(rows.columns)}"
        )
    declared = {name: _declared(kind) for name, kind in rows.declared.items()}
    return {
        name: before.get(name) or source.types.get(name) or declared.get(name)
        for name in rows.columns
    }


def _declared(kind: sa.types.TypeEngine[Any]) -> str | None:
    """DuckDB's type for SQLAlchemy's."""
    match kind:
        case sa.Boolean():
            return "BOOLEAN"
        case sa.Integer():
            return "BIGINT"
        case sa.Float():
            return "DOUBLE"
        case sa.Numeric():
            whole = kind.precision is not None and kind.precision <= 38
            return f"DECIMAL({kind.precision}, {kind.scale or 0})" if whole else "DOUBLE"
        case sa.DateTime():
            return "TIMESTAMP WITH TIME ZONE" if kind.timezone else "TIMESTAMP"
        case sa.Date():
            return "DATE"
        case sa.LargeBinary():
            return "BLOB"
        case sa.types.NullType():
            return None
        case _:
            return "VARCHAR"


def typed(
    connection: duckdb.DuckDBPyConnection,
    columns: Sequence[str],
    rows: Sequence[Row],
    types: Mapping[str, str | None],
    source: SourceSettings,
) -> pa.Table:
    """Rows with their types.

    Raises:
        UserError: a value does not fit its column's type without loss, or a column's type is open.
    """
    values = {name: _array([row[place] for row in rows]) for place, name in enumerate(columns)}
    connection.register("_rows", pa.table(values))
    kinds = dict(connection.execute(
        "SELECT column_name, column_type FROM (DESCRIBE _rows)").fetchall())  # fmt: skip
    casts = []
    for name in columns:
        wanted = types[name]
        if wanted is None:
            if pa.types.is_null(values[name].type):
                raise UserError(
                    f"column {name} of {source.told} has no value yet and no declared type; say "
                    f"it in the settings, such as source: {{types: {{{name}: BOOLEAN}}}}"
                )
            wanted = kinds[name]
        if not pa.types.is_null(values[name].type):
            _check(connection, name, kinds[name], wanted, source)
        casts.append(f"CAST({quoted(name)} AS {wanted}) AS {quoted(name)}")
    table = connection.sql(f"SELECT {', '.join(casts)} FROM _rows").to_arrow_table()
    connection.unregister("_rows")
    return table


def _check(
    connection: duckdb.DuckDBPyConnection, name: str, kind: str, wanted: str, source: SourceSettings
) -> None:
    if kind == wanted:
        return
    column, cast = quoted(name), f"TRY_CAST({quoted(name)} AS {wanted})"
    # A text has many spellings of one value; elsewhere, back again must be what it was.
    lossy = "" if "VARCHAR" in (kind, wanted) else (
        f" OR CAST({cast} AS {kind}) IS DISTINCT FROM {column}"
    )  # fmt: skip
    try:
        example = connection.execute(
            f"SELECT CAST({column} AS VARCHAR) FROM _rows "
            f"WHERE {column} IS NOT NULL AND ({cast} IS NULL{lossy}) LIMIT 1"
        ).fetchone()
    except duckdb.Error as error:
        raise UserError(
            f"column {name} of {source.told} is {kind} now and was {wanted}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if example:
        raise UserError(
            f"column {name} of {source.told} holds {example[0]!r}, which is no {wanted} as it "
            "landed before or is declared; cast it in source.query, or give source.types"
        )


def _array(values: Sequence[Any]) -> pa.Array:
    """Values of a column; of mixed types as texts."""
    plain = [_plain(value) for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in plain])


def _plain(value: Any) -> Any:
    """A value as Arrow takes it."""
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)
    if value is None or isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=str)
    return bytes(value) if isinstance(value, memoryview | bytearray) else str(value)
