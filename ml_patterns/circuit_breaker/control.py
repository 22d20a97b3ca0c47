"""Breakers by hand: for the command line.

Belongs here: status, forcing and releasing, without calling anything. Does not: the rules
(`transitions.py`).
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import sqlalchemy as sa
from pybreaker import STATE_CLOSED, STATE_OPEN

from ml_patterns.base import Clock, utc_now
from ml_patterns.circuit_breaker import transitions
from ml_patterns.circuit_breaker.store import Event, OperationalStore
from ml_patterns.circuit_breaker.transitions import Circuit
from ml_patterns.errors import UserError


@dataclass(frozen=True)
class BreakerStatus:
    """A breaker as `ml-patterns breaker status` shows it."""

    name: str
    state: str
    reason: str
    failures: int
    opened_at: datetime | None
    retry_at: datetime | None
    probed_by: str | None
    forced: bool
    forced_until: datetime | None
    events: tuple[Event, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; times in ISO format."""
        return {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in asdict(self).items()
        } | {"events": [asdict(event) | {"at": event.at.isoformat()} for event in self.events]}


def status(engine: sa.Engine, *, clock: Clock = utc_now, events: int = 5) -> list[BreakerStatus]:
    """Every breaker that ever failed or was forced, by name, with its newest events."""
    store, now = OperationalStore(engine), clock()
    return [
        _status(name, circuit, now, tuple(store.events(name, limit=events)))
        for name, circuit in store.all().items()
    ]


def force(
    engine: sa.Engine,
    name: str,
    state: Literal["open", "closed"],
    *,
    reason: str,
    actor: str,
    lasting: timedelta | None = None,
    clock: Clock = utc_now,
) -> Circuit:
    """Opens or closes a breaker; no result changes that before `lasting` is over (None: ever).

    Raises:
        UserError: without a reason or an actor.
    """
    if state not in (STATE_OPEN, STATE_CLOSED):
        raise UserError(f"a breaker cannot be forced {state!r}; use open or closed")
    now = clock()
    until = None if lasting is None else now + lasting
    rule = partial(
        transitions.forced, state=state, now=now, until=until, reason=_stated(reason, "reason")
    )
    store = OperationalStore(engine)
    return store.change(name, rule, actor=_stated(actor, "actor"), now=now).after


def reset(
    engine: sa.Engine, name: str, *, reason: str, actor: str, clock: Clock = utc_now
) -> Circuit:
    """Closes a breaker and gives it back to the rules.

    Raises:
        UserError: without a reason or an actor.
    """
    rule = partial(transitions.released, reason=_stated(reason, "reason"))
    store = OperationalStore(engine)
    return store.change(name, rule, actor=_stated(actor, "actor"), now=clock()).after


def _stated(text: str, what: str) -> str:
    if not text.strip():
        raise UserError(f"a breaker is not moved by hand without {what}; state it")
    return text.strip()


def _status(name: str, circuit: Circuit, now: datetime, events: tuple[Event, ...]) -> BreakerStatus:
    return BreakerStatus(
        name=name,
        state=circuit.state,
        reason=circuit.reason,
        failures=circuit.failures,
        opened_at=circuit.opened_at,
        retry_at=circuit.retry_at,
        probed_by=circuit.lease_owner,
        forced=circuit.held_by_hand(now),
        forced_until=circuit.forced_until,
        events=events,
    )
