"""What the step of `regional_model` does: trains, and reports each region as its own.

Belongs here: a region's result as Dagster's events, which ends fail the run. Does not: the asset
(`assets.py`), training and judging (`fleet.py`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import dagster as dg

from ml_patterns.branching.checks import gate_evaluation, quality_gate_spec
from ml_patterns.collecting import among_what_is_new
from ml_patterns.dagster_internals import event_log_kept_open, latest_target, others_selected
from ml_patterns.errors import UserError
from ml_patterns.fan_out.batch import nothing_to_train, read_batch
from ml_patterns.fan_out.fleet import Fleet, RegionResult, Status
from ml_patterns.fan_out.model_pictures import model_pictures
from ml_patterns.fan_out.picture import as_markdown
from ml_patterns.fan_out.pool import Work
from ml_patterns.incremental.audit import data_checks
from ml_patterns.registry.regions import retired_among
from ml_patterns.registry.registry import Registry, Verdict
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import (
    ArtifactsResource,
    OperationalResource,
    WarehouseResource,
)

_PICTURES_UP_TO = 20
"""Regions of a run that are drawn; of a large fleet the pictures would be most of what it stores,
and `<pipeline>_model_pictures_job` draws one of them on request."""

Event = (
    dg.AssetMaterialization
    | dg.AssetObservation
    | dg.AssetCheckEvaluation
    | dg.MaterializeResult[None]
    | dg.Output[None]
)


def train_and_report(
    context: dg.AssetExecutionContext,
    settings: PipelineSettings,
    warehouse: WarehouseResource,
    operational: OperationalResource,
    artifacts: ArtifactsResource,
    *,
    force: bool,
    work: Work,
) -> Iterator[Event]:
    """Trains the regions of the run in one pool, and yields each one's events as it is judged.

    Args:
        force: train regions in which nothing changed, too.
        work: what a worker does with a region.

    Raises:
        dg.Failure: there is nothing to train, or, when all is recorded, regions failed.
    """
    key = context.asset_key
    gate_output = quality_gate_spec(settings).get_python_identifier()
    registry = Registry(operational.engine())
    asked = list(context.partition_keys)  # each look asks Dagster's database for each region
    retired = retired_among(registry.engine, settings.name, asked)
    regions = [region for region in asked if region not in retired]
    if retired:
        named = ", ".join(retired)
        context.log.warning(f"skipped, because retired (champion and history stay): {named}")
    if not regions:
        yield dg.Output(None, output_name=gate_output)
        return
    try:
        if not warehouse.warehouse().path.exists():
            raise nothing_to_train(settings, regions)
        with warehouse.reading() as connection:
            batch = read_batch(connection, settings, regions)
            checks = data_checks(connection, settings)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    fleet = Fleet(registry, artifacts.root)
    ends, kept = [], []
    is_followed, draw = others_selected(context), len(asked) <= _PICTURES_UP_TO
    with (
        among_what_is_new(),
        event_log_kept_open(context.instance),
        closing(fleet.train(batch, force=force, data_checks=checks, work=work)) as results,
    ):
        for result in results:
            if is_followed:
                kept.append(result)
            else:
                yield from _report(context, settings, key, result, draw=draw)
            ends.append(_End.of(result))
    if kept:
        yield from _report_with_output(context, settings, key, kept, asked, draw=draw)
    counts = Counter(end.status for end in ends)
    context.log.info(", ".join(f"{count} {status}" for status, count in counts.items()))
    yield dg.Output(None, output_name=gate_output)
    by_itself = {"dagster/sensor_name", "dagster/schedule_name"} & context.run.tags.keys()
    _raise_if_failed(sorted(ends), asked_by_name=not by_itself)


def _report(
    context: dg.AssetExecutionContext,
    settings: PipelineSettings,
    key: dg.AssetKey,
    result: RegionResult,
    *,
    draw: bool,
) -> Iterator[Event]:
    """A region's own materialization and check evaluation; without a new model, an observation."""
    region, metadata = result.region, _metadata(result, draw=draw)
    if not result.has_model:
        context.log.warning(f"{region}: {result.status}; {result.reason}")
        yield dg.AssetObservation(key, partition=region, metadata=metadata)
        return
    yield dg.AssetMaterialization(key, partition=region, metadata=metadata)
    if result.judgement:
        target = latest_target(context.instance, key, region)
        yield gate_evaluation(settings, region, result.judgement, target)


