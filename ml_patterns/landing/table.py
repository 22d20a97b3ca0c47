"""Reading a table in the order of its cursor, through SQLAlchemy.

Belongs here: the connection, the query, and what an error may say. Does not: types (`typed.py`),
where rows go (`files.py`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ml_patterns.errors import SettingsError, UserError
from ml_patterns.landing.cursor import Cursor
from ml_patterns.landing.settings import SourceSettings

_SECRETS = ("pass", "secret", "token", "key", "pwd")

Row = Sequence[Any]


@dataclass(frozen=True)
class Rows:
    """The answer to a query.

    Attributes:
        declared: SQLAlchemy's types by column, where the database tells them.
        batches: rows in the cursor's order, a file's worth at a time.
    """

    columns: tuple[str, ...]
    declared: Mapping[str, sa.types.TypeEngine[Any]]
    batches: Iterator[Sequence[Row]]


class Table:
    """A table or query behind an SQLAlchemy URL."""

    def __init__(self, source: SourceSettings, environment: Mapping[str, str] = os.environ) -> None:
        """Reads the URL from the environment.

        Raises:
            SettingsError: the variable is not set, or holds no URL; never shows what it holds.
        """
        text = environment.get(source.url_variable)
        if not text:
            raise SettingsError(
                f"{source.url_variable} is not set; it must hold the SQLAlchemy URL of "
                f"{source.told}, such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            )
        try:
            self._url = sa.make_url(text)
            self._engine = sa.create_engine(self._url, poolclass=sa.NullPool)
        except (sa.exc.ArgumentError, ImportError, ValueError):
            # Not `from error`, whose words may hold the URL.
            raise SettingsError(
                f"{source.url_variable} holds no SQLAlchemy URL whose driver is installed; it "
                "looks like postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from None
        self._source = source

    @contextmanager
    def rows(self, since: Cursor | None) -> Iterator[Rows]:
        """Rows from a cursor on (None: all that have one), as one snapshot.

        Raises:
            UserError: the database cannot be reached or refuses; one sentence without credentials.
        """
        self._exists()
        try:
            with self._engine.connect() as connection:
                select, declared = self._select(connection, since)
                options = {"stream_results": True, "max_row_buffer": self._source.batch_rows}
                with closing(connection.execution_options(**options).execute(select)) as answer:
                    columns = tuple(answer.keys())
                    self._check(columns)
                    yield Rows(columns, declared, answer.partitions(self._source.batch_rows))
        except sa.exc.SQLAlchemyError as error:
            # Not `from error`: drivers put host, user and more into theirs.
            raise UserError(self._told(error)) from None

    def without_cursor(self) -> int:
        """Rows that will never land because their cursor is empty."""
        try:
            with self._engine.connect() as connection:
                quoted = connection.dialect.identifier_preparer.quote
                query = sa.text(
                    f"SELECT count(*) FROM {self._from(connection)} "
                    f"WHERE {quoted(self._source.cursor)} IS NULL"
                )
                return int(connection.execute(query).scalar_one())
        except sa.exc.SQLAlchemyError as error:
            raise UserError(self._told(error)) from None

    def _exists(self) -> None:
        """SQLite would make an empty database of any name."""
        database = self._url.database
        if self._url.get_backend_name() != "sqlite" or database in (None, "", ":memory:"):
            return
        if not str(database).startswith("file:") and not Path(str(database)).is_file():
            raise UserError(
                f"{self._source.url_variable} names an SQLite file that does not exist; correct it"
            )

    def _from(self, connection: sa.Connection) -> str:
        """What is selected from, as SQL of this database."""
        if self._source.query is not None:
            return f"({self._source.query}\n) AS source"
        preparer = connection.dialect.identifier_preparer
        return ".".join(map(preparer.quote, str(self._source.table).split(".")))

    def _reflected(self, connection: sa.Connection) -> sa.Table:
        *schema, name = str(self._source.table).rsplit(".", 1)
        try:
            return sa.Table(
                name, sa.MetaData(), schema=schema[0] if schema else None,
                autoload_with=connection, resolve_fks=False,
            )  # fmt: skip
        except sa.exc.NoSuchTableError:
            raise UserError(
                f"there is no table {self._source.table} in the database of "
                f"{self._source.url_variable}; correct source.table"
            ) from None

    def _select(
        self, connection: sa.Connection, since: Cursor | None
    ) -> tuple[sa.Select[Any] | sa.TextClause, Mapping[str, sa.types.TypeEngine[Any]]]:
        if self._source.table is not None:
            table = self._reflected(connection)
            declared = {column.name: column.type for column in table.columns}
            self._check(tuple(declared))
            column = table.c[self._source.cursor]
            known = column.is_not(None) if since is None else column >= since.bound()
            return sa.select(table).where(known).order_by(column), declared
        quoted = connection.dialect.identifier_preparer.quote(self._source.cursor)
        from_here = "IS NOT NULL" if since is None else ">= :since"
        text = sa.text(
            f"SELECT * FROM {self._from(connection)} WHERE {quoted} {from_here} ORDER BY {quoted}"
        )
        return text if since is None else text.bindparams(since=since.bound()), {}

    def _check(self, columns: Sequence[str]) -> None:
        if self._source.cursor not in columns:
            raise UserError(
                f"{self._source.told} has no column {self._source.cursor} (source.cursor); it has "
                f"{', '.join(columns)}"
            )

    def _told(self, error: sa.exc.SQLAlchemyError) -> str:
        """What a database says, in one line and without what must not be seen."""
        said = str(getattr(error, "orig", None) or error).strip().splitlines() or [""]
        sentence = " ".join(said[0].split())
        for secret in self._secrets():
            sentence = sentence.replace(secret, "***")
        return (
            f"{self._source.told} cannot be read through {self._source.url_variable}: "
            f"{type(error).__name__}: {sentence}"
        )

    def _secrets(self) -> list[str]:
        """What of the URL must never be shown, longest first."""
        values = [str(self._url.password or "")]
        for name, value in self._url.query.items():
            if any(word in name.lower() for word in _SECRETS):
                values += [value] if isinstance(value, str) else list(value)
        shown = [self._url.render_as_string(hide_password=False), *values]
        return sorted({text for text in shown if text}, key=len, reverse=True)
