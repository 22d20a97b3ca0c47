"""Worker processes that share one listening socket.

Belongs here: starting, replacing and ending them, and the folder through which their metrics meet.
Does not: what a worker does (`run.py`), what it counts (`metrics.py`).

The socket is bound once and shared: a connection waits in one queue, whichever worker takes it, and
a worker that dies takes only the connections that it had. Workers are spawned, not forked: a fork
of a process with threads, and LightGBM has some, may never run.
"""

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from prometheus_client import multiprocess

from ml_patterns.errors import UserError

_log = logging.getLogger(__name__)
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_RESTART_PAUSE = 1.0
_KILL_AFTER = 5.0


@dataclass
class _Worker:
    process: SpawnProcess
    ready: Connection
    started: float


class Workers:
    """A number of processes that all run the same server.

    Args:
        count: how many.
        serve: a function of a module; called in each process with `arguments`, the listener and
            what is to be called once it listens. It must end, with what runs finished, on SIGTERM.
    """

    def __init__(
        self,
        count: int,
        serve: Callable[..., None],
        arguments: tuple[Any, ...],
        listener: socket.socket,
    ) -> None:
        self._count = count
        self._serve = serve
        self._arguments = arguments
        self._listener = listener
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def run(self, announce: Callable[[], None], shutdown_timeout: timedelta) -> None:
        """Until SIGTERM or SIGINT; a worker that ends before is replaced.

        Args:
            announce: called when all workers listen.
            shutdown_timeout: after a signal, what runs is finished for this long.

        Raises:
            UserError: a worker ended before it listened.
        """
        with _metrics_folder() as folder, _signals() as signalled:
            try:
                self._workers = [self._start() for _ in range(self._count)]
                if self._await_ready(signalled):
                    announce()
                    self._replace_until(signalled, folder)
            finally:
                self._end(shutdown_timeout)

    def _start(self) -> _Worker:
        ready, tell = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(self._serve, self._arguments, self._listener, tell)
        )
        process.start()
        tell.close()
        return _Worker(process, ready, time.monotonic())

    def _await_ready(self, signalled: socket.socket) -> bool:
        """Whether all listen; False: a signal came first."""
        for worker in self._workers:
            if signalled in wait([worker.ready, signalled]):
                return False
            try:
                worker.ready.recv()
            except EOFError as error:
                raise UserError(
                    "a worker ended before it listened; the lines above say why"
                ) from error
        return True

    def _replace_until(self, signalled: socket.socket, folder: str) -> None:
        while True:
            ended = wait([signalled, *(worker.process.sentinel for worker in self._workers)])
            if signalled in ended:
                return
            for position, worker in enumerate(self._workers):
                if worker.process.sentinel not in ended:
                    continue
                worker.process.join()
                _log.error(
                    "worker %s ended with exit code %s; another takes its place",
                    worker.process.pid,
                    worker.process.exitcode,
                )
                # What it held is gone; what it counted stays.
                multiprocess.mark_process_dead(worker.process.pid, folder)  # type: ignore[no-untyped-call]
                worker.ready.close()
                pause = worker.started + _RESTART_PAUSE - time.monotonic()
                if pause > 0 and wait([signalled], timeout=pause):
                    return
                self._workers[position] = self._start()

    def _end(self, shutdown_timeout: timedelta) -> None:
        # As long as anybody holds the socket the system accepts connections for it.
        self._listener.close()
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + shutdown_timeout.total_seconds() + _KILL_AFTER
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _work(
    serve: Callable[..., None],
    arguments: tuple[Any, ...],
    listener: socket.socket,
    tell: Connection,
) -> None:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    serve(*arguments, listener, lambda: tell.send(None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _metrics_folder() -> Iterator[str]:
    """Where prometheus_client keeps what all workers count; it reads the name when imported."""
    before = os.environ.get(_METRICS_FOLDER)
    with tempfile.TemporaryDirectory(prefix="ml_patterns_metrics_") as folder:
        os.environ[_METRICS_FOLDER] = folder
        try:
            yield folder
        finally:
            os.environ.pop(_METRICS_FOLDER)
            if before is not None:
                os.environ[_METRICS_FOLDER] = before


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read from once SIGTERM or SIGINT came."""
    reader, writer = socket.socketpair()
    before = {
        number: signal.signal(number, lambda _number, _frame: writer.send(b"!"))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
