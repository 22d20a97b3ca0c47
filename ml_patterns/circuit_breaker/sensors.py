"""What heals degraded partitions and has failing models trained again, by itself.

Belongs here: thin shells that ask the core and request runs. Does not: which partitions are
degraded (`degraded.py`), whether calls are let through (`transitions.py`), how good models are
(`quality.py`).
"""

import dagster as dg

from ml_patterns.automation import sensor_status
from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.assets import predictions_key
from ml_patterns.circuit_breaker.client import breaker_name
from ml_patterns.circuit_breaker.degraded import contiguous, degraded, to_heal
from ml_patterns.circuit_breaker.quality import (
    champion_versions,
    judged_live,
    live_records,
    to_retrain,
)
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.partitions import range_tags, time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The healing sensor, and for pipelines judged by their accuracy the retraining sensor."""
    healing = _healing_sensor(settings)
    return [healing, _poor_quality_sensor(settings)] if judged_live(settings) else [healing]


def _healing_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    partitions, key = time_partitions(settings), predictions_key(settings)

    @dg.sensor(
        name=f"{settings.name}_healing_sensor",
        default_status=sensor_status(),
        asset_selection=[key],
        minimum_interval_seconds=30,
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
                    asset_selection=[key],
                    tags=range_tags(first, last),
                )
            )
        return requests

    return healing_sensor


def _poor_quality_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    key, threshold = dg.AssetKey([settings.name, "regional_model"]), settings.gate.review_at

    @dg.sensor(
        name=f"{settings.name}_poor_quality_sensor",
        default_status=sensor_status(),
        asset_selection=[key],
        minimum_interval_seconds=300,
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
        versions = champion_versions(operational.engine(), settings.name)
        with warehouse.reading() as connection:
            records = live_records(
                connection, settings.name, versions, settings.predictions.quality_window
            )
        failing = to_retrain(records, threshold)
        if not failing:
            return dg.SkipReason(f"{len(records)} region(s) judged, none to be trained again")
        return [
            dg.RunRequest(
                run_key=f"{record.region}-v{record.version}-{record.newest_day:%Y%m%d}",
                partition_key=record.region,
                asset_selection=[key],
                tags={
                    "ml_patterns/why": f"live accuracy of version {record.version} at least "
                    f"{record.lower_bound:.3f} of {record.rows} rows, {threshold:g} wanted"
                },
            )
            for record in failing
        ]

    return poor_quality_sensor
