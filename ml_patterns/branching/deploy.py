"""Deployment: the decision is read again, verified, and the champion moved.

Belongs here: which regions may be deployed, and deploying one. Does not: the compare-and-set itself
(`Registry.promote`), judging (`gate.py`).
"""

from dataclasses import dataclass

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ArtifactError, ConflictError, StaleDecisionError
from ml_patterns.registry.records import Champion, DecisionRecord, ModelVersion, Verdict
from ml_patterns.registry.regions import retired_among
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.artifacts import ArtifactStore


@dataclass(frozen=True)
class Deployment:
    """What became of a region.

    Attributes:
        version: the one that may be deployed; where there is none, the newest.
        champion: this version as champion; None: it is not deployed.
        promoted: whether this call made it champion.
        sentence: what happened, or why nothing did.
    """

    region: str
    version: ModelVersion | None
    decision: DecisionRecord | None
    champion: Champion | None
    promoted: bool
    sentence: str


def deploy(
    registry: Registry,
    artifacts: ArtifactStore,
    policy: Policy,
    pipeline: str,
    region: str,
    *,
    actor: str,
) -> Deployment:
    """Makes the version that the gate or a reviewer allows champion of its region.

    Usually that is the newest version; an older one that passed and never served counts, too, so
    that it makes no difference when this runs. A version under review, rejected or rolled back is
    no error: nothing is deployed then.

    Raises:
        StaleDecisionError: it was allowed, but what the decision was made about is not the same any
            more; the sentence names what changed.
    """
    version = _candidate(registry, policy, pipeline, region)
    if version is None:
        return _idle(region, f"{region} has no model version yet")
    decision = registry.latest_decision(pipeline, region, version.number)
    champion = registry.champion(pipeline, region)
    who = f"{region} version {version.number}"
    if champion is not None and champion.version == version.number:
        sentence = f"{who} already serves, as generation {champion.generation}"
        return Deployment(region, version, decision, champion, False, sentence)
    if retired_among(registry.engine, pipeline, [region]):
        return _idle(region, f"{who} is not deployed: the region is retired", version, decision)
    if decision is None:
        return _idle(region, f"{who} was not judged yet", version)
    if version.state != "approved":
        return _idle(region, _why_not(registry, version, decision), version, decision)
    _verify(artifacts, policy, version, decision, who)
    generation = 0 if champion is None else champion.generation
    try:
        promoted = registry.promote(
            version,
            expected_generation=generation,
            decision=decision,
            actor=actor,
            reason=_reason(registry, decision),
        )
    except ConflictError:
        now = registry.champion(pipeline, region)
        if now is None or now.version != version.number:
            raise
        # Another process deployed the same version meanwhile.
        sentence = f"{who} already serves, as generation {now.generation}"
        return Deployment(region, version, decision, now, False, sentence)
    sentence = f"{who} serves now, as generation {promoted.generation}: {decision.reason}"
    return Deployment(region, version, decision, promoted, True, sentence)


def deployable(registry: Registry, pipeline: str, policy: Policy) -> list[DecisionRecord]:
    """The decisions that allow a deployment now: passed or approved, and still what they were."""
    return registry.allowed(pipeline, policy.fingerprint())


def _candidate(
    registry: Registry, policy: Policy, pipeline: str, region: str
) -> ModelVersion | None:
    for decision in registry.allowed(pipeline, policy.fingerprint(), region):
        return registry.version(pipeline, region, decision.version)
    return registry.current(pipeline, region)


def _verify(
    artifacts: ArtifactStore,
    policy: Policy,
    version: ModelVersion,
    decision: DecisionRecord,
    who: str,
) -> None:
    if decision.policy_hash != policy.fingerprint():
        raise StaleDecisionError(
            f"{who} is not deployed: the policy of the gate changed since it was judged; "
            "materialize regional_model again"
        )
    try:
        artifacts.get(version.artifact)
    except (ArtifactError, ValueError) as error:
        raise StaleDecisionError(f"{who} is not deployed: {error}; train it again") from error


def _why_not(registry: Registry, version: ModelVersion, decision: DecisionRecord) -> str:
    who = f"{version.region} version {version.number}"
    review = registry.review_of(decision)
    if version.state == "retired":
        reason = registry.rolled_back(version)
        return f"{who} is not deployed: it " + (
            f"was rolled back: {reason}" if reason else "was champion before"
        )
    if review is None:
        return f"{who} is not deployed: {decision.reason}"
    if review.state == "pending":
        return (
            f"{who} is not deployed: it waits for review {review.id} until "
            f"{review.expires_at:%Y-%m-%d %H:%M} UTC: {decision.reason}"
        )
    return f"{who} is not deployed: review {review.id} is {review.state}: {review.reason}"


def _reason(registry: Registry, decision: DecisionRecord) -> str:
    review = registry.review_of(decision)
    if decision.verdict is Verdict.REVIEW and review is not None:
        return f"review {review.id} approved by {review.reviewer}: {review.reason}"
    return decision.reason


def _idle(
    region: str,
    sentence: str,
    version: ModelVersion | None = None,
    decision: DecisionRecord | None = None,
) -> Deployment:
    return Deployment(region, version, decision, None, False, sentence)
