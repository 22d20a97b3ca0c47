"""Reviews as Jira tickets.

Belongs here: one ticket per review, found before one is opened, commented, closed. Does not: when
that happens (`passing.py`).

Jira has no idempotency keys: a request whose answer is lost may have worked. So every step looks
before it acts: a ticket carries its review's key as a label, a comment its notification's key as
text, and a ticket that is done stays as it is. Jira's REST API, version 2, which Data Center and
Cloud share (https://developer.atlassian.com/cloud/jira/platform/rest/v2/).
"""

import base64
import hashlib
import json
import os
from typing import Any, Self
from urllib.parse import quote, urlencode

from pydantic import Field, SecretStr

from ml_patterns.base import Settings
from ml_patterns.branching.channels.passing import patient_caller
from ml_patterns.branching.notify import describe
from ml_patterns.errors import SettingsError
from ml_patterns.registry.records import Notification, Review
from ml_patterns.registry.registry import Registry
from ml_patterns.retry.caller import RetryingCaller
from ml_patterns.retry.classify import HttpStatusError, InvalidAnswerError
from ml_patterns.retry.http import fetch, http_session

_PREFIX = "ML_PATTERNS_JIRA_"
_CLOSING = frozenset({"review_approved", "review_rejected", "review_expired", "review_voided"})
_TOLD = _CLOSING | {"review_requested", "review_reminder"}


class JiraSettings(Settings):
    """Where tickets are opened; from ML_PATTERNS_JIRA_URL, _PROJECT, _TOKEN, _USER, _ISSUE_TYPE."""

    url: str = Field(description="Base URL, such as https://example.atlassian.net.")
    project: str = Field(description="Key of the project.")
    token: SecretStr = Field(description="API token (with `user`), or personal access token.")
    user: str | None = Field(default=None, description="Account of an API token (Cloud).")
    issue_type: str = Field(default="Task", description="Type of the tickets.")

    @classmethod
    def from_environment(cls) -> Self | None:
        """The settings of this environment; None: there is no Jira.

        Raises:
            SettingsError: a URL without project or token.
        """
        values = {
            name: value for name in cls.model_fields if (value := os.environ.get(_variable(name)))
        }
        if "url" not in values:
            return None
        for name in ("project", "token"):
            if name not in values:
                raise SettingsError(f"{_variable('url')} is set, but {_variable(name)} is not")
        return cls.model_validate(values)


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


class JiraChannel:
    """Tells Jira about reviews; what is no review is no ticket.

    Args:
        registry: knows what a review is bound to.
        caller: asks again what failed in passing.
    """

    name = "jira"

    def __init__(
        self, settings: JiraSettings, registry: Registry, caller: RetryingCaller | None = None
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._caller = caller or patient_caller()
        self._session = http_session()

    def send(self, notification: Notification) -> None:
        """Opens, comments or closes the ticket of a review."""
        number = notification.payload.get("review")
        if notification.kind not in _TOLD or number is None:
            return
        review = self._registry.review(number)
        # Each step as a whole is repeated, so that its look comes before its act again.
        ticket = self._caller.call(lambda seconds: self._ticket(review, seconds))
        if notification.kind != "review_requested":
            self._caller.call(lambda seconds: self._comment(ticket, notification, seconds))
        if notification.kind in _CLOSING:
            self._caller.call(lambda seconds: self._close(ticket, seconds))

    def _ticket(self, review: Review, seconds: float) -> str:
        label = label_of(review)
        query = {"jql": f'labels = "{label}" ORDER BY created ASC', "fields": "key"}
        try:
            found = self._ask("GET", f"search?{urlencode(query)}", seconds)
        except HttpStatusError as error:
            if error.status not in (404, 410):
                raise
            # Cloud took the older address away in 2025; Data Center does not have the newer one.
            found = self._ask("GET", f"search/jql?{urlencode(query)}", seconds)
        for issue in _of(found, "issues", list):
            return str(_of(issue, "key", str))
        who = f"{review.pipeline}/{review.region} version {review.version}"
        decision = self._registry.decision(review.decision_id)
        fields = {
            "project": {"key": self._settings.project},
            "issuetype": {"name": self._settings.issue_type},
            "summary": f"Review {review.id}: {who}"[:250],
            "description": f"{decision.reason}\n\nExpires {review.expires_at:%Y-%m-%d %H:%M} UTC; "
            "an expired review deploys nothing.",
            "labels": [label],
        }
        opened = self._ask("POST", "issue", seconds, {"fields": fields})
        return str(_of(opened, "key", str))

    def _comment(self, ticket: str, notification: Notification, seconds: float) -> None:
        path = f"issue/{quote(ticket, safe='')}/comment"
        there = _of(self._ask("GET", path, seconds), "comments", list)
        if any(notification.key in str(comment.get("body")) for comment in there):
            return
        text = f"{describe(notification)}\n\n({notification.key})"
        self._ask("POST", path, seconds, {"body": text})

    def _close(self, ticket: str, seconds: float) -> None:
        path = f"issue/{quote(ticket, safe='')}"
        fields = _of(self._ask("GET", f"{path}?fields=status", seconds), "fields", dict)
        if _is_done(fields.get("status")):
            return
        offered = self._ask("GET", f"{path}/transitions", seconds)
        for transition in _of(offered, "transitions", list):
            if _is_done(transition.get("to")):
                chosen = {"transition": {"id": transition["id"]}}
                self._ask("POST", f"{path}/transitions", seconds, chosen)
                return
        raise InvalidAnswerError(f"ticket {ticket} has no transition to a status that is done")

    def _ask(self, method: str, path: str, seconds: float, body: object = None) -> Any:
        user, token = self._settings.user, self._settings.token.get_secret_value()
        secret = f"Bearer {token}"
        if user is not None:
            secret = f"Basic {base64.b64encode(f'{user}:{token}'.encode()).decode()}"
        answer = fetch(
            self._session,
            method,
            f"{self._settings.url.rstrip('/')}/rest/api/2/{path}",
            timeout=seconds,
            headers={"Authorization": secret, "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body).encode(),
        )
        try:
            return json.loads(answer.body) if answer.body else {}
        except ValueError as error:
            raise InvalidAnswerError(f"{method} {path}: Jira's answer is no JSON") from error


def label_of(review: Review) -> str:
    """What finds a review's ticket again; the same number of another installation has another."""
    whole = "\0".join((review.pipeline, review.region, str(review.id), review.artifact))
    return f"ml-patterns-{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


def _is_done(status: Any) -> bool:
    category = status.get("statusCategory", {}) if isinstance(status, dict) else {}
    return bool(category.get("key") == "done")


def _of(document: Any, name: str, kind: type) -> Any:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise InvalidAnswerError(f"Jira's answer has no {name}")
    return value
