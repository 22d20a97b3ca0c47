"""How often somebody may try.

Belongs here: counting attempts. Does not: whose they are (`identity.py`), what is refused
(`routes.py`).
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_MOST_KEYS = 10_000


class RateLimit:
    """At most so many attempts per key within a sliding span of time.

    Args:
        most: attempts that are let through.
        seconds: the span.
        clock: seconds that only grow.
    """

    def __init__(
        self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._attempts: dict[str, deque[float]] = {}

    def wait(self, key: str) -> int:
        """Seconds until the key may try again; 0: now."""
        with self._lock:
            return self._wait(key, self._clock())

    def take(self, key: str) -> int:
        """Counts an attempt; 0, or the seconds to wait if it is one too many."""
        with self._lock:
            now = self._clock()
            wait = self._wait(key, now)
            if wait == 0:
                self._attempts.setdefault(key, deque()).append(now)
                self._forget(now)
            return wait

    def _wait(self, key: str, now: float) -> int:
        attempts = self._attempts.get(key)
        while attempts and now - attempts[0] >= self._seconds:
            attempts.popleft()
        if not attempts or len(attempts) < self._most:
            return 0
        return max(1, math.ceil(attempts[0] + self._seconds - now))

    def _forget(self, now: float) -> None:
        """Keeps strangers with many addresses from filling the memory."""
        if len(self._attempts) <= _MOST_KEYS:
            return
        for key in [
            key
            for key, attempts in self._attempts.items()
            if not attempts or now - attempts[-1] >= self._seconds
        ]:
            del self._attempts[key]
        while len(self._attempts) > _MOST_KEYS:
            self._attempts.pop(next(iter(self._attempts)))
