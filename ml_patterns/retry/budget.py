"""The retry budget: how often the whole fleet may ask again.

Belongs here: counting requests and retries per minute in the operational database. Does not: a
single request's attempts and deadline (`caller.py`).

A request costs no write: each process counts its own in memory and hands the count in when it wants
to retry. What it has not handed in only makes the budget smaller, never larger.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ml_patterns.base import Clock, utc_now
from ml_patterns.retry.patience import PATIENCE_MS, soon_or_never
from ml_patterns.retry.tables import retry_budget

_LOG = logging.getLogger(__name__)
FLEET = "fleet"
_KEPT_MINUTES = 60


class Budget(Protocol):
    """Grants retries."""

    def requested(self) -> None:
        """Notes that a request began."""

    def spend(self) -> bool:
        """Whether one retry may be made now; it is counted if so."""


class Unlimited:
    """Grants every retry; for callers that have a budget of their own further out."""

    def requested(self) -> None:
        """Notes nothing."""

    def spend(self) -> bool:
        """Always."""
        return True


class RetryBudget:
    """At most `max(floor, ratio x requests)` retries per minute, over all processes.

    If the database cannot be asked, this process keeps to the same rule by itself and says so.

    Args:
        engine: the operational database.
        ratio: retries allowed per request.
        floor: retries always allowed per minute.
        name: callers of one name share a budget.
        patience_ms: how long another writer of the database is waited for.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        ratio: float,
        floor: int,
        name: str = FLEET,
        clock: Clock = utc_now,
        patience_ms: int = PATIENCE_MS,
    ) -> None:
        self._engine, self._ratio, self._floor = engine, ratio, floor
        self._name, self._clock, self._patience_ms = name, clock, patience_ms
        self._lock = threading.Lock()
        self._minute = -1
        self._requests = 0  # of this process, in this minute
        self._handed_in = 0
        self._local_retries = 0

    def requested(self) -> None:
        """Notes that a request began; costs no write."""
        with self._lock:
            self._turn_minute()
            self._requests += 1

    def spend(self) -> bool:
        """Whether one retry may be made now; it is counted if so."""
        with self._lock:
            minute = self._turn_minute()
            try:
                granted = self._spend_shared(minute, self._requests - self._handed_in)
            except sa.exc.SQLAlchemyError as error:
                _LOG.warning("retry budget kept by this process alone: %s", error)
                granted = self._local_retries < max(self._floor, self._ratio * self._requests)
            else:
                self._handed_in = self._requests
            self._local_retries += granted
            return granted

    def _turn_minute(self) -> int:
        minute = int(self._clock().timestamp() // 60)
        if minute != self._minute:
            self._minute, self._requests, self._handed_in, self._local_retries = minute, 0, 0, 0
        return minute

    def _spend_shared(self, minute: int, new_requests: int) -> bool:
        table = retry_budget
        here = sa.and_(table.c.name == self._name, table.c.minute == minute)
        insert = _upsert(self._engine)(table).values(
            name=self._name, minute=minute, requests=new_requests, retries=0
        )
        with soon_or_never(self._engine, self._patience_ms) as connection:
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["name", "minute"],
                    set_={"requests": table.c.requests + new_requests},
                )
            )
            allowed = sa.or_(
                table.c.retries < self._floor, table.c.retries + 1 <= self._ratio * table.c.requests
            )
            taken = connection.execute(
                sa.update(table).where(here, allowed).values(retries=table.c.retries + 1)
            )
            connection.execute(
                sa.delete(table).where(
                    table.c.name == self._name, table.c.minute < minute - _KEPT_MINUTES
                )
            )
        return taken.rowcount == 1


def _upsert(engine: sa.Engine) -> Callable[..., "postgresql.Insert | sqlite.Insert"]:
    return postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
