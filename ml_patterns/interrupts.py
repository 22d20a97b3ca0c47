"""Interrupts while something else has the main thread.

Belongs here: noticing a signal at once. Does not: handling it; that is its handler's.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_ENDING = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Inside, calls a function in a thread as soon as this process is interrupted or terminated.

    A handler runs in the main thread only, and only between two instructions of Python's: not while
    a library works. The number of a signal is written at once, where `signal.set_wakeup_fd` says;
    whoever was told before still is. In another thread than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while numbers := ours.recv(64):
            if before >= 0:
                with suppress(OSError):  # so many that nobody has read the others yet
                    os.write(before, numbers)
            if not _ENDING.isdisjoint(numbers):
                act()

    thread = threading.Thread(target=watch, name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        pythons.close()
        thread.join()
        ours.close()


@contextmanager
def interrupts_seen() -> Iterator[Callable[[], bool]]:
    """Whether this process was interrupted or terminated inside, asked when it is left."""
    seen: list[bool] = []
    with on_interrupt(lambda: seen.append(True)):
        yield lambda: bool(seen)
