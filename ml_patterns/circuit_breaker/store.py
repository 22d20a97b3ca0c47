"""Where breakers keep their memory: the operational database, or this process.

Belongs here: reading and changing a `Circuit` atomically, the events, the list for the command
line. Does not: the rules (`transitions.py`).
"""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ml_patterns.circuit_breaker.tables import breaker_events, breakers
from ml_patterns.circuit_breaker.transitions import Circuit
from ml_patterns.retry.patience import PATIENCE_MS, soon_or_never
from ml_patterns.storage.operational import reading

Change = Callable[[Circuit], Circuit | None]
_COLUMNS = tuple(field.name for field in fields(Circuit))


def breaker_name(model_url: str) -> str:
    """The breaker of a model server; all pipelines and processes share it."""
    return f"model_server@{urlsplit(model_url).netloc}"


@dataclass(frozen=True)
class Changed:
    """Outcome of a change: the circuit before and after; the same if nothing was to change."""

    before: Circuit
    after: Circuit

    @property
    def happened(self) -> bool:
        """Whether the change was made."""
        return self.before is not self.after


@dataclass(frozen=True)
class Event:
    """A transition that happened."""

    name: str
    at: datetime
    from_state: str
    to_state: str
    epoch: int
    actor: str
    reason: str


class CircuitStore(Protocol):
    """Keeps circuits; changes are made one at a time."""

    def read(self, name: str) -> Circuit:
        """The circuit as it is; closed if nothing was ever written."""

    def change(self, name: str, change: Change, *, actor: str, now: datetime) -> Changed:
        """Applies a change to the circuit as it is at that moment."""


class LocalStore:
    """Keeps circuits in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._circuits: dict[str, Circuit] = {}
        self.events: list[Event] = []

    def read(self, name: str) -> Circuit:
        """The circuit as it is."""
        return self._circuits.get(name, Circuit())

    def change(self, name: str, change: Change, *, actor: str, now: datetime) -> Changed:
        """Applies a change."""
        with self._lock:
            before = self.read(name)
            after = change(before)
            if after is None:
                return Changed(before, before)
            self._circuits[name] = after
            if event := _event(name, before, after, actor, now):
                self.events.append(event)
            return Changed(before, after)


class OperationalStore:
    """Keeps circuits in the operational database, for all processes.

    A change is one transaction on a row that nobody else can change meanwhile: SQLite begins it as
    a writer, PostgreSQL locks the row.

    Args:
        patience_ms: how long a change waits for other writers.
    """

    def __init__(self, engine: sa.Engine, *, patience_ms: int = PATIENCE_MS) -> None:
        self._engine, self._patience_ms = engine, patience_ms

    def read(self, name: str) -> Circuit:
        """The circuit as it is."""
        with reading(self._engine) as connection:
            return _load(connection, name) or Circuit()

    def change(self, name: str, change: Change, *, actor: str, now: datetime) -> Changed:
        """Applies a change and writes its event, in one transaction."""
        with soon_or_never(self._engine, self._patience_ms) as connection:
            self._ensure(connection, name)
            before = _load(connection, name, for_update=True) or Circuit()
            after = change(before)
            if after is None:
                return Changed(before, before)
            connection.execute(
                sa.update(breakers).where(breakers.c.name == name).values(**asdict(after))
            )
            if event := _event(name, before, after, actor, now):
                connection.execute(sa.insert(breaker_events).values(**asdict(event)))
            return Changed(before, after)

    def _ensure(self, connection: sa.Connection, name: str) -> None:
        if _load(connection, name) is None:
            insert: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(
                insert.insert(breakers)
                .values(name=name, **asdict(Circuit()))
                .on_conflict_do_nothing()
            )

    def all(self) -> dict[str, Circuit]:
        """Every circuit by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(sa.select(breakers).order_by(breakers.c.name)).mappings()
            return {row["name"]: _circuit(row) for row in rows}

    def events(self, name: str | None = None, limit: int = 100) -> list[Event]:
        """The newest events, newest first."""
        query = sa.select(breaker_events).order_by(breaker_events.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(breaker_events.c.name == name)
        with reading(self._engine) as connection:
            return [
                Event(**{key: row[key] for key in row if key != "id"})
                for row in connection.execute(query).mappings()
            ]


def _load(connection: sa.Connection, name: str, *, for_update: bool = False) -> Circuit | None:
    query = sa.select(breakers).where(breakers.c.name == name)
    if for_update:
        query = query.with_for_update()
    row = connection.execute(query).mappings().first()
    return None if row is None else _circuit(row)


def _circuit(row: Any) -> Circuit:
    return Circuit(**{column: row[column] for column in _COLUMNS})


def _event(name: str, before: Circuit, after: Circuit, actor: str, now: datetime) -> Event | None:
    if before.epoch == after.epoch:  # a counted failure, no transition
        return None
    return Event(name, now, before.state, after.state, after.epoch, actor, after.reason)
