"""Interrupts while something else has the main thread.

Belongs here: noticing a signal at once. Does not: handling it; that is its handler's.
"""

import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache

_ENDING = {signal.SIGINT, signal.SIGTERM}
_SETTLE = 0  # no signal has this number

EXIT_CODE = 128 + signal.SIGINT
"""Of a command that was interrupted, as a shell expects it."""

INTERRUPT_EVERY = timedelta(seconds=0.05)
"""Who is between two pieces of work does not notice an interrupt: it is told again."""


@contextmanager
def on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """As soon as this process is interrupted or terminated inside, a thread calls a function, and
    again until the context is left.

    A signal's handler runs in the main thread only, and only between two instructions of Python's:
    not while a library works. In another thread than the main one nothing is called.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _watcher().telling(act):
        yield


@contextmanager
def interrupts_seen() -> Iterator[Callable[[], bool]]:
    """Whether this process was interrupted or terminated inside, asked when it is left."""
    seen: list[bool] = []
    with on_interrupt(lambda: seen.append(True)):
        yield lambda: bool(seen)
        if threading.current_thread() is threading.main_thread():
            _watcher().settle()


class _Watcher:
    """A thread that Python tells the numbers of signals, by `signal.set_wakeup_fd`.

    Contexts may be left in any order: the thread and its sockets live as long as the process.
    """

    def __init__(self) -> None:
        self._ours, self._pythons = socket.socketpair()
        self._pythons.setblocking(False)
        self._lock = threading.Lock()
        self._acts: dict[object, Callable[[], None]] = {}
        self._others = -1
        self._settled: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    @contextmanager
    def telling(self, act: Callable[[], None]) -> Iterator[None]:
        mine, key = self._pythons.fileno(), object()
        with self._lock:
            self._acts[key] = act
        before = signal.set_wakeup_fd(mine, warn_on_full_buffer=False)
        if before != mine:
            self._others = before
        try:
            yield
        finally:
            with suppress(ValueError, OSError):  # another thread leaves; its owner has closed it
                signal.set_wakeup_fd(before)
            if before != mine:
                self._others = -1  # its number may soon be another file's
            with self._lock:  # from here on nobody calls it
                del self._acts[key]

    def settle(self) -> None:
        """Returns when all have been told what came before."""
        self._pythons.send(bytes([_SETTLE]))
        self._settled.get()

    def _watch(self) -> None:
        told: set[object] = set()
        while True:
            self._ours.settimeout(INTERRUPT_EVERY.total_seconds() if told else None)
            numbers = b""
            with suppress(TimeoutError):
                numbers = self._ours.recv(64)
            if self._others >= 0 and numbers:
                with suppress(OSError):  # it is full, or closed
                    os.write(self._others, numbers.replace(bytes([_SETTLE]), b""))
            with self._lock:
                if not _ENDING.isdisjoint(numbers):
                    told = set(self._acts)
                told &= self._acts.keys()
                for key in told:
                    self._acts[key]()
            for _ in range(numbers.count(_SETTLE)):
                self._settled.put(None)


@cache
def _watcher() -> _Watcher:
    return _Watcher()


def _after_fork_in_child() -> None:
    """A fork has no thread that reads, and must not tell the parent of its own signals."""
    if _watcher.cache_info().currsize:
        _watcher.cache_clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_after_fork_in_child)
