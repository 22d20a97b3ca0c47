"""What heals degraded partitions by itself.

Belongs here: a thin shell that asks the core and requests runs. Does not: which partitions are
degraded (`degraded.py`), whether calls are let through (`transitions.py`).
"""

import dagster as dg

from ml_patterns.automation import sensor_status
from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.assets import predictions_key
from ml_patterns.circuit_breaker.client import breaker_name
from ml_patterns.circuit_breaker.degraded import contiguous, degraded, to_heal
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.partitions import range_tags, time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The healing sensor."""
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

    return [healing_sensor]
