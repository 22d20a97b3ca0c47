"""What starts the incremental room by itself.

Belongs here: thin shells that ask the core and request runs. Does not: deciding what is due
(`plan.py`).
"""

import hashlib

import dagster as dg

from ml_patterns.automation import sensor_status
from ml_patterns.base import utc_now
from ml_patterns.incremental import ledger, plan, sources
from ml_patterns.incremental.assets import report_again
from ml_patterns.incremental.grain import Grain
from ml_patterns.partitions import range_tags
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The pipeline's sensors for new files and for due partitions."""
    return [_files_sensor(settings), _due_partitions_sensor(settings)]


def _files_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{settings.name}_files_sensor",
        default_status=sensor_status(),
        job_name=f"{settings.name}_ingest_job",
        minimum_interval_seconds=30,
        description="Requests the registration of files that are new or changed.",
    )
    def files_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        listed = sources.list_files(settings.event_glob)
        seen = "|".join(f"{file.path}:{file.size}:{file.tag}" for file in listed)
        cursor = hashlib.sha256(seen.encode()).hexdigest()[:16]
        if cursor == context.cursor:
            return dg.SkipReason(f"nothing new among {len(listed)} files")
        context.update_cursor(cursor)
        return dg.RunRequest(run_key=cursor)

    return files_sensor


def _due_partitions_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{settings.name}_due_partitions_sensor",
        default_status=sensor_status(),
        job_name=f"{settings.name}_build_job",
        minimum_interval_seconds=30,
        description="Requests exactly the partitions that `ml-patterns plan` shows as due.",
    )
    def due_partitions_sensor(
        context: dg.SensorEvaluationContext, warehouse: WarehouseResource
    ) -> dg.RunRequest | dg.SkipReason:
        return request_due(context.instance, settings, warehouse)

    return due_partitions_sensor


def request_due(
    instance: dg.DagsterInstance, settings: PipelineSettings, warehouse: WarehouseResource
) -> dg.RunRequest | dg.SkipReason:
    """One run for everything that is due in the first layer where anything is."""
    running = dg.RunsFilter(job_name=f"{settings.name}_build_job", statuses=UNFINISHED)
    if instance.get_runs_count(running):
        return dg.SkipReason("a build is under way; what it leaves is requested after it")
    if not warehouse.warehouse().path.exists():
        return dg.SkipReason("no file was registered yet")
    grain, now = Grain(settings.events.grain), utc_now()
    healed = sum(report_again(instance, settings, layer, warehouse) for layer in plan.LAYERS)
    with warehouse.reading() as connection:
        for layer in plan.LAYERS:
            due = plan.plan(connection, settings, layer, now)
            if due:
                return dg.RunRequest(
                    # What stays due after a failure is asked for again, once an hour.
                    run_key=f"{layer}-{plan.fingerprint(due)}-{now:%Y%m%d%H}",
                    asset_selection=[dg.AssetKey([settings.name, f"event_{layer}"])],
                    run_config=only_due(settings, layer),
                    tags=range_tags(grain.key(due[0].partition), grain.key(due[-1].partition)),
                )
        mark = ledger.watermark(connection, settings)
    told = f"; recorded {healed} partitions of a run that died" if healed else ""
    return dg.SkipReason(f"nothing is due; watermark {mark or 'none yet'}{told}")


def only_due(settings: PipelineSettings, layer: plan.Layer) -> dict[str, object]:
    """Run configuration that skips what is not due within a range of partitions."""
    return {"ops": {f"{settings.name}__event_{layer}": {"config": {"only_due": True}}}}
