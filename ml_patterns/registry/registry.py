"""The registry: versions, decisions, reviews and champions of every region.

Belongs here: the transitions, each one transaction that holds its region's lock. Does not: reads
(`reads.py`), judging a model (`branching/`), sending notifications (`branching/notify.py`).

Only `promote` and `rollback` move a champion. Every transition writes the version's state, an audit
row and what the team is to be told in the same transaction, so a process that is killed anywhere
leaves either all of it or nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ConflictError, StaleDecisionError, UserError
from ml_patterns.registry import reviews as review_steps
from ml_patterns.registry import tables
from ml_patterns.registry.champions import install, verify
from ml_patterns.registry.decisions import record
from ml_patterns.registry.journal import RegionLock, named
from ml_patterns.registry.reads import RegistryReads
from ml_patterns.registry.records import (
    AuditRow,
    Champion,
    DecisionRecord,
    Generation,
    ModelVersion,
    Review,
    Verdict,
)
from ml_patterns.registry.rollback import roll_back

__all__ = [
    "AuditRow",
    "Champion",
    "DecisionRecord",
    "Generation",
    "ModelVersion",
    "Registry",
    "Review",
    "Verdict",
]


class Registry(RegistryReads):
    """Versions, decisions, reviews and champions in the operational database."""

    # Versions

    def register(
        self, *, pipeline: str, region: str, artifact: str, kind: str, training_key: str
    ) -> ModelVersion:
        """The version of an artifact: the one it has, else the region's next number."""
        versions = tables.versions
        with self._locked(pipeline, region) as lock:
            known = lock.connection.execute(
                sa.select(versions).where(lock.of(versions), versions.c.artifact == artifact)
            ).one_or_none()
            if known is not None:
                return ModelVersion(**known._mapping)
            newest = lock.connection.scalar(
                sa.select(sa.func.max(versions.c.number)).where(lock.of(versions))
            )
            version = ModelVersion(
                pipeline=pipeline,
                region=region,
                number=(newest or 0) + 1,
                artifact=artifact,
                kind=kind,
                state="candidate",
                training_key=training_key,
                created_at=lock.now,
            )
            lock.connection.execute(sa.insert(versions).values(**version.__dict__))
            lock.record(
                version.number,
                action="registered",
                from_state=None,
                to_state="candidate",
                actor="training",
                reason=f"{kind} model {artifact[:12]}",
            )
            return version

    # Decisions

    def record_decision(
        self,
        version: ModelVersion,
        *,
        verdict: str,
        reason: str,
        evidence: dict[str, Any],
        policy: Policy,
        test_fingerprint: str,
        champion_generation: int,
    ) -> DecisionRecord:
        """Records a verdict; opens a review or tells the team, as it demands.

        Raises:
            StaleDecisionError: the champion that the version was judged against serves no more.
        """
        with self._locked(version.pipeline, version.region) as lock:
            return record(
                lock,
                version,
                verdict=Verdict(verdict),
                reason=reason,
                evidence=evidence,
                policy=policy,
                test_fingerprint=test_fingerprint,
                champion_generation=champion_generation,
            )

    # Champions

    def promote(
        self,
        version: ModelVersion,
        *,
        expected_generation: int,
        decision: DecisionRecord,
        actor: str,
        reason: str,
    ) -> Champion:
        """Makes a version the champion of its region, by compare-and-set on the generation.

        Raises:
            ConflictError: the champion changed since `expected_generation`.
            StaleDecisionError: the decision is not the version's newest, was made against another
                champion or artifact, or does not allow a deployment.
        """
        actor, reason = named(actor, reason)
        who = f"{version.region} version {version.number}"
        with self._locked(version.pipeline, version.region) as lock:
            if lock.generation != expected_generation:
                raise ConflictError(
                    f"{who} is not promoted: the champion is of generation {lock.generation} now, "
                    f"not {expected_generation}"
                )
            verify(lock, version, decision, who)
            return install(
                lock,
                version.number,
                version.artifact,
                decision_id=decision.id,
                restores=None,
                action="promoted",
                actor=actor,
                reason=reason,
            )

    def rollback(
        self, pipeline: str, region: str, *, to_generation: int | None, actor: str, reason: str
    ) -> Champion:
        """Makes an earlier champion serve again, as a new generation.

        Args:
            to_generation: the generation to return to; None: the one before.

        Raises:
            UserError: there is no such generation, or actor or reason are empty.
        """
        actor, reason = named(actor, reason)
        with self._locked(pipeline, region) as lock:
            return roll_back(lock, to_generation, actor=actor, reason=reason)

    def rollback_all(self, pipeline: str, *, actor: str, reason: str) -> list[Champion]:
        """Returns every region that has an earlier champion to it: all of them or none."""
        actor, reason = named(actor, reason)
        restored = []
        with self.engine.begin() as connection:
            # Always in the same order, so that two of these never wait for each other.
            for champion in self.champions(pipeline):
                lock = RegionLock.take(connection, pipeline, champion.region, self.clock)
                try:
                    restored.append(roll_back(lock, None, actor=actor, reason=reason))
                except UserError:
                    continue
        if not restored:
            raise UserError(f"no region of {pipeline} has an earlier champion to return to")
        return restored

    # Reviews

    def decide_review(
        self,
        review_id: int,
        *,
        approve: bool,
        reviewer: str,
        reason: str,
        policy_hash: str | None = None,
        test_fingerprint: str | None = None,
    ) -> Review:
        """Answers a review. An approval does not deploy; it allows the deployment.

        Args:
            policy_hash: of the policy that holds now, if the caller knows it.
            test_fingerprint: of the test slice as it is now, if the caller knows it.

        Raises:
            StaleDecisionError: it no longer fits what it was asked about, is answered or expired;
                the sentence says which.
            UserError: there is no such review, or reviewer or reason are empty.
        """
        reviewer, reason = named(reviewer, reason)
        asked = self.review(review_id)
        with self._locked(asked.pipeline, asked.region) as lock:
            newest = lock.connection.execute(
                sa.select(tables.versions).where(
                    lock.of(tables.versions), tables.versions.c.number == asked.version
                )
            ).one()
            current: dict[str, object] = {
                "artifact": newest.artifact,
                "champion_generation": lock.generation,
            }
            if policy_hash is not None:
                current["policy_hash"] = policy_hash
            if test_fingerprint is not None:
                current["test_fingerprint"] = test_fingerprint
            refusal = review_steps.answer(
                lock,
                review_steps.load(lock.connection, review_id),
                approve=approve,
                reviewer=reviewer,
                reason=reason,
                current=current,
            )
        if refusal is not None:
            raise StaleDecisionError(refusal)
        return self.review(review_id)

    def expire_reviews(self, pipeline: str | None = None) -> list[Review]:
        """Rejects the reviews whose time is over; returns them."""
        now = self.clock()
        expired = []
        for review in self.reviews(pipeline):
            if now < review.expires_at:
                continue
            with self._locked(review.pipeline, review.region) as lock:
                if review_steps.load(lock.connection, review.id).state != "pending":
                    continue  # answered while we waited for the lock
                review_steps.expire(lock, review)
            expired.append(self.review(review.id))
        return expired

    def remind_of_reviews(self, before: timedelta, pipeline: str | None = None) -> list[Review]:
        """Tells the team once of each review that expires within `before`; returns those."""
        now = self.clock()
        reminded = []
        for review in self.reviews(pipeline):
            if not now < review.expires_at <= now + before:
                continue
            with self._locked(review.pipeline, review.region) as lock:
                if review_steps.load(lock.connection, review.id).state == "pending":
                    review_steps.remind(lock, review)
                    reminded.append(review)
        return reminded

    # Inside

    @contextmanager
    def _locked(self, pipeline: str, region: str) -> Iterator[RegionLock]:
        with self.engine.begin() as connection:
            yield RegionLock.take(connection, pipeline, region, self.clock)
