"""One pass over what a channel still has to be told.

Belongs here: order, claims, and that no channel is in anybody's way. Does not: the channels
(`jira.py`, `chat.py`), the log and the webhook (`notify.py`).

Each channel has a state of its own, so that a dead one makes no other repeat itself. Per region the
order is kept: what follows an undelivered notification waits for it.
"""

import logging
from datetime import timedelta
from typing import Protocol

import requests
import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.branching.notify import Delivery
from ml_patterns.errors import MLPatternsError
from ml_patterns.registry.deliveries import claim, note, untold
from ml_patterns.registry.records import Notification
from ml_patterns.retry.caller import GaveUpError, RetryingCaller
from ml_patterns.retry.waits import Backoff

_log = logging.getLogger(__name__)
_CLAIM = timedelta(minutes=2)
_NEWS = timedelta(days=14)
"""What happened before is not told to a channel that is set up, or comes back, only now."""


class Channel(Protocol):
    """Somebody to tell."""

    @property
    def name(self) -> str:
        """Under which it is noted what the channel was told."""

    def send(self, notification: Notification) -> None:
        """Tells it; telling it again changes nothing where the channel allows.

        Raises:
            MLPatternsError, requests.RequestException: it could not be told.
        """


def patient_caller() -> RetryingCaller:
    """Asks three times within twenty seconds; the next pass asks again anyway."""
    return RetryingCaller(attempts=3, deadline=20, attempt_timeout=5, backoff=Backoff(1, 0.5, 5))


def tell(
    engine: sa.Engine, channel: Channel, *, pipeline: str | None = None, clock: Clock = utc_now
) -> Delivery:
    """Tells a channel what it was not told yet. Never raises for what the channel does."""
    delivered, failed, error = 0, 0, ""
    held_back: set[tuple[str, str]] = set()
    for notification in untold(engine, channel.name, clock() - _NEWS, pipeline):
        region = (notification.pipeline, notification.region)
        if region in held_back:
            failed += 1
            continue
        if not claim(engine, channel.name, notification, clock(), _CLAIM):
            held_back.add(region)
            continue
        try:
            channel.send(notification)
        except (MLPatternsError, requests.RequestException) as problem:
            error = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            note(engine, channel.name, notification, clock(), error)
            _log.warning("%s was not told of %s: %s", channel.name, notification.kind, error)
            held_back.add(region)
            failed += 1
            if isinstance(problem, GaveUpError):
                break  # nobody is there: the others would only wait for the same time-out
        else:
            note(engine, channel.name, notification, clock())
            delivered += 1
    return Delivery(delivered, failed, error)
