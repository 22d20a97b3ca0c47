"""A process's view of a circuit: cached for a moment, local while the store is gone.

Belongs here: when the shared store is asked, and what stands in for it. Does not: the stores
(`store.py`), the rules (`transitions.py`).
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import pybreaker
import sqlalchemy as sa

from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.store import Change, Changed, CircuitStore, LocalStore
from ml_patterns.circuit_breaker.transitions import Circuit

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_STORE_PAUSE = 5.0


class SharedStorage(pybreaker.CircuitBreakerStorage):
    """What pybreaker reads: a view of the circuit, refreshed at most every `cached_for` seconds.

    If the shared store cannot be asked, a local one takes over for a few seconds at a time, and
    `local_because` says why. pybreaker's piecemeal setters do nothing: counting and transitions are
    single atomic changes.
    """

    def __init__(
        self,
        name: str,
        store: CircuitStore,
        *,
        cached_for: float = 0.25,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        self.local_because: str | None = None
        self._store, self._local = store, LocalStore()
        self._cached_for, self._monotonic = cached_for, monotonic
        self._seen: Circuit | None = None
        self._fresh_until = self._local_until = float("-inf")
        self._lock = threading.Lock()

    def circuit(self, *, fresh: bool = False) -> Circuit:
        """The circuit as last seen."""
        with self._lock:
            seen = self._seen
            if seen is not None and not fresh and self._monotonic() < self._fresh_until:
                return seen
        return self._remember(self._ask(lambda store: store.read(self.name)))

    def change(self, change: Change, *, actor: str, now: datetime) -> Changed:
        """Applies a change at once, and remembers the result."""
        changed = self._ask(lambda store: store.change(self.name, change, actor=actor, now=now))
        self._remember(changed.after)
        return changed

    def _remember(self, circuit: Circuit) -> Circuit:
        with self._lock:
            self._seen = circuit
            self._fresh_until = self._monotonic() + self._cached_for
        return circuit

    def _ask(self, question: Callable[[CircuitStore], T]) -> T:
        if self._monotonic() >= self._local_until:
            try:
                answer = question(self._store)
            except (sa.exc.SQLAlchemyError, OSError) as error:
                self._go_local(error)
            else:
                if self.local_because is not None:
                    _LOG.warning("breaker %s is shared again", self.name)
                    self.local_because, self._local = None, LocalStore()
                return answer
        return question(self._local)

    def _go_local(self, error: BaseException) -> None:
        if self.local_because is None:
            _LOG.warning("breaker %s is local to this process: %s", self.name, error)
            self._take_along()
        self.local_because = str(error).splitlines()[0]
        self._local_until = self._monotonic() + _STORE_PAUSE

    def _take_along(self) -> None:
        """What was known goes on to hold: an open circuit does not close with the store."""
        known = self._seen
        if known is not None:
            self._local.change(
                self.name, lambda _: known, actor="store lost", now=known.opened_at or utc_now()
            )

    @property
    def state(self) -> str:
        """The state as last seen."""
        return self.circuit().state

    @state.setter
    def state(self, state: str) -> None:
        """Nothing: transitions are made by `change`."""

    @property
    def counter(self) -> int:
        """Consecutive failures as last seen."""
        return self.circuit().failures

    @property
    def success_counter(self) -> int:
        """Always 0: one answered probe closes the circuit."""
        return 0

    @property
    def opened_at(self) -> datetime | None:
        """When the circuit opened, as last seen."""
        return self.circuit().opened_at

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """Nothing: transitions are made by `change`."""
