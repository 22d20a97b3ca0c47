"""What a breaker remembers, and how it changes: pure functions.

Belongs here: every rule about opening, probing and closing. Does not: where the state is kept
(`store.py`), calling anything (`breaker.py`).

Each function takes the circuit as it is and returns it as it should be, or None if nothing is to
change. The store applies them one at a time, so the rules need no locks. Every transition raises
the epoch; results that were admitted under an older epoch are discarded.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN


@dataclass(frozen=True)
class Circuit:
    """A breaker's whole memory.

    Attributes:
        state: pybreaker's `closed`, `open` or `half-open`.
        epoch: grows with every transition.
        failures: consecutive ones, while closed.
        counting_since: the first of them.
        retry_at: when a probe is due, while open.
        lease_owner: who probes, while half-open.
        lease_until: when the prober is given up as dead.
        forced: set by hand; no result changes it before `forced_until`.
        reason: why it is in this state.
    """

    state: str = STATE_CLOSED
    epoch: int = 0
    failures: int = 0
    counting_since: datetime | None = None
    opened_at: datetime | None = None
    retry_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    forced: bool = False
    forced_until: datetime | None = None
    reason: str = ""

    def held_by_hand(self, now: datetime) -> bool:
        """Whether it was forced into its state and still is."""
        return self.forced and (self.forced_until is None or now < self.forced_until)

    def probe_due(self, now: datetime) -> bool:
        """Whether a call may become the probe now."""
        if self.held_by_hand(now) or self.state == STATE_CLOSED:
            return False
        due = self.retry_at if self.state == STATE_OPEN else self.lease_until
        return due is None or now >= due

    def admits(self, now: datetime) -> bool:
        """Whether a call now would reach the backend: it is closed, or a probe is due."""
        return self.state == STATE_CLOSED or self.probe_due(now)


def _opened(circuit: Circuit, now: datetime, wait: timedelta, reason: str) -> Circuit:
    return Circuit(
        state=STATE_OPEN,
        epoch=circuit.epoch + 1,
        failures=circuit.failures,
        opened_at=now,
        retry_at=now + wait,
        reason=reason,
    )


def failed(
    circuit: Circuit,
    *,
    epoch: int,
    now: datetime,
    fail_max: int,
    wait: timedelta,
    last_success: datetime | None,
    reason: str,
    sickness: str | None = None,
) -> Circuit | None:
    """A call failed that was admitted while closed.

    Args:
        epoch: the epoch of its admission.
        wait: until the first probe, if this failure opens the circuit.
        last_success: of the reporting process; a success since the count began restarts it at one.
        sickness: why it opens whatever the count: the failure rate of the reporting process.
    """
    if circuit.epoch != epoch or circuit.state != STATE_CLOSED:
        return None
    began = circuit.counting_since
    # At the same instant the failure wins: better a circuit too open than an outage unseen.
    restart = began is None or (last_success is not None and last_success > began)
    counted = replace(
        circuit,
        failures=1 if restart else circuit.failures + 1,
        counting_since=now if restart else began,
    )
    in_a_row = counted.failures >= fail_max
    if circuit.held_by_hand(now) or not (in_a_row or sickness):
        return counted
    why = f"{counted.failures} failures in a row" if in_a_row else sickness
    return _opened(counted, now, wait, f"{why}, the last: {reason}")


def probe_taken(circuit: Circuit, *, owner: str, now: datetime, lease: timedelta) -> Circuit | None:
    """A process asks to probe; None if it is not the time, or another process does."""
    if not circuit.probe_due(now):
        return None
    return Circuit(
        state=STATE_HALF_OPEN,
        epoch=circuit.epoch + 1,
        failures=circuit.failures,
        opened_at=circuit.opened_at,
        lease_owner=owner,
        lease_until=now + lease,
        reason=f"probed by {owner}",
    )


def _is_probe(circuit: Circuit, epoch: int) -> bool:
    return circuit.epoch == epoch and circuit.state == STATE_HALF_OPEN


def probe_succeeded(circuit: Circuit, *, epoch: int) -> Circuit | None:
    """The probe of this epoch was answered."""
    if not _is_probe(circuit, epoch):
        return None
    return Circuit(epoch=circuit.epoch + 1, reason="the probe was answered")


def probe_failed(
    circuit: Circuit, *, epoch: int, now: datetime, wait: timedelta, reason: str
) -> Circuit | None:
    """The probe of this epoch failed."""
    if not _is_probe(circuit, epoch):
        return None
    return _opened(circuit, now, wait, f"the probe failed: {reason}")


def probe_returned(circuit: Circuit, *, epoch: int, now: datetime, reason: str) -> Circuit | None:
    """The probe of this epoch proved nothing (refused request, interrupt): the next may try."""
    if not _is_probe(circuit, epoch):
        return None
    return replace(
        _opened(circuit, now, timedelta(), f"the probe proved nothing: {reason}"),
        opened_at=circuit.opened_at,
    )


def forced(
    circuit: Circuit, *, state: str, now: datetime, until: datetime | None, reason: str
) -> Circuit:
    """Set by hand; stays so until `until`, or for ever."""
    return Circuit(
        state=state,
        epoch=circuit.epoch + 1,
        opened_at=now if state == STATE_OPEN else None,
        retry_at=until if state == STATE_OPEN else None,
        forced=True,
        forced_until=until,
        reason=reason,
    )


def released(circuit: Circuit, *, reason: str) -> Circuit:
    """Back to closed and to the rules."""
    return Circuit(epoch=circuit.epoch + 1, reason=reason)


def probe_allowed(circuit: Circuit, *, now: datetime) -> Circuit | None:
    """An open circuit may be probed at once."""
    if circuit.state != STATE_OPEN:
        return None
    return replace(_opened(circuit, now, timedelta(), "a probe was asked for"), forced=False)
