"""What the registry hands out: plain, frozen records.

Belongs here: the records and their states. Does not: the tables (`tables.py`), the transitions
(`registry.py`, `reviews.py`, `rollback.py`).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

VersionState = Literal[
    "candidate",
    "evaluated",
    "pending_review",
    "approved",
    "rejected",
    "expired",
    "voided",
    "champion",
    "retired",
]
ReviewState = Literal["pending", "approved", "rejected", "expired", "voided"]


class Verdict(StrEnum):
    """What the gate says about a version."""

    DEPLOY = "deploy"
    REVIEW = "review"
    REJECT = "reject"


@dataclass(frozen=True)
class ModelVersion:
    """A trained model of a region; numbers count from 1 per region."""

    pipeline: str
    region: str
    number: int
    artifact: str
    kind: str
    state: str
    training_key: str
    created_at: datetime


@dataclass(frozen=True)
class Champion:
    """The version that a region serves; every change of it is a new generation, from 1."""

    pipeline: str
    region: str
    version: int
    artifact: str
    generation: int
    promoted_at: datetime


@dataclass(frozen=True)
class DecisionRecord:
    """A verdict, what it was made from, and what it holds for.

    Attributes:
        champion_generation: the region's generation when it was judged; 0: no champion yet.
    """

    id: int
    pipeline: str
    region: str
    version: int
    verdict: Verdict
    reason: str
    evidence: dict[str, Any]
    policy: dict[str, Any]
    policy_hash: str
    test_fingerprint: str
    champion_generation: int
    decided_at: datetime


@dataclass(frozen=True)
class Review:
    """A question to a human, bound to artifact, policy, test slice and champion generation."""

    id: int
    decision_id: int
    pipeline: str
    region: str
    version: int
    state: str
    artifact: str
    policy_hash: str
    test_fingerprint: str
    champion_generation: int
    requested_at: datetime
    expires_at: datetime
    reviewer: str | None
    reason: str | None
    decided_at: datetime | None


@dataclass(frozen=True)
class Generation:
    """One change of a region's champion; `restores` names the one that a rollback brought back."""

    pipeline: str
    region: str
    generation: int
    version: int
    artifact: str
    decision_id: int | None
    restores: int | None
    actor: str
    reason: str
    promoted_at: datetime


@dataclass(frozen=True)
class Notification:
    """A row of the outbox: something that the team is to be told, at least once."""

    id: int
    key: str
    pipeline: str
    region: str
    kind: str
    payload: dict[str, Any]
    created_at: datetime
    attempts: int
    error: str | None
    delivered_at: datetime | None


@dataclass(frozen=True)
class AuditRow:
    """One transition; never changed, never deleted."""

    id: int
    at: datetime
    pipeline: str
    region: str
    version: int
    action: str
    from_state: str | None
    to_state: str | None
    generation: int
    actor: str
    reason: str
