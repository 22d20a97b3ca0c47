"""The operational database in a file, and back.

Belongs here: SQLite's online backup, PostgreSQL's pg_dump and pg_restore. Does not: the warehouse
and the artifacts (`backup.py`, `restore.py`), comparing (`contents.py`).

Each takes one snapshot, whoever writes meanwhile, and what is said of it is read in that snapshot.
"""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

from ml_patterns.errors import UserError
from ml_patterns.maintenance.contents import (
    StateContents,
    count_rows,
    referred_artifacts,
    state_contents,
    table_names,
)
from ml_patterns.storage import schema

KINDS = {"sqlite": "state.sqlite", "postgresql": "state.pgdump"}
"""What is backed up, and what its file is called."""


class Snapshot(NamedTuple):
    """What a copy holds, and the artifacts that it refers to."""

    contents: StateContents
    artifacts: list[str]


def kind_of(url: str) -> str:
    """`sqlite` or `postgresql`.

    Raises:
        UserError: it is another database, or one in memory.
    """
    parsed = sa.make_url(url)
    kind = parsed.get_backend_name()
    if kind not in KINDS or (kind == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise UserError(
            f"ML_PATTERNS_STATE_URL names {kind} (database {parsed.database or 'in memory'}); "
            "a file of SQLite or a PostgreSQL can be backed up and restored"
        )
    return kind


def save(url: str, target: Path) -> Snapshot:
    """Copies the database into a file, as it is at one instant.

    Raises:
        UserError: there is nothing to copy, or PostgreSQL's programs are missing or refuse.
    """
    return _save_sqlite(url, target) if kind_of(url) == "sqlite" else _save_postgresql(url, target)


def load(source: Path, url: str) -> None:
    """Makes a database what the file says; it is empty beforehand (`refuse_unless_empty`)."""
    if kind_of(url) == "sqlite":
        path = _path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy_sqlite(source, path)
    else:
        _load_postgresql(source, url)


def look(url: str) -> Snapshot:
    """What a database holds now; does not bring its schema up to date."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return Snapshot(state_contents(connection), referred_artifacts(connection))
    finally:
        engine.dispose()


def refuse_unless_empty(url: str) -> None:
    """A restore never writes over anything.

    Raises:
        UserError: a table of the database has rows.
    """
    if kind_of(url) == "sqlite" and not _path(url).exists():
        return
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            full = [
                name
                for name in table_names(connection)
                if name != schema.VERSION_TABLE and count_rows(connection, name)
            ]
    except sa.exc.OperationalError as error:
        raise UserError(
            f"the database {engine.url.render_as_string()} cannot be reached; create it, empty "
            f"({str(error.orig).splitlines()[0]})"
        ) from error
    finally:
        engine.dispose()
    if full:
        raise UserError(
            f"the operational database {engine.url.render_as_string()} is not empty "
            f"({', '.join(full[:3])} have rows); move it away or set ML_PATTERNS_STATE_URL to an "
            "empty one: a restore writes over nothing"
        )


def _path(url: str) -> Path:
    return Path(sa.make_url(url).database or "")


def _save_sqlite(url: str, target: Path) -> Snapshot:
    source = _path(url)
    if not source.exists():
        raise UserError(f"there is no operational database {source} yet; run a pipeline first")
    _copy_sqlite(source, target)
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, no log beside it
    return look(f"sqlite:///{target}")


def _copy_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _save_postgresql(url: str, target: Path) -> Snapshot:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            connection.execute(
                sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            )
            snapshot = connection.scalar(sa.text("SELECT pg_export_snapshot()"))
            _call(
                engine, "pg_dump", f"--snapshot={snapshot}", "--format=custom", "--no-owner",
                "--no-privileges", f"--file={target}",
            )  # fmt: skip
            return Snapshot(state_contents(connection), referred_artifacts(connection))
    finally:
        engine.dispose()


def _load_postgresql(source: Path, url: str) -> None:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            # Empty tables of a newer schema, made by a command that looked in beforehand.
            left_over = sa.MetaData()
            left_over.reflect(connection)
            left_over.drop_all(connection)
        _call(
            engine, "pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges",
            "--single-transaction", "--exit-on-error", str(source),
        )  # fmt: skip
    finally:
        engine.dispose()


def _call(engine: sa.Engine, program: str, *options: str) -> None:
    """Runs one of PostgreSQL's programs; the password stays out of the list of processes.

    Raises:
        UserError: it is not installed, or it failed; says why.
    """
    positional, where = engine.dialect.create_connect_args(engine.url)
    assert not positional
    where = {name: value for name, value in where.items() if name != "context"}
    password = str(where.pop("password", ""))
    secret = {"PGPASSWORD": password} if password else {}
    address = make_conninfo(**where)
    try:
        done = subprocess.run(
            [program, f"--dbname={address}", *options],
            env={**os.environ, **secret},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{program} is not on PATH; install PostgreSQL's client programs, of the server's "
            "version or newer"
        ) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{program} failed: {said[0]}")
