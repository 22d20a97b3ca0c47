"""Telling the team: the outbox goes to the log and to a webhook.

Belongs here: one pass over what is pending. Does not: what is worth telling (`registry/`), when a
pass is made (`assets.py`, `sensors.py`).

At least once: a notification counts as delivered when the webhook answered 2xx, so a process that
dies in between sends it again under the same idempotency key. A dead webhook keeps them pending and
never raises.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import requests
import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.branching.settings import NotificationsSettings
from ml_patterns.registry.outbox import mark_delivered, mark_failed, notifications
from ml_patterns.registry.records import Notification

_log = logging.getLogger(__name__)
_TIMEOUT = (3.05, 5)
_ALARMING = frozenset(
    {"rejected", "champion_in_doubt", "rolled_back", "review_expired", "run_failed"}
)


@dataclass(frozen=True)
class Delivery:
    """What one pass did; `failed` stay pending and are tried in the next one."""

    delivered: int
    failed: int
    error: str = ""


def webhook_url(settings: NotificationsSettings) -> str | None:
    """The URL that the settings' environment variable holds, if it is set."""
    return os.environ.get(settings.webhook_variable) or None


def deliver(
    engine: sa.Engine,
    url: str | None,
    *,
    pipeline: str | None = None,
    clock: Clock = utc_now,
    log: Callable[[int, str], None] = _log.log,
) -> Delivery:
    """Sends what is pending, oldest first, each once.

    Args:
        url: of the webhook; None: the log alone is told.
        log: takes a level of `logging` and a line; a notification is logged on its first attempt.
    """
    delivered, error = 0, ""
    pending = notifications(engine, pipeline, pending_only=True)
    with requests.Session() as session:
        for notification in pending:
            if notification.attempts == 0:
                level = logging.WARNING if notification.kind in _ALARMING else logging.INFO
                log(level, describe(notification))
            try:
                if url is not None:
                    _post(session, url, notification)
            except requests.RequestException as failure:
                error = _without_address(failure)
                mark_failed(engine, notification, error)
                if not isinstance(failure, requests.HTTPError):
                    break  # nobody is there: the others would only wait for the same time-out
            else:
                mark_delivered(engine, notification, clock())
                delivered += 1
    return Delivery(delivered, len(pending) - delivered, error)


def describe(notification: Notification) -> str:
    """A notification as one line."""
    payload = notification.payload
    what = notification.kind.replace("_", " ")
    who = notification.pipeline
    if notification.region:  # what concerns the whole pipeline names none
        who += f"/{notification.region} version {payload.get('version')}"
    return f"{who} {what}: {payload.get('reason', '')}"


def body(notification: Notification) -> dict[str, object]:
    """A notification as the webhook gets it."""
    return {
        "idempotency_key": notification.key,
        "kind": notification.kind,
        "pipeline": notification.pipeline,
        "region": notification.region,
        "created_at": _iso(notification.created_at),
        "text": describe(notification),
        **notification.payload,
    }


def _post(session: requests.Session, url: str, notification: Notification) -> None:
    response = session.post(
        url,
        json=body(notification),
        headers={"Idempotency-Key": notification.key},
        timeout=_TIMEOUT,
        allow_redirects=False,
    )
    response.raise_for_status()
    if not response.ok or response.is_redirect:
        raise requests.HTTPError(f"{response.status_code} is no answer of a webhook")


def _without_address(failure: requests.RequestException) -> str:
    """What went wrong; a webhook's URL is a secret and is not kept."""
    response = failure.response
    if response is not None:
        return f"HTTP {response.status_code}"
    return type(failure).__name__


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()
