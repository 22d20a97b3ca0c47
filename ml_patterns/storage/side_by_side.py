"""Statements that run at once, each on a connection of its own.

Belongs here: starting them, and ending them when nobody wants them any more. Does not: what they
say.
"""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import duckdb

from ml_patterns.interrupts import INTERRUPT_EVERY

T = TypeVar("T")


class Submit(Protocol):
    """Starts a function on a connection that is its own while it runs."""

    def __call__(self, function: Callable[[duckdb.DuckDBPyConnection], T]) -> Future[T]: ...


@contextmanager
def side_by_side(connection: duckdb.DuckDBPyConnection, workers: int) -> Iterator[Submit]:
    """Runs up to `workers` functions at once, in threads.

    What still runs when the context is left is interrupted: a cancelled run ends at once, however
    long its statements would take.
    """
    cursors = [connection.cursor() for _ in range(workers)]
    idle: queue.SimpleQueue[duckdb.DuckDBPyConnection] = queue.SimpleQueue()
    for cursor in cursors:
        idle.put(cursor)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="statement")
    started: list[Future[Any]] = []

    def submit(function: Callable[[duckdb.DuckDBPyConnection], T]) -> Future[T]:
        def run() -> T:
            cursor = idle.get()
            try:
                return function(cursor)
            finally:
                idle.put(cursor)

        future = pool.submit(run)
        started.append(future)
        return future

    try:
        yield submit
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while running := [future for future in started if not future.done()]:
            for cursor in cursors:
                cursor.interrupt()
            wait(running, timeout=INTERRUPT_EVERY.total_seconds())
        pool.shutdown()
        for cursor in cursors:
            cursor.close()
