"""What people do with decisions: answer reviews, roll back, replay, ask what if.

Belongs here: the commands as plain functions that return records. Does not: reading arguments and
printing (`cli.py`), the transitions themselves (`registry/`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from ml_patterns.branching.decide import Decision
from ml_patterns.branching.gate import judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import SettingsError, UserError
from ml_patterns.registry.records import Champion, DecisionRecord, Review, Verdict
from ml_patterns.registry.registry import Registry


@dataclass(frozen=True)
class ReviewCase:
    """A review and what a reviewer needs to see."""

    review: Review
    decision: DecisionRecord
    outcome: Decision


@dataclass(frozen=True)
class Difference:
    """A recorded decision that its own evidence does not lead to any more."""

    decision: DecisionRecord
    recorded: str
    replayed: str


@dataclass(frozen=True)
class Flip:
    """A past decision that other thresholds would have turned."""

    decision: DecisionRecord
    before: Verdict
    after: Verdict
    sentence: str


def review_case(registry: Registry, review_id: int) -> ReviewCase:
    """A review with its decision and every condition behind it.

    Raises:
        UserError: there is no such review.
    """
    review = registry.review(review_id)
    decision = registry.decision(review.decision_id)
    return ReviewCase(review, decision, judgement_of(decision).outcome)


def approve(
    registry: Registry,
    review_id: int,
    *,
    reviewer: str,
    reason: str,
    policies: Mapping[str, Policy] | None = None,
) -> Review:
    """Allows a version to be deployed; the deployment sensor, or a run, then deploys it.

    Args:
        policies: pipeline -> the policy that its YAML holds now; a changed one voids the review.

    Raises:
        StaleDecisionError: what was asked about changed; the sentence names what.
        UserError: there is no such review, or reviewer or reason are empty.
    """
    return _answer(registry, review_id, True, reviewer, reason, policies)


def reject(
    registry: Registry,
    review_id: int,
    *,
    reviewer: str,
    reason: str,
    policies: Mapping[str, Policy] | None = None,
) -> Review:
    """Refuses a version. Arguments and errors as for `approve`."""
    return _answer(registry, review_id, False, reviewer, reason, policies)


def rollback(
    registry: Registry,
    pipeline: str,
    region: str | None,
    *,
    actor: str,
    reason: str,
    to_generation: int | None = None,
) -> list[Champion]:
    """Brings an earlier champion back, in one transaction.

    Args:
        region: None: every region that has an earlier champion.
        to_generation: None: the one before.

    Raises:
        UserError: there is nothing to return to, or a generation is named for all regions.
    """
    if region is not None:
        return [
            registry.rollback(
                pipeline, region, to_generation=to_generation, actor=actor, reason=reason
            )
        ]
    if to_generation is not None:
        raise UserError("generations are counted per region: name the region, or leave --to out")
    return registry.rollback_all(pipeline, actor=actor, reason=reason)


def replay_decisions(registry: Registry, pipeline: str | None = None) -> list[Difference]:
    """Makes every recorded decision again from its evidence; returns those that differ."""
    differences = []
    for decision in registry.decisions(pipeline):
        outcome = judgement_of(decision).outcome
        if (outcome.verdict, outcome.sentence) != (decision.verdict, decision.reason):
            differences.append(Difference(decision, decision.reason, outcome.sentence))
    return differences


def what_if(
    registry: Registry,
    pipeline: str | None = None,
    *,
    deploy_at: float | None = None,
    review_at: float | None = None,
    rule: Literal["point", "lower_bound"] | None = None,
) -> list[Flip]:
    """Which past decisions another policy would have turned, by region; nothing is retrained.

    Raises:
        SettingsError: the thresholds contradict each other.
    """
    changes = {"deploy_at": deploy_at, "review_at": review_at, "rule": rule}
    changes = {name: value for name, value in changes.items() if value is not None}
    flips = []
    for decision in registry.decisions(pipeline):
        policy = _changed(decision, changes)
        outcome = judgement_of(decision, policy).outcome
        if outcome.verdict is not decision.verdict:
            flips.append(Flip(decision, decision.verdict, outcome.verdict, outcome.sentence))
    return sorted(flips, key=lambda flip: (flip.decision.pipeline, flip.decision.region))


def _changed(decision: DecisionRecord, changes: Mapping[str, object]) -> Policy:
    try:
        return Policy.model_validate({**decision.policy, **changes})
    except ValidationError as error:
        raise SettingsError(
            f"{error.errors()[0]['msg'].removeprefix('Value error, ')} (decision {decision.id} of "
            f"{decision.region}); give both thresholds"
        ) from error


def _answer(
    registry: Registry,
    review_id: int,
    approved: bool,
    reviewer: str,
    reason: str,
    policies: Mapping[str, Policy] | None,
) -> Review:
    policy = (policies or {}).get(registry.review(review_id).pipeline)
    return registry.decide_review(
        review_id,
        approve=approved,
        reviewer=reviewer,
        reason=reason,
        policy_hash=None if policy is None else policy.fingerprint(),
    )
