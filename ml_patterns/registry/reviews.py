"""Reviews: the questions to a human, and what their answers hold for.

Belongs here: opening, answering, voiding and expiring a review, inside a transaction that holds the
region's lock. Does not: deciding that a review is needed (`branching/decide.py`), deploying what
was approved (`Registry.promote`).
"""

from collections.abc import Mapping

import sqlalchemy as sa

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import StaleDecisionError, UserError
from ml_patterns.registry import tables
from ml_patterns.registry.journal import GATE, RegionLock
from ml_patterns.registry.records import ModelVersion, Review

BOUND = {
    "artifact": "the model",
    "policy_hash": "the policy of the gate",
    "test_fingerprint": "the rows of the test slice",
    "champion_generation": "the region's champion",
}
"""What an answer holds for: column -> how a person calls it."""


def load(connection: sa.Connection, review_id: int) -> Review:
    """A review by its number.

    Raises:
        UserError: there is none.
    """
    row = connection.execute(
        sa.select(tables.reviews).where(tables.reviews.c.id == review_id)
    ).one_or_none()
    if row is None:
        raise UserError(f"there is no review {review_id}; see `ml-patterns review list`")
    return Review(**row._mapping)


def open_review(
    lock: RegionLock,
    version: ModelVersion,
    *,
    decision_id: int,
    policy: Policy,
    test_fingerprint: str,
    champion_generation: int,
) -> int:
    """Asks a human about a version; returns the review's number."""
    number: int = lock.connection.scalars(
        sa.insert(tables.reviews)
        .values(
            decision_id=decision_id,
            pipeline=lock.pipeline,
            region=lock.region,
            version=version.number,
            state="pending",
            artifact=version.artifact,
            policy_hash=policy.fingerprint(),
            test_fingerprint=test_fingerprint,
            champion_generation=champion_generation,
            requested_at=lock.now,
            expires_at=lock.now + policy.review_expires_after,
        )
        .returning(tables.reviews.c.id)
    ).one()
    return number


def changes(review: Review, current: Mapping[str, object]) -> list[str]:
    """Names what of the things that a review is bound to is no longer the same."""
    return [
        name
        for column, name in BOUND.items()
        if column in current and getattr(review, column) != current[column]
    ]


def void_sentence(review: Review, changed: list[str]) -> str:
    """Why a review no longer holds."""
    return (
        f"review {review.id} of {review.region} (version {review.version}) is void: "
        f"{' and '.join(changed)} changed since it was requested"
    )


def void_outdated(lock: RegionLock, current: Mapping[str, object]) -> None:
    """Voids the region's open or approved-but-undeployed reviews that no longer hold."""
    reviews = tables.reviews
    rows = lock.connection.execute(
        sa.select(reviews)
        .where(lock.of(reviews), reviews.c.state.in_(("pending", "approved")))
        .order_by(reviews.c.id)
    )
    for review in [Review(**row._mapping) for row in rows]:
        changed = changes(review, current)
        if not changed:
            continue
        if lock.state(review.version) in ("pending_review", "approved"):
            close(lock, review, "voided", actor=GATE, reason=void_sentence(review, changed))
        elif review.state == "pending":
            _set(lock, review, "voided", GATE, void_sentence(review, changed))


def void_waiting(lock: RegionLock, sentence: str, *, actor: str) -> None:
    """Voids the region's reviews that nobody answered yet."""
    reviews = tables.reviews
    rows = lock.connection.execute(
        sa.select(reviews)
        .where(lock.of(reviews), reviews.c.state == "pending")
        .order_by(reviews.c.id)
    )
    for review in [Review(**row._mapping) for row in rows]:
        if lock.state(review.version) == "pending_review":
            close(lock, review, "voided", actor=actor, reason=sentence)
        else:
            _set(lock, review, "voided", actor, sentence)


def close(lock: RegionLock, review: Review, state: str, *, actor: str, reason: str) -> None:
    """Ends a review; the version takes the review's state."""
    _set(lock, review, state, actor, reason)
    lock.move(review.version, state, action=f"review_{state}", actor=actor, reason=reason)
    lock.notify(
        f"review_{state}",
        (review.id,),
        {"review": review.id, "version": review.version, "actor": actor, "reason": reason},
    )


def answer(
    lock: RegionLock,
    review: Review,
    *,
    approve: bool,
    reviewer: str,
    reason: str,
    current: Mapping[str, object],
) -> str | None:
    """Records a human's answer, or that it comes too late.

    Returns:
        None if the answer holds; else the sentence why it does not (the review is closed then, and
        the caller raises it after the commit).

    Raises:
        UserError: the review was answered before.
    """
    if review.state != "pending":
        raise StaleDecisionError(
            f"review {review.id} of {review.region} is already {review.state}"
            + (f" by {review.reviewer}: {review.reason}" if review.reviewer else "")
        )
    changed = changes(review, current)
    if changed:
        sentence = void_sentence(review, changed)
        close(lock, review, "voided", actor=GATE, reason=sentence)
        return sentence
    if lock.now >= review.expires_at:
        return expire(lock, review)
    close(lock, review, "approved" if approve else "rejected", actor=reviewer, reason=reason)
    return None


def expire(lock: RegionLock, review: Review) -> str:
    """Rejects a review that nobody answered; returns the sentence."""
    sentence = (
        f"review {review.id} of {review.region} (version {review.version}) was not answered by "
        f"{review.expires_at:%Y-%m-%d %H:%M} UTC and expired; nothing is deployed"
    )
    close(lock, review, "expired", actor=GATE, reason=sentence)
    return sentence


def remind(lock: RegionLock, review: Review) -> None:
    """Tells the team that a review is about to expire; once, however often it is called."""
    reason = (
        f"review {review.id} waits since {review.requested_at:%Y-%m-%d %H:%M} UTC and expires at "
        f"{review.expires_at:%Y-%m-%d %H:%M} UTC; then nothing is deployed"
    )
    lock.notify(
        "review_reminder",
        (review.id,),
        {"review": review.id, "version": review.version, "reason": reason},
    )


def _set(lock: RegionLock, review: Review, state: str, actor: str, reason: str) -> None:
    lock.connection.execute(
        sa.update(tables.reviews)
        .where(tables.reviews.c.id == review.id)
        .values(state=state, reviewer=actor, reason=reason, decided_at=lock.now)
    )
