"""The outbox: what the team is still to be told.

Belongs here: reading what is pending, and noting what became of it. Does not: writing it, which
every transition does in its own transaction (`journal.py`); sending (`branching/notify.py`).
"""

from datetime import datetime

import sqlalchemy as sa

from ml_patterns.registry import tables
from ml_patterns.registry.records import Notification
from ml_patterns.storage.operational import reading

_table = tables.outbox


def notifications(
    engine: sa.Engine, pipeline: str | None = None, *, pending_only: bool = False
) -> list[Notification]:
    """What was and is to be told, oldest first."""
    query = sa.select(_table).order_by(_table.c.id)
    if pipeline is not None:
        query = query.where(_table.c.pipeline == pipeline)
    if pending_only:
        query = query.where(_table.c.delivered_at.is_(None))
    with reading(engine) as connection:
        return [Notification(**row) for row in connection.execute(query).mappings()]


def mark_delivered(engine: sa.Engine, notification: Notification, now: datetime) -> None:
    """Notes that it arrived; it is never sent again."""
    _mark(engine, notification, delivered_at=now, error=None)


def mark_failed(engine: sa.Engine, notification: Notification, error: str) -> None:
    """Notes why it did not arrive; it stays pending."""
    _mark(engine, notification, error=error)


def _mark(engine: sa.Engine, notification: Notification, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.update(_table)
            .where(_table.c.id == notification.id)
            .values(attempts=_table.c.attempts + 1, **values)
        )
