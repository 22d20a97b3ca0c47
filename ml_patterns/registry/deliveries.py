"""What each channel was told of the outbox.

Belongs here: what a channel still has to be told, and who tells it now. Does not: the log and the
webhook, whose state is in the outbox itself (`outbox.py`); telling (`branching/channels/`).
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from ml_patterns.registry import tables
from ml_patterns.registry.journal import insert_if_absent
from ml_patterns.registry.records import Notification
from ml_patterns.storage.operational import reading

_outbox = tables.outbox
_table = tables.outbox_deliveries


def untold(
    engine: sa.Engine, channel: str, since: datetime, pipeline: str | None = None
) -> list[Notification]:
    """What a channel still has to be told of what happened since a time, oldest first."""
    told = sa.exists().where(
        _table.c.channel == channel,
        _table.c.notification_id == _outbox.c.id,
        _table.c.delivered_at.is_not(None),
    )
    query = sa.select(_outbox).where(~told, _outbox.c.created_at >= since).order_by(_outbox.c.id)
    if pipeline is not None:
        query = query.where(_outbox.c.pipeline == pipeline)
    with reading(engine) as connection:
        return [Notification(**row) for row in connection.execute(query).mappings()]


def claim(
    engine: sa.Engine, channel: str, notification: Notification, now: datetime, lasting: timedelta
) -> bool:
    """Whether we may tell the channel now; False while another process does, or when it did."""
    values = {"channel": channel, "notification_id": notification.id}
    until = now + lasting
    with engine.begin() as connection:
        if insert_if_absent(connection, _table, **values, claimed_until=until, attempts=0):
            return True
        taken = connection.execute(
            sa.update(_table)
            .where(_of(channel, notification), _table.c.delivered_at.is_(None))
            .where(_table.c.claimed_until <= now)
            .values(claimed_until=until)
            .returning(_table.c.attempts)
        )
        return taken.first() is not None


def note(
    engine: sa.Engine,
    channel: str,
    notification: Notification,
    now: datetime,
    error: str | None = None,
) -> None:
    """Notes that the channel was told, or why it was not; the claim ends."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(_table)
            .where(_of(channel, notification))
            .values(
                attempts=_table.c.attempts + 1,
                claimed_until=now,
                error=error,
                delivered_at=now if error is None else None,
            )
        )


def stuck(engine: sa.Engine) -> list[tuple[str, Notification, int, str]]:
    """What a channel could not be told yet: channel, notification, attempts and the last error."""
    query = (
        sa.select(_outbox, _table.c.channel, _table.c.attempts, _table.c.error)
        .join(_table, _table.c.notification_id == _outbox.c.id)
        .where(_table.c.delivered_at.is_(None), _table.c.error.is_not(None))
        .order_by(_outbox.c.id, _table.c.channel)
    )
    width = len(_outbox.c)
    with reading(engine) as connection:
        return [
            (row[width], Notification(*row[:width]), row[width + 1], row[width + 2])
            for row in connection.execute(query)
        ]


def _of(channel: str, notification: Notification) -> sa.ColumnElement[bool]:
    return sa.and_(_table.c.channel == channel, _table.c.notification_id == notification.id)
