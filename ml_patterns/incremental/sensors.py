"""What starts the incremental room by itself.

Belongs here: thin shells that ask the core and request runs. Does not: deciding what is due
(`plan.py`).
"""

import hashlib

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.incremental import files, ledger, plan
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.reporting import report_again
from ml_patterns.partitions import range_tags
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The pipeline's sensors for new files and for due partitions."""
    return [_files_sensor(settings), _due_partitions_sensor(settings)]


def _files_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    @pipeline_sensor(
        settings.name,
        "files",
        job="ingest",
        seconds=30,
        description="Requests the registration of files that are new or changed; of all of them "
        "again, once an hour, after a registration that failed.",
    )
    def files_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        listed = files.list_files(settings.event_glob)
        seen = "|".join(f"{file.path}:{file.size}:{file.tag}" for file in listed)
        cursor = hashlib.sha256(seen.encode()).hexdigest()[:16]
        if under_way(context.instance, settings.name, "ingest"):
            return dg.SkipReason("a registration is under way; what it misses is requested after")
        if cursor == context.cursor and not _ended_badly(context.instance, settings):
            return dg.SkipReason(f"nothing new among {len(listed)} files")
        context.update_cursor(cursor)
        # A registration that ended badly is asked for again, once an hour.
        return dg.RunRequest(run_key=f"{cursor}-{utc_now():%Y%m%d%H}")

    return files_sensor


def _ended_badly(instance: dg.DagsterInstance, settings: PipelineSettings) -> bool:
    """Whether the newest registration failed or was cancelled: its files may not be known yet."""
    newest = instance.get_runs(dg.RunsFilter(job_name=f"{settings.name}_ingest_job"), limit=1)
    bad = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    return bool(newest) and newest[0].status in bad


def _due_partitions_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    @pipeline_sensor(
        settings.name,
        "due_partitions",
        job="build",
        seconds=30,
        description="Requests exactly the partitions that `ml-patterns plan` shows as due.",
    )
    def due_partitions_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> dg.RunRequest | dg.SkipReason:
        return request_due(context.instance, settings, warehouse, operational)

    return due_partitions_sensor


def request_due(
    instance: dg.DagsterInstance,
    settings: PipelineSettings,
    warehouse: WarehouseResource,
    operational: OperationalResource,
) -> dg.RunRequest | dg.SkipReason:
    """One run for everything that is due in the first layer where anything is."""
    if under_way(instance, settings.name, "build"):
        return dg.SkipReason("a build is under way; what it leaves is requested after it")
    if not warehouse.warehouse().path.exists():
        return dg.SkipReason("no file was registered yet")
    grain, now = Grain(settings.events.grain), utc_now()
    healed = sum(
        report_again(instance, settings, layer, warehouse, operational) for layer in plan.LAYERS
    )
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
