"""Jobs and schedules of a pipeline.

Belongs here: names under which runs are requested, and what starts by the clock. Does not: what
starts by an event (each room's `sensors.py`).
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ml_patterns.automation import schedule_status
from ml_patterns.branching.jobs import build_jobs as build_review_jobs
from ml_patterns.fan_out.jobs import model_pictures_job
from ml_patterns.fan_out.runs import batches
from ml_patterns.incremental.checks import daily_checks
from ml_patterns.incremental.sensors import request_due
from ml_patterns.maintenance.jobs import prune_job, prune_schedule
from ml_patterns.overview import overview_checks
from ml_patterns.partitions import range_tags, trained_regions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource

_JOBS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "ingest": (("event_files",), "Registers and judges landed files."),
    "build": (("event_aggregates", "event_features"), "Computes partitions of events."),
    "training": (("regional_model",), "Trains and gates one model per region."),
    "leaderboard": (("leaderboard",), "Ranks the fleet."),
    "deployment": (("deployed_model",), "Promotes what the gate or a reviewer approved."),
    "predictions": (("predictions",), "Asks the model server for predictions."),
    "quality": (("prediction_quality",), "Judges predictions by the labels that came since."),
}


def build_jobs(settings: PipelineSettings) -> list[Any]:
    """One job per step of the data's way, named `<pipeline>_<step>_job`."""
    jobs = {step: (list(assets), text) for step, (assets, text) in _JOBS.items()}
    if settings.external:
        tables = [f"external/{table.name}" for table in settings.external]
        jobs["external"] = (tables, "Reads the tables of HTTP APIs.")
    if settings.source:
        jobs["land"] = (["database_rows"], "Lands what changed in the source's table.")
    audits = dg.AssetSelection.checks(*daily_checks(settings))
    overview = dg.AssetSelection.checks(*overview_checks(settings))
    return [
        dg.define_asset_job(
            f"{settings.name}_{step}_job",
            selection=dg.AssetSelection.assets(
                *([settings.name, *asset.split("/")] for asset in assets)
            )
            - audits
            - overview,
            description=text,
        )
        for step, (assets, text) in jobs.items()
    ] + [
        dg.define_asset_job(
            f"{settings.name}_audit_job",
            selection=audits,
            description="Recomputes some closed partitions from the files, and looks for gaps.",
        ),
        dg.define_asset_job(
            f"{settings.name}_overview_job",
            selection=overview,
            description="Shows at each asset what `ml-patterns status` says of it.",
        ),
        model_pictures_job(settings),
        *build_review_jobs(settings),
        prune_job(settings),
    ]


def build_schedules(settings: PipelineSettings) -> list[dg.ScheduleDefinition]:
    """What starts by the clock: training, audits, and the alternative to a sensor."""
    return [
        _training_schedule(settings),
        _due_partitions_schedule(settings),
        dg.ScheduleDefinition(
            name=f"{settings.name}_audit_schedule",
            job_name=f"{settings.name}_audit_job",
            cron_schedule="30 3 * * *",
            execution_timezone="UTC",
            default_status=schedule_status(),
            description="Audits the tables once a day.",
        ),
        dg.ScheduleDefinition(
            name=f"{settings.name}_overview_schedule",
            job_name=f"{settings.name}_overview_job",
            cron_schedule="50 * * * *",
            execution_timezone="UTC",
            default_status=schedule_status(),
            description="Looks once an hour for what is late, failing, waiting or degraded.",
        ),
        prune_schedule(settings),
    ]


def _training_schedule(settings: PipelineSettings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{settings.name}_training_schedule",
        default_status=schedule_status(),
        job_name=f"{settings.name}_training_job",
        cron_schedule=settings.training.schedule,
        execution_timezone="UTC",
        description="Trains the whole fleet; what has not changed is skipped.",
    )
    def training_schedule(
        context: dg.ScheduleEvaluationContext, operational: OperationalResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        regions = trained_regions(context.instance, settings, operational.engine())
        if not regions:
            return dg.SkipReason("no region is known yet")
        return [
            dg.RunRequest(
                run_key=f"{context.scheduled_execution_time.isoformat()}-{number}",
                tags=range_tags(batch[0], batch[-1]),
            )
            for number, batch in enumerate(batches(regions, settings.training))
        ]

    return training_schedule


def _due_partitions_schedule(settings: PipelineSettings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{settings.name}_due_partitions_schedule",
        # Beside the sensor it would ask for the same again: only a person turns it on.
        default_status=dg.DefaultScheduleStatus.STOPPED,
        job_name=f"{settings.name}_build_job",
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        description="Requests what is due once an hour; the alternative to the sensor.",
    )
    def due_partitions_schedule(
        context: dg.ScheduleEvaluationContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> dg.RunRequest | dg.SkipReason:
        return request_due(context.instance, settings, warehouse, operational)

    return due_partitions_schedule
