"""The gate: measures a version, decides, and puts the decision on record.

Belongs here: bringing evidence, verdict and registry together, for a new version and again for old
decisions (replay, what-if). Does not: the verdict (`decide.py`), deploying (`deploy.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ml_patterns.branching.decide import Decision, decide
from ml_patterns.branching.evidence import (
    ChampionEvidence,
    Evidence,
    ProbeResult,
    fingerprint,
    measure,
    measure_champion,
    unreadable_champion,
)
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ArtifactError, StaleDecisionError
from ml_patterns.registry.records import Champion, DecisionRecord, ModelVersion, Verdict
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.artifacts import Artifact, ArtifactStore

_TRIES = 3


@dataclass(frozen=True)
class Judgement:
    """A recorded decision and everything behind it."""

    decision: DecisionRecord
    outcome: Decision
    evidence: Evidence
    champion: ChampionEvidence | None

    @property
    def verdict(self) -> Verdict:
        """Deploy, review or reject."""
        return self.decision.verdict

    @property
    def sentence(self) -> str:
        """Why, for a person."""
        return self.decision.reason


def judge(
    *,
    version: ModelVersion,
    artifact: Artifact,
    test: pd.DataFrame,
    policy: Policy,
    registry: Registry,
    artifacts: ArtifactStore,
    probe: ProbeResult | None,
    data_checks: Mapping[str, bool | None],
) -> Judgement:
    """Judges a version on its test slice and records the decision.

    A version that was judged last in its region, on the same rows by the same policy against the
    same champion, is not judged again: the recorded decision comes back.

    Args:
        version: the version; its artifact's address is compared with that of `artifact`.
        artifact: the model and its card.
        test: labelled rows of the test slice, as `read_features` returns them.
        probe: what the clean process said; None: not probed, which goes to a human.
        data_checks: name -> passed; None: not known, which goes to a human.

    Raises:
        StaleDecisionError: the champion changed again and again while it was judged.
    """
    if artifact.address != version.artifact:
        raise ArtifactError(
            f"{version.region} version {version.number} is artifact {version.artifact[:12]}, not "
            f"{artifact.address[:12]}"
        )
    for attempt in range(_TRIES):
        champion = registry.champion(version.pipeline, version.region)
        try:
            return _judge_against(
                champion, version, artifact, test, policy, registry, artifacts, probe, data_checks
            )
        except StaleDecisionError:
            # The champion changed while we measured: measure against the new one.
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _judge_against(
    champion: Champion | None,
    version: ModelVersion,
    artifact: Artifact,
    test: pd.DataFrame,
    policy: Policy,
    registry: Registry,
    artifacts: ArtifactStore,
    probe: ProbeResult | None,
    data_checks: Mapping[str, bool | None],
) -> Judgement:
    rows, generation = fingerprint(test), 0 if champion is None else champion.generation
    known = registry.newest_decision(version.pipeline, version.region)
    if (
        known is not None
        and known.version == version.number
        and known.test_fingerprint == rows
        and known.policy_hash == policy.fingerprint()
        and known.champion_generation == generation
        and version.state != "voided"  # nobody can answer its review any more: ask again
        and not _left_undecided(known, probe, data_checks)
    ):
        return judgement_of(known)
    # LightGBM aborts on some broken texts: what did not survive a clean process is not loaded here.
    works = probe is not None and probe.reproduces is True
    evidence = measure(
        test,
        artifact.model_text if works else None,
        artifact.card,
        problem="" if works else "the model was not asked: its artifact is not known to work",
        probe=probe,
        data_checks=data_checks,
        rolled_back=registry.rolled_back(version),
    )
    serving = _measured_champion(champion, version, test, artifacts)
    outcome = decide(evidence, policy, serving)
    decision = registry.record_decision(
        version,
        verdict=outcome.verdict,
        reason=outcome.sentence,
        evidence=evidence.to_json(serving),
        policy=policy,
        test_fingerprint=rows,
        champion_generation=generation,
    )
    return Judgement(decision, outcome, evidence, serving)


def judgement_of(decision: DecisionRecord, policy: Policy | None = None) -> Judgement:
    """A recorded decision with its verdict made again from its evidence.

    Args:
        policy: judge by this one instead of the recorded one.
    """
    evidence, champion = Evidence.from_json(decision.evidence)
    outcome = decide(evidence, policy or Policy.model_validate(decision.policy), champion)
    return Judgement(decision, outcome, evidence, champion)


def _left_undecided(
    known: DecisionRecord, probe: ProbeResult | None, data_checks: Mapping[str, bool | None]
) -> bool:
    """Whether what could not be judged then can be judged now."""
    before = Evidence.from_json(known.evidence)[0]
    probed_now = probe is not None and probe.reproduces is not None
    probed_then = before.probe is not None and before.probe.reproduces is not None
    return (probed_now and not probed_then) or dict(before.data_checks) != dict(data_checks)


def _measured_champion(
    champion: Champion | None, version: ModelVersion, test: pd.DataFrame, artifacts: ArtifactStore
) -> ChampionEvidence | None:
    """The champion on the same rows; None where there is none or it is this version itself."""
    if champion is None or champion.version == version.number:
        return None
    try:
        serving = artifacts.get(champion.artifact)
    except (ArtifactError, ValueError) as error:
        return unreadable_champion(test, champion.version, champion.generation, str(error))
    return measure_champion(
        test,
        serving.model_text,
        serving.card,
        version=champion.version,
        generation=champion.generation,
    )
