"""What predicts, judges, heals degraded partitions and has failing models trained, by itself.

Belongs here: thin shells that ask the core and request runs. Does not: which partitions want
predictions (`due.py`) or are degraded (`degraded.py`), whether calls are let through
(`transitions.py`), how good models are (`quality.py`).
"""

from datetime import timedelta

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.degraded import contiguous, degraded, to_heal
from ml_patterns.circuit_breaker.due import progress, unjudged_days, unpredicted_partitions
from ml_patterns.circuit_breaker.quality import (
    champion_versions,
    judged_live,
    live_records,
    to_retrain,
)
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.circuit_breaker.store import OperationalStore, breaker_name
from ml_patterns.incremental import grain
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.partitions import DAY_FORMAT, range_tags, time_partitions
from ml_patterns.registry.regions import retired_regions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensors of this room; retraining only for pipelines judged by their accuracy."""
    sensors = [_predictions_sensor(settings), _healing_sensor(settings), _quality_sensor(settings)]
    return [*sensors, _poor_quality_sensor(settings)] if judged_live(settings) else sensors


def _predictions_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    unit = Grain(settings.events.grain)

    @pipeline_sensor(
        settings.name,
        "predictions",
        job="predictions",
        seconds=30,
        description=(
            "Requests the newest partitions (predictions.horizon) that hold events nobody "
            "answered for, once a region has a champion."
        ),
    )
    def predictions_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        if under_way(context.instance, settings.name, "predictions"):
            return dg.SkipReason("predictions are under way; what they leave is requested after")
        if not warehouse.warehouse().path.exists():
            return dg.SkipReason("there are no features yet")
        if not Registry(operational.engine()).champions(settings.name):
            return dg.SkipReason("no region has a champion yet; every answer would be a base rate")
        with warehouse.reading() as connection:
            due, state = (
                unpredicted_partitions(connection, settings),
                progress(connection, settings),
            )
        if not due:
            return dg.SkipReason("every event within predictions.horizon is answered")
        return [
            dg.RunRequest(
                # What stays due after a failure is asked for again, once an hour.
                run_key=f"{unit.key(first)}-{unit.key(last)}-{state}-{utc_now():%Y%m%d%H}",
                tags=range_tags(unit.key(first), unit.key(last)),
            )
            for first, last in grain.contiguous(due, unit)
        ]

    return predictions_sensor


def _quality_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    days = Grain("day")

    @pipeline_sensor(
        settings.name,
        "quality",
        job="quality",
        seconds=300,
        description="Requests the days whose answers can be judged by labels that came since.",
    )
    def quality_sensor(
        context: dg.SensorEvaluationContext, warehouse: WarehouseResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        if under_way(context.instance, settings.name, "quality"):
            return dg.SkipReason("answers are being judged; what is left is requested after it")
        if not warehouse.warehouse().path.exists():
            return dg.SkipReason("nothing was predicted yet")
        with warehouse.reading() as connection:
            due = unjudged_days(connection, settings)
            state = progress(connection, settings)
        # A day that has not ended is not a partition of Dagster's yet.
        due = [day for day in due if day + timedelta(days=1) <= naive(utc_now())]
        if not due:
            return dg.SkipReason("every answer whose label is known is judged")
        return [
            dg.RunRequest(
                run_key=f"{first:%Y%m%d}-{last:%Y%m%d}-{state}-{utc_now():%Y%m%d%H}",
                tags=range_tags(first.strftime(DAY_FORMAT), last.strftime(DAY_FORMAT)),
            )
            for first, last in grain.contiguous(due, days)
        ]

    return quality_sensor


def _healing_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    partitions = time_partitions(settings)

    @pipeline_sensor(
        settings.name,
        "healing",
        job="predictions",
        seconds=30,
        description=(
            "Requests exactly the partitions that were served degraded, once the circuit is "
            "closed; one of them alone when a probe is due."
        ),
    )
    def healing_sensor(
        context: dg.SensorEvaluationContext,
        operational: OperationalResource,
        model_client: ModelClientResource,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        engine, now = operational.engine(), utc_now()
        waiting = degraded(engine, settings.name)
        circuit = OperationalStore(engine).read(breaker_name(model_client.model_url))
        if not waiting:
            return dg.SkipReason("no partition is degraded")
        chosen = to_heal(circuit, waiting, now)
        if not chosen:
            return dg.SkipReason(
                f"{len(waiting)} partition(s) wait; the circuit is {circuit.state}"
            )
        length = settings.events.grain_length
        requests = []
        for group in contiguous(chosen, length):
            first, last = (
                partitions.get_partition_key_for_timestamp(entry.partition_start.timestamp())
                for entry in (group[0], group[-1])
            )
            newest = max(entry.since for entry in group)
            requests.append(
                dg.RunRequest(
                    # Every transition of the circuit is a new chance for what is still degraded.
                    run_key=f"{first}-{last}-{newest:%Y%m%d%H%M%S}-{circuit.epoch}",
                    tags=range_tags(first, last),
                )
            )
        return requests

    return healing_sensor


def _poor_quality_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    threshold = settings.gate.review_at

    @pipeline_sensor(
        settings.name,
        "poor_quality",
        job="training",
        seconds=300,
        description=(
            "Requests the training of regions whose live accuracy is not proven to reach the "
            f"review threshold {threshold:g}, once per champion and newly judged day."
        ),
    )
    def poor_quality_sensor(
        warehouse: WarehouseResource, operational: OperationalResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        if not warehouse.warehouse().path.exists():
            return dg.SkipReason("nothing was predicted yet")
        engine = operational.engine()
        versions = champion_versions(engine, settings.name)
        with warehouse.reading() as connection:
            records = live_records(
                connection, settings.name, versions, settings.predictions.quality_window
            )
        failing = to_retrain(records, threshold, retired_regions(engine, settings.name))
        if not failing:
            return dg.SkipReason(f"{len(records)} region(s) judged, none to be trained again")
        return [
            dg.RunRequest(
                run_key=f"{record.region}-v{record.version}-{record.newest_day:%Y%m%d}",
                partition_key=record.region,
                tags={
                    "ml_patterns/why": f"live accuracy of version {record.version} at least "
                    f"{record.lower_bound:.3f} of {record.rows} rows, {threshold:g} wanted"
                },
            )
            for record in failing
        ]

    return poor_quality_sensor
