"""Catching a pipeline up: everything that is due, as Dagster runs, in the data's order.

Belongs here: the order of the runs, and what they came to. Does not: what is due (each room says),
doing it (each room's assets).

Each step asks a room what is due, executes one recorded run for it in this process, and goes on
whatever happened: a failed region or file costs only what depends on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import dagster as dg

from ml_patterns.base import utc_now
from ml_patterns.branching.deploy import deployable
from ml_patterns.circuit_breaker.degraded import degraded, to_heal
from ml_patterns.circuit_breaker.due import unjudged_days, unpredicted_partitions
from ml_patterns.circuit_breaker.store import OperationalStore, breaker_name
from ml_patterns.fan_out.runs import batches
from ml_patterns.incremental import ledger, plan
from ml_patterns.incremental.dead_letter import removed_files
from ml_patterns.incremental.grain import Grain, contiguous, naive
from ml_patterns.incremental.reporting import report_again
from ml_patterns.incremental.sensors import only_due
from ml_patterns.installation import Installation
from ml_patterns.interrupts import interrupts_seen
from ml_patterns.partitions import DAY_FORMAT, range_tags, region_partitions, trained_regions
from ml_patterns.registry.records import DecisionRecord
from ml_patterns.registry.regions import known_regions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.storage.warehouse import Warehouse

STEPS = (
    "land",
    "ingest",
    "aggregates",
    "external",
    "features",
    "training",
    "deployment",
    "leaderboard",
    "predictions",
    "quality",
)


@dataclass(frozen=True)
class StepOutcome:
    """What one step came to.

    Attributes:
        done: partitions, files or regions that were processed.
        run_ids: the Dagster runs that did it.
        failures: one sentence each.
        notes: what a person should know though nothing failed, such as a file that cannot be read.
    """

    step: str
    done: int = 0
    run_ids: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}

Listener = Callable[[str, int], None]
"""Called with a step and how many things are due in it, before it runs."""


class CatchUp:
    """Runs what is due in a pipeline, step by step."""

    def __init__(
        self,
        definitions: dg.Definitions,
        settings: PipelineSettings,
        installation: Installation,
        instance: dg.DagsterInstance,
    ) -> None:
        self._definitions = definitions
        self._settings = settings
        self._instance = instance
        self._warehouse = Warehouse(installation.warehouse)
        self._engine = engine_for(installation.state_url)
        self._model_url = installation.model_url
        self._resources = (
            WarehouseResource(database=str(installation.warehouse)),
            OperationalResource(url=installation.state_url),
        )
        self._grain = Grain(settings.events.grain)

    def run(
        self, steps: Sequence[str] = STEPS, listen: Listener = lambda step, due: None
    ) -> Iterator[StepOutcome]:
        """Executes the steps in order; yields what each came to.

        Landing is a step only of pipelines whose source is a table.
        """
        work: Mapping[str, Callable[[Listener], StepOutcome]] = {
            "land": self._land,
            "ingest": self._ingest,
            "aggregates": lambda listen: self._build("aggregates", listen),
            "external": self._external,
            "features": lambda listen: self._build("features", listen),
            "training": self._training,
            "leaderboard": self._leaderboard,
            "deployment": self._deployment,
            "predictions": self._predictions,
            "quality": self._quality,
        }
        for step in steps:
            if step != "land" or self._settings.source:
                yield work[step](listen)

    def decisions(self) -> list[DecisionRecord]:
        """The newest decision of each region."""
        registry = Registry(self._engine)
        found = [
            registry.latest_decision(self._settings.name, region)
            for region in known_regions(self._engine, self._settings.name)
        ]
        return [decision for decision in found if decision]

    def _land(self, listen: Listener) -> StepOutcome:
        listen("land", 1)
        return self._execute("land", "land")

    def _ingest(self, listen: Listener) -> StepOutcome:
        listen("ingest", 1)
        outcome = self._execute("ingest", "ingest")
        with self._warehouse.connect() as connection:
            if not ledger.exists(connection, self._settings.name):
                return outcome
            bad = [file.error for file in ledger.unreadable_files(connection, self._settings.name)]
            bad += removed_files(connection, self._settings)
        return replace(outcome, notes=tuple(bad))

    def _build(self, layer: plan.Layer, listen: Listener) -> StepOutcome:
        with self._warehouse.connect() as connection:
            due = [d.partition for d in plan.plan(connection, self._settings, layer, utc_now())]
        listen(layer, len(due))
        if not due:
            # What a killed run committed and did not tell, a run of this layer would tell.
            report_again(self._instance, self._settings, layer, *self._resources)
            return StepOutcome(layer)
        return self._execute(
            layer,
            "build",
            asset=f"event_{layer}",
            tags=range_tags(self._grain.key(due[0]), self._grain.key(due[-1])),
            run_config=only_due(self._settings, layer),
        )

    def _external(self, listen: Listener) -> StepOutcome:
        """Asks for the days that features need and that no answer covers yet."""
        if not self._settings.external:
            return StepOutcome("external")
        with self._warehouse.connect() as connection:
            due = plan.external_days(connection, self._settings)
        listen("external", sum(map(len, due.values())))
        outcomes = [
            self._execute(
                "external",
                "external",
                asset=f"external/{table}",
                tags=range_tags(first.strftime(DAY_FORMAT), last.strftime(DAY_FORMAT)),
            )
            for table, days in due.items()
            for first, last in contiguous(days, Grain("day"))
        ]
        return _together("external", outcomes)

    def _training(self, listen: Listener) -> StepOutcome:
        regions = trained_regions(self._instance, self._settings, self._engine)
        listen("training", len(regions))
        if not regions:
            return StepOutcome("training")
        outcomes = [
            self._execute("training", "training", tags=range_tags(batch[0], batch[-1]))
            for batch in batches(regions, self._settings.training)
        ]
        return _together("training", outcomes)

    def _leaderboard(self, listen: Listener) -> StepOutcome:
        listen("leaderboard", 1)
        return self._execute("leaderboard", "leaderboard")

    def _deployment(self, listen: Listener) -> StepOutcome:
        decisions = deployable(Registry(self._engine), self._settings.name, self._settings.gate)
        listen("deployment", len(decisions))
        regions = [decision.region for decision in decisions]
        if not regions:
            return StepOutcome("deployment")
        known = self._instance.get_dynamic_partitions(region_partitions(self._settings).name or "")
        order = sorted(regions, key=known.index)
        op = f"{self._settings.name}__deployed_model"
        return self._execute(
            "deployment",
            "deployment",
            tags=range_tags(order[0], order[-1]),
            run_config={"ops": {op: {"config": {"regions": order}}}},
        )

    def _predictions(self, listen: Listener) -> StepOutcome:
        with self._warehouse.connect() as connection:
            due = set(unpredicted_partitions(connection, self._settings))
        due |= self._healable()
        listen("predictions", len(due))
        outcomes = [
            self.predict(self._grain.key(first), self._grain.key(last))
            for first, last in contiguous(due, self._grain)
        ]
        return _together("predictions", outcomes)

    def predict(self, first: str, last: str) -> StepOutcome:
        """Predictions for a range of partition keys, both ends included, due or not."""
        return self._execute("predictions", "predictions", tags=range_tags(first, last))

    def _healable(self) -> set[datetime]:
        """Degraded partitions that may be asked again as the circuit stands."""
        circuit = OperationalStore(self._engine).read(breaker_name(self._model_url))
        waiting = degraded(self._engine, self._settings.name)
        return {naive(entry.partition_start) for entry in to_heal(circuit, waiting, utc_now())}

    def _quality(self, listen: Listener) -> StepOutcome:
        with self._warehouse.connect() as connection:
            due = unjudged_days(connection, self._settings)
        listen("quality", len(due))
        outcomes = [
            self._execute(
                "quality",
                "quality",
                tags=range_tags(first.strftime(DAY_FORMAT), last.strftime(DAY_FORMAT)),
            )
            for first, last in contiguous(due, Grain("day"))
        ]
        return _together("quality", outcomes)

    def _execute(
        self,
        step: str,
        job: str,
        *,
        asset: str | None = None,
        tags: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> StepOutcome:
        """One recorded run in this process; a failed step is an outcome, not an exception.

        Raises:
            KeyboardInterrupt: a signal came meanwhile, which Dagster takes for a failed step, or
                forgets where no step runs.
        """
        name = f"{self._settings.name}_{job}_job"
        with interrupts_seen() as interrupted:
            result = self._definitions.resolve_job_def(name).execute_in_process(
                instance=self._instance,
                tags={**(tags or {}), "ml_patterns/command": "run"},
                asset_selection=[self._key(asset)] if asset else None,
                run_config={**(run_config or {}), "loggers": _QUIET},
                raise_on_error=False,
            )
        if interrupted():
            raise KeyboardInterrupt(f"during {step}; what is not committed stays due")
        failures = tuple(
            f"{step}: {_sentence(event.event_specific_data)}"
            for event in result.all_events
            if event.is_step_failure
        )
        return StepOutcome(
            step,
            done=len(result.get_asset_materialization_events()),
            run_ids=(result.run_id,),
            failures=failures,
        )

    def _key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self._settings.name, *asset.split("/")])


def _sentence(failure: Any) -> str:
    """What a failed step says to a person: the innermost error's own words."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    while error.cause:
        error = error.cause
    lines = error.message.strip().splitlines()
    return lines[0].split(": ", 1)[-1] if lines else "failed without a message"


def _together(step: str, outcomes: Sequence[StepOutcome]) -> StepOutcome:
    return StepOutcome(
        step,
        done=sum(outcome.done for outcome in outcomes),
        run_ids=tuple(run for outcome in outcomes for run in outcome.run_ids),
        failures=tuple(text for outcome in outcomes for text in outcome.failures),
    )
