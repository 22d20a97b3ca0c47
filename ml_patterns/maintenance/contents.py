"""What is in an operational database and a warehouse, in a form that two of them can be compared.

Belongs here: counts, the hash of the audit log, the artifacts that rows refer to. Does not: copying
(`state_copy.py`, `backup.py`).
"""

import hashlib
import json
from collections.abc import Sequence

import duckdb
import sqlalchemy as sa

from ml_patterns.base import Settings
from ml_patterns.errors import UserError
from ml_patterns.registry import tables
from ml_patterns.storage import schema
from ml_patterns.storage.sql import quoted

_REFERRING = (tables.versions, tables.champions, tables.generations, tables.reviews)


class StateContents(Settings):
    """An operational database at one instant.

    Attributes:
        revision: of its schema; `0` of one that was made before there were revisions.
        rows: per table.
        audit: SHA-256 over every row of the audit log, in order.
    """

    revision: str
    rows: dict[str, int]
    audit: str


def table_names(connection: sa.Connection) -> list[str]:
    """The tables of a database, sorted."""
    return sorted(sa.inspect(connection).get_table_names())


def state_contents(connection: sa.Connection) -> StateContents:
    """What an operational database holds.

    Raises:
        UserError: it was never used.
    """
    revision = schema.version_of(connection) or "0"
    if not sa.inspect(connection).has_table(tables.audit.name):
        raise UserError(
            "the operational database was never used: nothing to back up; see ML_PATTERNS_STATE_URL"
        )
    audit = sa.select(tables.audit).order_by(tables.audit.c.id)
    digest = hashlib.sha256()
    for row in connection.execute(audit):
        digest.update(json.dumps(list(row), default=str).encode() + b"\n")
    return StateContents(
        revision=revision,
        rows={name: count_rows(connection, name) for name in table_names(connection)},
        audit=digest.hexdigest(),
    )


def count_rows(connection: sa.Connection, table: str) -> int:
    """Rows of a table."""
    return connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0


def referred_artifacts(connection: sa.Connection) -> list[str]:
    """Addresses of all artifacts that a version, champion, generation or review refers to."""
    found: set[str] = set()
    for table in _REFERRING:
        found.update(connection.scalars(sa.select(table.c.artifact).distinct()))
    return sorted(address for address in found if address)


def warehouse_contents(
    connection: duckdb.DuckDBPyConnection, database: str | None = None
) -> dict[str, int]:
    """Rows per table of an attached database (None: the one that was opened), by `schema.table`."""
    name = database or _value(connection, "SELECT current_database()")
    found: Sequence[tuple[str, str]] = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = ? AND NOT internal AND NOT temporary ORDER BY ALL",
        [name],
    ).fetchall()
    return {
        f"{schema_name}.{table}": int(
            _value(
                connection,
                f"SELECT count(*) FROM {quoted(str(name))}.{quoted(schema_name)}.{quoted(table)}",
            )
        )
        for schema_name, table in found
    }


def _value(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    row = connection.execute(query).fetchone()
    return str(row[0]) if row else ""
