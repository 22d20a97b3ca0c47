"""The share of calls that failed lately, in this process.

Belongs here: counting over a sliding window. Does not: what follows from it (`transitions.py`).

Kept in memory: writing every success to the shared store would cost each call what the breaker is
there to save. One process that sees a sick server is enough to open the circuit for all.
"""

import threading
from collections import deque
from collections.abc import Callable


class FailureWindow:
    """Calls of the last `seconds`, and how many of them failed.

    Args:
        rate: share of failures from which the window is sick.
        minimum_calls: with fewer calls it never is.
    """

    def __init__(
        self, rate: float, minimum_calls: int, seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._rate, self._minimum, self._seconds = rate, minimum_calls, seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0

    def add(self, *, failed: bool) -> None:
        """Notes how a call ended."""
        with self._lock:
            self._calls.append((self._monotonic(), failed))
            self._failures += failed
            self._forget()

    def clear(self) -> None:
        """Forgets everything: the circuit has just changed."""
        with self._lock:
            self._calls.clear()
            self._failures = 0

    def sickness(self) -> str | None:
        """One sentence if too many calls failed, else None."""
        with self._lock:
            self._forget()
            calls, failures = len(self._calls), self._failures
        if calls < self._minimum or failures < self._rate * calls:
            return None
        return f"{failures} of {calls} calls failed within {self._seconds:g} s"

    def _forget(self) -> None:
        oldest = self._monotonic() - self._seconds
        while self._calls and self._calls[0][0] <= oldest:
            self._failures -= self._calls.popleft()[1]
