"""How much may wait or run at a time.

Belongs here: counting the requests and bytes that have no answer yet. Does not: the limits of a
single request (`app.py`, `protocol.py`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ml_patterns.serving.errors import too_many, unavailable


class Ticket:
    """One admitted request and the bytes of its body; closed once, by whoever is last."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._bytes = 0
        self._open = True

    def grow(self, size: int) -> None:
        """Accounts for more bytes of the body.

        Raises:
            RequestError: 503 all bodies together would pass the bound.
        """
        self._admission.add_bytes(size)
        self._bytes += size

    def close(self) -> None:
        """Gives back what was taken; a second call does nothing."""
        if self._open:
            self._open = False
            self._admission.give_back(self._bytes)


class Admission:
    """The server's gate: a bound on unanswered requests and on their bytes together."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0

    @property
    def requests(self) -> int:
        """How many wait or run now."""
        return self._requests

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """A ticket that is closed on an error; on success whoever answers closes it.

        Raises:
            RequestError: 429 too many requests wait or run already.
        """
        with self._lock:
            if self._requests >= self._max_requests:
                raise too_many(f"{self._requests} requests wait or run already")
            self._requests += 1
        ticket = Ticket(self)
        try:
            yield ticket
        except BaseException:
            ticket.close()
            raise

    def add_bytes(self, size: int) -> None:
        """Takes bytes from the bound, or refuses."""
        with self._lock:
            if self._bytes + size > self._max_bytes:
                raise unavailable("the requests that wait already fill the server's memory bound")
            self._bytes += size

    def give_back(self, size: int) -> None:
        """One request and its bytes are done."""
        with self._lock:
            self._requests -= 1
            self._bytes -= size
