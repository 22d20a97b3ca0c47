"""A batch of regions from rows to verdicts.

Belongs here: the order of things: skip what has not changed, train, register, probe, judge. Does
not: each of them (`batch.py`, `pool.py`, `registry/`, `branching/gate.py`), Dagster (`assets.py`).

A version is registered as soon as its worker is done (and no other is just being judged), so that a
run that is killed later loses next to nothing: the next one finds the version by its training key
and only judges it.
"""

import logging
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from ml_patterns.branching.evidence import fingerprint
from ml_patterns.branching.gate import Judgement, judge, judgement_of
from ml_patterns.branching.probe import ProbeProcess
from ml_patterns.errors import ArtifactError, MLPatternsError
from ml_patterns.fan_out.batch import Batch
from ml_patterns.fan_out.cluster import train_on_cluster
from ml_patterns.fan_out.cold_start import Choice
from ml_patterns.fan_out.pool import (
    Failed,
    Job,
    Member,
    Outcome,
    Trained,
    Work,
    train_job,
    train_regions,
)
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.registry.registry import Champion, DecisionRecord, ModelVersion, Registry
from ml_patterns.storage.artifacts import ArtifactStore
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
    def has_model(self) -> bool:
        """Whether the region has a version, of this training or of one before on the same data."""
        return self.status in ("trained", "unchanged")

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
    ) -> Generator[RegionResult, None, None]:
        """Trains what changed and judges what has no verdict that still holds.

        A version is judged as soon as it is trained, while others still are: what is done is on
        record, and no core is idle at the end.

        Args:
            force: train what has not changed, too.
            data_checks: results of the data's checks, for the gate's evidence.

        Yields:
            One result per region of the batch, as they come. Failures are results.
        """
        champions = {each.region: each for each in self.registry.champions(batch.settings.name)}
        choices = batch.choices(set(champions))
        for region, choice in choices.items():
            if choice.kind in ("incumbent", "none"):
                yield self._untrained(batch, region, choice, champions.get(region))
        with ProbeProcess(self.artifacts_root) as probe:
            gate = _Gate(self, batch, choices, data_checks or {}, probe)
            unchanged: list[ModelVersion] = []
            jobs = partial(self._jobs, batch, choices, None if force else unchanged, probe)
            with closing(self._outcomes(batch.settings.training, jobs, work)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Failed):
                        rows = batch.regions[outcome.region].standing.rows
                        yield RegionResult(outcome.region, "failed", outcome.reason, rows)
                    else:
                        yield gate.judged(self._registered(batch, outcome), outcome)
                    while unchanged:
                        yield gate.judged(unchanged.pop(0), None)
            for version in unchanged:
                yield gate.judged(version, None)

    def _jobs(
        self,
        batch: Batch,
        choices: Mapping[str, Choice],
        unchanged: list[ModelVersion] | None,
        probe: ProbeProcess,
        folder: Path,
    ) -> Iterator[Job]:
        """What is to be trained, job by job: the first is begun while the next is prepared.

        Args:
            unchanged: gets the versions that training again would only repeat; None: repeat.
        """
        for number, training in enumerate(batch.trainings(choices)):
            members = []
            for region, key in training.keys.items():
                known = None
                if unchanged is not None:
                    known = self.registry.find_trained(batch.settings.name, region, key)
                if known is None:
                    members.append(Member(region, choices[region].reason))
                elif unchanged is not None:
                    unchanged.append(known)
            if members:
                probe.start()
                yield batch.job(training, members, folder / str(number), self.artifacts_root)

    def _outcomes(
        self, settings: TrainingSettings, jobs: Callable[[Path], Iterator[Job]], work: Work
    ) -> Generator[Outcome, None, None]:
        """Trains in the pool or on the cluster; ends it and its files, however this ends."""
        spread = train_on_cluster if settings.backend == "dask" else train_regions
        with (
            tempfile.TemporaryDirectory(prefix="ml-patterns-") as folder,
            closing(
                spread(
                    jobs(Path(folder)),
                    workers=settings.workers,
                    timeout=settings.region_timeout,
                    work=work,
                )
            ) as outcomes,
        ):
            yield from outcomes

    def _registered(self, batch: Batch, outcome: Trained) -> ModelVersion:
        return self.registry.register(
            pipeline=batch.settings.name,
            region=outcome.region,
            artifact=outcome.artifact,
            kind=outcome.kind,
            training_key=outcome.training_key,
        )

    def _untrained(
        self, batch: Batch, region: str, choice: Choice, champion: Champion | None
    ) -> RegionResult:
        rows = batch.regions[region].standing.rows
        if choice.kind == "incumbent" and champion:
            serving = self.registry.version(batch.settings.name, region, champion.version)
            return RegionResult(region, "incumbent", choice.reason, rows, serving)
        return RegionResult(region, "none", choice.reason, rows)


@dataclass(frozen=True)
class _Gate:
    """The gate, for the versions of a batch."""

    fleet: Fleet
    batch: Batch
    choices: Mapping[str, Choice]
    data_checks: Mapping[str, bool | None]
    probe: ProbeProcess

    def judged(self, version: ModelVersion, work: Trained | None) -> RegionResult:
        """A version's result; one that cannot be judged is a failure."""
        try:
            artifact = self.fleet.artifacts.get(version.artifact)
        except ArtifactError as error:
            return self._failed(version, f"{error}; train it again with force")
        test = self.batch.regions[version.region].slice(artifact.card.test)
        try:
            judgement = self._settled(version, test) or judge(
                version=version,
                artifact=artifact,
                test=test,
                policy=self.batch.settings.gate,
                registry=self.fleet.registry,
                artifacts=self.fleet.artifacts,
                probe=self.probe.probe(artifact.address),
                data_checks=self.data_checks,
            )
        except MLPatternsError as error:
            return self._failed(version, f"version {version.number} is not judged: {error}")
        return RegionResult(
            region=version.region,
            status="trained" if work else "unchanged",
            reason=self.choices[version.region].reason,
            rows=self.batch.regions[version.region].standing.rows,
            version=version,
            card=artifact.card,
            judgement=judgement,
            work=work,
        )

    def _failed(self, version: ModelVersion, reason: str) -> RegionResult:
        rows = self.batch.regions[version.region].standing.rows
        return RegionResult(version.region, "failed", reason, rows, version)

    def _settled(self, version: ModelVersion, test: pd.DataFrame) -> Judgement | None:
        """The verdict that a version has, if it was reached on just this evidence.

        A version that has become the champion since is not judged again for that: there is nobody
        to compare it with. One to which training returned is: what is newer is of data that went.
        """
        registry, policy = self.fleet.registry, self.batch.settings.gate
        known = registry.newest_decision(version.pipeline, version.region)
        if known is None or known.policy_hash != policy.fingerprint():
            return None
        if known.version != version.number:  # another was trained since: this one is back
            return None
        if version.state == "voided":  # nobody can answer its review any more: ask again
            return None
        if known.test_fingerprint != fingerprint(test):
            return None
        evidence = known.evidence
        if evidence["probe"] is None or evidence["data_checks"] != dict(self.data_checks):
            return None
        champion = registry.champion(version.pipeline, version.region)
        generation = champion.generation if champion else 0
        serves = champion is not None and champion.version == version.number
        if known.champion_generation != generation and not serves:
            return None
        return judgement_of(known)
