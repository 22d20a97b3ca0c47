"""The breaker: pybreaker's, with its memory shared by all processes.

Belongs here: admitting calls and settling their results. Does not: the rules (`transitions.py`),
where the memory lies (`shared_storage.py`, `store.py`), what is called (`client.py`).

pybreaker's own `call` holds a lock while the backend works and counts in two steps, which lets two
processes probe at once. Here a call is admitted under an epoch, runs without any lock, and is
settled by one atomic change. Listeners, states and exceptions are pybreaker's.
"""

import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pybreaker
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN

from ml_patterns.base import Clock, utc_now
from ml_patterns.circuit_breaker import transitions
from ml_patterns.circuit_breaker.shared_storage import SharedStorage
from ml_patterns.circuit_breaker.store import Change, Changed, CircuitStore
from ml_patterns.circuit_breaker.transitions import Circuit
from ml_patterns.circuit_breaker.window import FailureWindow
from ml_patterns.retry.classify import Outcome, classify
from ml_patterns.retry.waits import Uniform

T = TypeVar("T")
_JITTER = 0.1


class CircuitOpenError(pybreaker.CircuitBreakerError):
    """The circuit let no call through.

    Attributes:
        retry_at: when a probe is due, as far as known.
    """

    def __init__(self, name: str, circuit: Circuit) -> None:
        super().__init__(f"circuit {name} is {circuit.state}: {circuit.reason}")
        self.retry_at = circuit.retry_at or circuit.lease_until


@dataclass(frozen=True)
class Admission:
    """A call that was let through: under which epoch, and whether it is the probe."""

    epoch: int
    probe: bool


class SharedBreaker(pybreaker.CircuitBreaker):
    """A circuit breaker that the whole fleet shares.

    Only what `classify` calls transient counts. While closed, a success costs no write and a
    failure is written at once. A probe is leased to one process; a killed prober's lease expires.

    Args:
        store: the shared memory.
        window: opens it on this process's failure rate, too; None: only on failures in a row.
        reset_timeout: seconds until the first probe; jittered by a tenth upwards.
        lease: seconds after which a prober is given up; must exceed the longest call.
        cached_for: seconds for which an admission may rest on what was last seen.
    """

    def __init__(
        self,
        name: str,
        store: CircuitStore,
        *,
        fail_max: int = 5,
        window: FailureWindow | None = None,
        reset_timeout: float = 60.0,
        lease: float = 30.0,
        cached_for: float = 0.25,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Uniform = random.uniform,
        owner: str | None = None,
    ) -> None:
        self.storage = SharedStorage(name, store, cached_for=cached_for, monotonic=monotonic)
        self._clock, self._uniform, self._lease = clock, uniform, timedelta(seconds=lease)
        self._owner = owner or f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._last_success: datetime | None = None
        self._window = window
        super().__init__(
            fail_max,
            reset_timeout,
            listeners=list(listeners),
            state_storage=self.storage,
            name=name,
        )

    def call(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The function's answer, if the circuit lets it through.

        Raises:
            CircuitOpenError: it was not called.
            BaseException: what the function raised.
        """
        admission = self.admit()
        for listener in self._listeners:
            listener.before_call(self, func, *args, **kwargs)
        try:
            answer = func(*args, **kwargs)
        except BaseException as error:
            self.settle(admission, error)
            raise
        self.settle(admission)
        return answer

    def admit(self) -> Admission:
        """Lets one call through; it must be settled.

        Raises:
            CircuitOpenError: it may not be made.
        """
        now = self._clock()
        circuit = self.storage.circuit()
        if circuit.probe_due(now):
            taken = self._change(
                partial(transitions.probe_taken, owner=self._owner, now=now, lease=self._lease)
            )
            if taken.happened:
                return Admission(taken.after.epoch, probe=True)
            circuit = taken.after
        self._notice()
        if circuit.state == STATE_CLOSED:
            return Admission(circuit.epoch, probe=False)
        raise CircuitOpenError(self.storage.name, circuit)

    def settle(self, admission: Admission, error: BaseException | None = None) -> None:
        """Says how an admitted call ended: answered, or with this error."""
        if error is None:
            self._last_success = self._clock()
            if self._window is not None:
                self._window.add(failed=False)
            if admission.probe:
                self._change(partial(transitions.probe_succeeded, epoch=admission.epoch))
            for listener in self._listeners:
                listener.success(self)
        elif classify(error) is Outcome.TRANSIENT:
            self._count(admission, _one_line(error))
            for listener in self._listeners:
                listener.failure(self, error)
        elif admission.probe:
            self._change(
                partial(
                    transitions.probe_returned,
                    epoch=admission.epoch,
                    now=self._clock(),
                    reason=_one_line(error),
                )
            )

    def _count(self, admission: Admission, reason: str) -> None:
        wait = timedelta(seconds=self.reset_timeout * self._uniform(1.0, 1.0 + _JITTER))
        # One success restarts the count once, even if the clock is set back meanwhile.
        succeeded, self._last_success = self._last_success, None
        sickness = None
        if self._window is not None:
            self._window.add(failed=True)
            sickness = self._window.sickness()
        ended = _Ending(admission.epoch, self._clock(), wait, reason, sickness)
        self._change(
            ended.of_probe if admission.probe else partial(ended.of_call, self.fail_max, succeeded)
        )

    def _change(self, change: Change, actor: str | None = None) -> Changed:
        changed = self.storage.change(change, actor=actor or self._owner, now=self._clock())
        self._notice()
        return changed

    def _notice(self) -> None:
        """Tells listeners of a transition, whoever made it."""
        if self.storage.state != self._state.name:
            with self._lock:
                state = self.storage.state
                if state != self._state.name:
                    self.state = state
                    if self._window is not None:
                        self._window.clear()

    def force(
        self, state: str, *, reason: str, actor: str, until: datetime | None = None
    ) -> Circuit:
        """Opens or closes it by hand; nothing changes that before `until`."""
        now = self._clock()
        rule = partial(transitions.forced, state=state, now=now, until=until, reason=reason)
        return self._change(rule, actor).after

    def reset(self, *, reason: str, actor: str) -> Circuit:
        """Closes it and gives it back to the rules."""
        return self._change(partial(transitions.released, reason=reason), actor).after

    def open(self) -> bool:
        """pybreaker's way to open it by hand."""
        self.force(STATE_OPEN, reason="open() was called", actor=self._owner)
        return True

    def close(self) -> None:
        """pybreaker's way to close it by hand; the rules go on."""
        self.reset(reason="close() was called", actor=self._owner)

    def half_open(self) -> None:
        """Lets the next call through as a probe."""
        now = self._clock()
        self._change(lambda circuit: transitions.probe_allowed(circuit, now=now))


@dataclass(frozen=True)
class _Ending:
    """A failure, on its way into the circuit."""

    epoch: int
    now: datetime
    wait: timedelta
    reason: str
    sickness: str | None

    def of_probe(self, circuit: Circuit) -> Circuit | None:
        return transitions.probe_failed(
            circuit, epoch=self.epoch, now=self.now, wait=self.wait, reason=self.reason
        )

    def of_call(
        self, fail_max: int, last_success: datetime | None, circuit: Circuit
    ) -> Circuit | None:
        return transitions.failed(
            circuit,
            epoch=self.epoch,
            now=self.now,
            fail_max=fail_max,
            wait=self.wait,
            last_success=last_success,
            reason=self.reason,
            sickness=self.sickness,
        )


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


__all__ = ["STATE_CLOSED", "STATE_HALF_OPEN", "STATE_OPEN", "CircuitOpenError", "SharedBreaker"]
