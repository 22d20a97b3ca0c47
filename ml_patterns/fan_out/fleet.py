"""A batch of regions from rows to verdicts.

Belongs here: the order of things: skip what has not changed, train, register, probe, judge. Does
not: each of them (`batch.py`, `pool.py`, `registry/`, `branching/gate.py`), Dagster (`assets.py`).

A version is registered the moment its worker is done, so that a run that is killed later loses
nothing: the next one finds the version by its training key and only judges it.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from ml_patterns.branching.evidence import fingerprint
from ml_patterns.branching.gate import Judgement, judge, judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.probe import probe_artifacts
from ml_patterns.errors import ArtifactError, MLPatternsError
from ml_patterns.fan_out.batch import Batch
from ml_patterns.fan_out.cluster import train_on_cluster
from ml_patterns.fan_out.pool import Failed, Trained, Work, train_job, train_regions
from ml_patterns.registry.registry import DecisionRecord, ModelVersion, Registry
from ml_patterns.storage.artifacts import Artifact, ArtifactStore
from ml_patterns.storage.card import ModelCard

log = logging.getLogger(__name__)

Status = Literal["trained", "unchanged", "incumbent", "none", "failed"]


@dataclass(frozen=True)
class RegionResult:
    """What became of a region.

    Attributes:
        reason: one sentence: why this kind of model, why none, or what failed.
        rows: labelled rows below the watermark.
        version: trained, found unchanged, or (incumbent) deployed.
        judgement: of the gate; None where there was nothing to judge.
        work: what the worker reported; None where nothing was trained.
    """

    region: str
    status: Status
    reason: str
    rows: int
    version: ModelVersion | None = None
    card: ModelCard | None = None
    judgement: Judgement | None = None
    work: Trained | None = None

    @property
    def decision(self) -> DecisionRecord | None:
        """The verdict on the version."""
        return self.judgement.decision if self.judgement else None


@dataclass(frozen=True)
class Fleet:
    """Where versions, verdicts and artifacts go."""

    registry: Registry
    artifacts_root: str

    @property
    def artifacts(self) -> ArtifactStore:
        """The artifact store."""
        return ArtifactStore(self.artifacts_root)

    def train(
        self,
        batch: Batch,
        *,
        force: bool = False,
        data_checks: Mapping[str, bool | None] | None = None,
        work: Work = train_job,
    ) -> list[RegionResult]:
        """Trains what changed and judges what has no verdict that still holds.

        Args:
            force: train what has not changed, too.
            data_checks: results of the data's checks, for the gate's evidence.

        Returns:
            One result per region of the batch, in its order. Failures are results.
        """
        pipeline = batch.settings.name
        champions = {each.region: each for each in self.registry.champions(pipeline)}
        choices = batch.choices(set(champions))
        keys = batch.training_keys(choices)
        known = {} if force else self._known(pipeline, keys)
        versions: dict[str, ModelVersion] = dict(known)
        work_of: dict[str, Trained] = {}
        failures: dict[str, str] = {}
        todo = {region: choices[region] for region in keys if region not in known}
        with tempfile.TemporaryDirectory(prefix="ml-patterns-") as folder:
            jobs = batch.jobs(todo, Path(folder), self.artifacts_root)
            training = batch.settings.training
            spread = train_on_cluster if training.backend == "dask" else train_regions
            for outcome in spread(
                jobs, workers=training.workers, timeout=training.region_timeout, work=work
            ):
                if isinstance(outcome, Failed):
                    failures[outcome.region] = outcome.reason
                    continue
                work_of[outcome.region] = outcome
                versions[outcome.region] = self.registry.register(
                    pipeline=pipeline,
                    region=outcome.region,
                    artifact=outcome.artifact,
                    kind=outcome.kind,
                    training_key=outcome.training_key,
                )
        judged = self._judge(batch, versions, failures, data_checks or {})
        results = []
        for region, choice in choices.items():
            rows = batch.regions[region].standing.rows
            if region in failures:
                reason = failures[region]
                results.append(RegionResult(region, "failed", reason, rows, versions.get(region)))
            elif region in versions:
                card, judgement = judged[region]
                results.append(
                    RegionResult(
                        region,
                        "trained" if region in work_of else "unchanged",
                        choice.reason,
                        rows,
                        versions[region],
                        card,
                        judgement,
                        work_of.get(region),
                    )
                )
            elif choice.kind == "incumbent":
                serving = self.registry.version(pipeline, region, champions[region].version)
                results.append(RegionResult(region, "incumbent", choice.reason, rows, serving))
            else:
                results.append(RegionResult(region, "none", choice.reason, rows))
        return results

    def _known(self, pipeline: str, keys: Mapping[str, str]) -> dict[str, ModelVersion]:
        """The versions that training again would only repeat."""
        found = {
            region: self.registry.find_trained(pipeline, region, key)
            for region, key in keys.items()
        }
        return {region: version for region, version in found.items() if version}

    def _judge(
        self,
        batch: Batch,
        versions: Mapping[str, ModelVersion],
        failures: dict[str, str],
        data_checks: Mapping[str, bool | None],
    ) -> dict[str, tuple[ModelCard, Judgement]]:
        """Card and verdict of every version; one that cannot be judged becomes a failure."""
        judged: dict[str, tuple[ModelCard, Judgement]] = {}
        waiting: dict[str, tuple[Artifact, pd.DataFrame]] = {}
        for region, version in versions.items():
            try:
                artifact = self.artifacts.get(version.artifact)
            except ArtifactError as error:
                failures[region] = f"{error}; train it again with force"
                continue
            test = batch.regions[region].slice(artifact.card.test)
            settled = self._settled(version, test, batch.settings.gate, data_checks)
            if settled:
                judged[region] = artifact.card, settled
            else:
                waiting[region] = artifact, test
        addresses = sorted({artifact.address for artifact, _ in waiting.values()})
        probes = probe_artifacts(self.artifacts_root, addresses) if addresses else {}
        for region, (artifact, test) in waiting.items():
            try:
                judgement = judge(
                    version=versions[region],
                    artifact=artifact,
                    test=test,
                    policy=batch.settings.gate,
                    registry=self.registry,
                    artifacts=self.artifacts,
                    probe=probes[artifact.address],
                    data_checks=data_checks,
                )
            except MLPatternsError as error:
                failures[region] = f"version {versions[region].number} is not judged: {error}"
            else:
                judged[region] = artifact.card, judgement
        return judged

    def _settled(
        self,
        version: ModelVersion,
        test: pd.DataFrame,
        policy: Policy,
        data_checks: Mapping[str, bool | None],
    ) -> Judgement | None:
        """The verdict that a version has, if it was reached on just this evidence.

        A version that has become the champion since is not judged again for that: there is nobody
        to compare it with.
        """
        known = self.registry.latest_decision(version.pipeline, version.region, version.number)
        if known is None or known.policy_hash != policy.fingerprint():
            return None
        if known.test_fingerprint != fingerprint(test):
            return None
        if known.evidence["probe"] is None or known.evidence["data_checks"] != dict(data_checks):
            return None
        champion = self.registry.champion(version.pipeline, version.region)
        generation = champion.generation if champion else 0
        serves = champion is not None and champion.version == version.number
        if known.champion_generation != generation and not serves:
            return None
        return judgement_of(known)
