"""What every transition writes: the version's new state, an audit row, a notification.

Belongs here: the building blocks that a transition calls inside its own transaction. Does not:
transactions, and which transitions exist (`registry.py`, `reviews.py`, `rollback.py`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ml_patterns.base import Clock
from ml_patterns.errors import UserError
from ml_patterns.registry import tables

GATE = "gate"
"""The actor of transitions that no person made."""


def insert_if_absent(connection: sa.Connection, table: sa.Table, **values: Any) -> bool:
    """Inserts a row unless its key exists; returns whether it was inserted."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    # Returned rows are counted, because not every driver counts the inserted ones.
    return connection.execute(statement.returning(sa.literal(1))).first() is not None


def named(actor: str, reason: str) -> tuple[str, str]:
    """Actor and reason without surrounding spaces.

    Raises:
        UserError: one of them is empty.
    """
    actor, reason = actor.strip(), reason.strip()
    if not actor or not reason:
        raise UserError("say who decides and why: both an identity and a reason are mandatory")
    return actor, reason


@dataclass(frozen=True)
class RegionLock:
    """A region whose row is locked until the transaction ends, and what it serves now."""

    connection: sa.Connection
    pipeline: str
    region: str
    generation: int
    version: int | None
    artifact: str | None
    now: datetime

    @classmethod
    def take(
        cls, connection: sa.Connection, pipeline: str, region: str, clock: Clock
    ) -> "RegionLock":
        """Waits for other transitions of this region; those of other regions go on.

        The clock is read after the wait: what happens later has a later time, and nobody's time to
        answer runs before there is a question.
        """
        champions = tables.champions
        insert_if_absent(connection, champions, pipeline=pipeline, region=region, generation=0)
        row = connection.execute(
            sa.select(champions)
            .where(champions.c.pipeline == pipeline, champions.c.region == region)
            .with_for_update()
        ).one()
        return cls(connection, pipeline, region, row.generation, row.version, row.artifact, clock())

    def of(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """The condition that a row of a table belongs to this region."""
        return sa.and_(table.c.pipeline == self.pipeline, table.c.region == self.region)

    def state(self, number: int) -> str:
        """A version's state now."""
        versions = tables.versions
        query = sa.select(versions.c.state).where(self.of(versions), versions.c.number == number)
        state: str = self.connection.scalars(query).one()
        return state

    def set_state(self, number: int, state: str) -> None:
        """Gives a version a new state; the caller records why."""
        versions = tables.versions
        self.connection.execute(
            sa.update(versions)
            .where(self.of(versions), versions.c.number == number)
            .values(state=state)
        )

    def move(self, number: int, to_state: str, *, action: str, actor: str, reason: str) -> None:
        """Gives a version a new state and records the transition."""
        from_state = self.state(number)
        self.set_state(number, to_state)
        self.record(
            number,
            action=action,
            from_state=from_state,
            to_state=to_state,
            actor=actor,
            reason=reason,
        )

    def record(
        self,
        number: int,
        *,
        action: str,
        from_state: str | None,
        to_state: str | None,
        actor: str,
        reason: str,
        generation: int | None = None,
    ) -> None:
        """Appends a row to the audit log."""
        self.connection.execute(
            sa.insert(tables.audit).values(
                at=self.now,
                pipeline=self.pipeline,
                region=self.region,
                version=number,
                action=action,
                from_state=from_state,
                to_state=to_state,
                generation=self.generation if generation is None else generation,
                actor=actor,
                reason=reason,
            )
        )

    def notify(self, kind: str, identity: Sequence[object], payload: dict[str, Any]) -> None:
        """Puts a notification into the outbox.

        Args:
            kind: what happened.
            identity: what makes it this event and no other; the idempotency key is its hash, so
                the same event never has two.
            payload: JSON for the receiver.
        """
        text = "\0".join(str(part) for part in (self.pipeline, self.region, kind, *identity))
        insert_if_absent(
            self.connection,
            tables.outbox,
            key=hashlib.sha256(text.encode()).hexdigest()[:32],
            pipeline=self.pipeline,
            region=self.region,
            kind=kind,
            payload=payload,
            created_at=self.now,
            attempts=0,
        )
