"""A verdict on record: the version's new state, and who is told or asked.

Belongs here: everything that recording a decision writes, inside a transaction that holds the
region's lock. Does not: transactions (`registry.py`), reaching the verdict
(`branching/decide.py`).
"""

from typing import Any

import sqlalchemy as sa

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import StaleDecisionError
from ml_patterns.registry import tables
from ml_patterns.registry.journal import GATE, RegionLock
from ml_patterns.registry.records import DecisionRecord, ModelVersion, Verdict
from ml_patterns.registry.reviews import open_review, void_outdated

_AFTER_VERDICT = {
    Verdict.DEPLOY: "approved",
    Verdict.REVIEW: "pending_review",
    Verdict.REJECT: "rejected",
}


def record(
    lock: RegionLock,
    version: ModelVersion,
    *,
    verdict: Verdict,
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
    if lock.generation != champion_generation:
        raise StaleDecisionError(
            f"{version.region} version {version.number} was judged against champion generation "
            f"{champion_generation}, but it is {lock.generation} now; judge it again"
        )
    bound: dict[str, Any] = {
        "policy_hash": policy.fingerprint(),
        "test_fingerprint": test_fingerprint,
        "champion_generation": champion_generation,
    }
    void_outdated(lock, {"artifact": version.artifact, **bound})
    values: dict[str, Any] = {
        "pipeline": version.pipeline,
        "region": version.region,
        "version": version.number,
        "verdict": str(verdict),
        "reason": reason,
        "evidence": evidence,
        "policy": policy.model_dump(mode="json"),
        **bound,
        "decided_at": lock.now,
    }
    decision_id = lock.connection.scalars(
        sa.insert(tables.decisions).values(values).returning(tables.decisions.c.id)
    ).one()
    decision = DecisionRecord(**{**values, "id": decision_id, "verdict": verdict})
    if lock.version == version.number:
        _doubt(lock, version, decision)
    else:
        _settle(lock, version, decision, policy)
    return decision


def _doubt(lock: RegionLock, version: ModelVersion, decision: DecisionRecord) -> None:
    """A champion that is judged again keeps serving: taking it away is a rollback."""
    lock.record(
        decision.version,
        action="judged",
        from_state="champion",
        to_state="champion",
        actor=GATE,
        reason=f"{decision.verdict}: {decision.reason}",
    )
    if decision.verdict is not Verdict.DEPLOY:
        _tell(lock, "champion_in_doubt", version, decision)


def _settle(
    lock: RegionLock, version: ModelVersion, decision: DecisionRecord, policy: Policy
) -> None:
    """The version takes the state that the verdict demands."""
    verdict, number, reason = decision.verdict, decision.version, decision.reason
    lock.move(number, "evaluated", action="judged", actor=GATE, reason=reason)
    state = _AFTER_VERDICT[verdict]
    lock.move(number, state, action=f"verdict_{verdict}", actor=GATE, reason=reason)
    if verdict is Verdict.REVIEW:
        review = open_review(
            lock,
            version,
            decision_id=decision.id,
            policy=policy,
            test_fingerprint=decision.test_fingerprint,
            champion_generation=decision.champion_generation,
        )
        _tell(lock, "review_requested", version, decision, review=review)
    elif verdict is Verdict.REJECT:
        _tell(lock, "rejected", version, decision)


def _tell(
    lock: RegionLock, kind: str, version: ModelVersion, decision: DecisionRecord, **more: object
) -> None:
    lock.notify(
        kind,
        (decision.id, version.artifact),
        {
            "decision": decision.id,
            "version": decision.version,
            "verdict": str(decision.verdict),
            "reason": decision.reason,
            **more,
        },
    )
