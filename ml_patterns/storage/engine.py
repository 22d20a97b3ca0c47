"""DuckDB instances that are kept while no file is open, for the next one.

Belongs here: attaching a file to an instance and detaching it. Does not: waiting for a file that
another process holds (`warehouse.py`), what is in it.

Making an instance takes about 10 ms, nearly all of what opening a file costs; attaching a file to
one and detaching it take 1. Others notice no difference: the file is locked from the first
connection to the last, what was committed is then written into it, and an instance has one file at
a time, so that nothing in it can be mistaken for what is in another.
"""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ml_patterns.interrupts import on_interrupt
from ml_patterns.storage.sql import literal

# DuckDB has no instance without a database that new connections begin in. While there is no file
# it is an empty one; no pipeline can be called like either.
_EMPTY = "ATTACH ':memory:' AS _no_file; USE _no_file; "


class _Instance:
    """A DuckDB instance of this process and the one file that may be attached to it."""

    def __init__(self) -> None:
        self._admin = duckdb.connect(":memory:")
        self._admin.execute(_EMPTY + "DETACH memory; SET GLOBAL TimeZone = 'UTC'")

    def attach(self, path: Path, *, read_only: bool) -> None:
        """New connections begin in this file."""
        mode = "READ_ONLY" if read_only else "READ_WRITE"
        self._admin.execute(f"ATTACH {literal(str(path))} AS _warehouse ({mode})")
        self._admin.execute("USE _warehouse; DETACH _no_file")

    def detach(self) -> None:
        """Lets the file go."""
        self._admin.execute(_EMPTY + "DETACH _warehouse")

    def connection(self) -> duckdb.DuckDBPyConnection:
        return self._admin.cursor()

    def close(self) -> None:
        """Connections that are still open keep it alive until they are closed."""
        self._admin.close()


@dataclass
class _Open:
    """A file that is open, and how many connections to it are."""

    instance: _Instance
    read_only: bool
    users: int = 1


_lock = threading.Lock()
_open: dict[Path, _Open] = {}
_idle: list[_Instance] = []


def connect(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """A connection to a file; it ends with `disconnect`. Readers join a writer of this process.

    Raises:
        duckdb.IOException: another process holds the file, or there is none to be read.
        duckdb.ResourceInUseException: this process holds the file otherwise: it reads it and now
            wants to write, or DuckDB opened it without us.
    """
    path = path.resolve()
    with _lock:
        held = _open.get(path)
        if held is None:
            instance = _idle.pop() if _idle else _Instance()
            try:
                instance.attach(path, read_only=read_only)
            except (duckdb.IOException, duckdb.ResourceInUseException):
                _idle.append(instance)  # the file is not to be had; nothing is wrong with this
                raise
            except duckdb.Error:
                instance.close()
                raise
            held = _open[path] = _Open(instance, read_only)
        elif held.read_only and not read_only:
            raise duckdb.ResourceInUseException(f"{path} is being read by this process")
        else:
            held.users += 1
        return held.instance.connection()


def disconnect(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Closes a connection; with the last one the file is let go."""
    path = path.resolve()
    connection.close()
    with _lock:
        held = _open[path]
        held.users -= 1
        if held.users:
            return
        del _open[path]
        try:
            held.instance.detach()
        except duckdb.Error:
            # The disk is full, or DuckDB refuses everything after an error. What was committed is
            # in the log beside the file; the file is let go with the instance.
            held.instance.close()
        else:
            _idle.append(held.instance)


@contextmanager
def scratch() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection without a file, for looking at others; what is made in it is not for keeping."""
    with _lock:
        instance = _idle.pop() if _idle else _Instance()
    try:
        with instance.connection() as connection, interruptible(connection):
            yield connection
    finally:
        with _lock:
            _idle.append(instance)


@contextmanager
def interruptible(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A signal ends the connection's statement at once, and is an interrupt, not a failed query.

    While several threads work for it DuckDB notices no signal until the statement is done; where it
    does it forgets what the handler raised, and raises a `RuntimeError`.

    Raises:
        KeyboardInterrupt: a signal came while a statement ran.
    """
    with on_interrupt(connection.interrupt):
        try:
            yield
        except duckdb.InterruptException as error:
            raise KeyboardInterrupt from error
        except RuntimeError as error:
            if str(error) == "Query interrupted":
                raise KeyboardInterrupt from error
            raise


def end_idle() -> None:
    """Ends the instances that are kept; the next connection pays for a new one."""
    while _idle:
        _idle.pop().close()


def _before_fork() -> None:
    """A fork would have the memory of an instance without its threads, and could not end it."""
    _lock.acquire()
    end_idle()


atexit.register(end_idle)  # before Python takes down what DuckDB holds of it, as file systems
os.register_at_fork(
    before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
)