def _report_with_output(
    context: dg.AssetExecutionContext,
    settings: PipelineSettings,
    key: dg.AssetKey,
    results: Sequence[RegionResult],
    asked: Sequence[str],
    *,
    draw: bool,
) -> Iterator[Event]:
    """Lets what is selected after this asset run, too: Dagster skips it unless there is an output.

    An output says that every region of the run has a model, so it is given only when that is true.
    """
    without = {result.region for result in results if not result.has_model}
    without |= set(asked) - {result.region for result in results}
    if without:
        context.log.warning(
            f"no new model of {', '.join(sorted(without))}: what else this run was to materialize "
            "is skipped; materialize it in a run of its own"
        )
        for result in results:
            yield from _report(context, settings, key, result, draw=draw)
        return
    for result in results:
        context.add_asset_metadata(_metadata(result, draw=draw), partition_key=result.region)
    yield dg.MaterializeResult()
    for result in results:
        if result.judgement:
            target = latest_target(context.instance, key, result.region)
            yield gate_evaluation(settings, result.region, result.judgement, target)


def _pictures(result: RegionResult) -> dict[str, Any]:
    """The model drawn."""
    if result.card is None:
        return {}
    evidence = result.judgement.evidence if result.judgement else None
    answers = (evidence.labels, evidence.probabilities) if evidence else None
    title = f"{result.region} version {result.version.number}" if result.version else result.region
    pictures = model_pictures(result.card.importances, answers, title)
    return {name: dg.MetadataValue.md(as_markdown(svg, name)) for name, svg in pictures.items()}


def _metadata(result: RegionResult, *, draw: bool) -> dict[str, Any]:
    """What is worth reading and plotting about a region.

    Args:
        draw: pictures, too; a run that trains many would fill Dagster's event log with them.
    """
    metadata: dict[str, Any] = {
        "status": result.status,
        "reason": result.reason,
        "rows": result.rows,
        "unchanged": result.status == "unchanged",
    }
    if result.version:
        metadata["version"] = result.version.number
        metadata["kind"] = result.version.kind
        metadata["artifact"] = result.version.artifact
    if result.decision:
        metadata["verdict"] = str(result.decision.verdict)
        metadata["verdict_reason"] = result.decision.reason
        metadata["test_rows"] = result.decision.evidence["rows"]
        measured = result.decision.evidence["metrics"]
        metadata |= {f"test_{name}": value for name, value in measured.items() if value is not None}
    if result.card:
        metadata["base_rate"] = result.card.base_rate
        metadata["rounds"] = result.card.rounds
        metadata["candidate"] = dict(result.card.candidate)
        metadata["gains"] = dict(
            sorted(result.card.importances.items(), key=lambda item: -item[1])[:10]
        )
        metadata |= {f"validation_{name}": value for name, value in result.card.metrics.items()}
    if result.work:
        metadata["seconds"] = round(result.work.seconds, 3)
        metadata["worker_peak_mb"] = round(result.work.peak_mb)
    return metadata | (_pictures(result) if draw else {})


@dataclass(frozen=True, order=True)
class _End:
    """What is kept of a result when it is reported: a large batch's evidence would fill memory."""

    region: str
    status: Status
    reason: str
    rejection: str

    @classmethod
    def of(cls, result: RegionResult) -> Self:
        decision, rejection = result.decision, ""
        if decision and decision.verdict is Verdict.REJECT:
            rejection = f"version {decision.version} was rejected: {decision.reason}"
        return cls(result.region, result.status, result.reason, rejection)


def _raise_if_failed(ends: Sequence[_End], *, asked_by_name: bool) -> None:
    """Fails the run when all is recorded, so that nothing is lost and nothing hides."""
    failed = [end for end in ends if end.status == "failed"]
    if failed:
        listed = "; ".join(f"{end.region}: {end.reason}" for end in failed)
        raise dg.Failure(
            f"{len(failed)} of {len(ends)} regions failed, the others are done; run the same "
            f"range again to train only these. {listed}",
            allow_retries=False,
        )
    if asked_by_name and len(ends) == 1:
        _raise_if_alone(ends[0])


def _raise_if_alone(end: _End) -> None:
    """Who asks for one region by name gets an exit code: 1 for no model or a rejected one."""
    if end.status == "none":
        raise dg.Failure(f"region {end.region} has {end.reason}", allow_retries=False)
    if end.rejection:
        raise dg.Failure(f"region {end.region} {end.rejection}", allow_retries=False)
