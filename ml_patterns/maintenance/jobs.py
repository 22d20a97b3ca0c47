"""Retention as a job, and its schedule.

Belongs here: their shells. Does not: what goes (`retention.py`); what pipelines share, which
`ml-patterns prune` removes because it knows them all.
"""

import dagster as dg

from ml_patterns.automation import schedule_status
from ml_patterns.base import utc_now
from ml_patterns.maintenance.retention import prune_pipeline
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource


def prune_job(settings: PipelineSettings) -> dg.JobDefinition:
    """The job that removes what the pipeline's `retention` lets go."""

    @dg.op(name=f"{settings.name}_prune", pool="warehouse")
    def prune(
        context: dg.OpExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> None:
        for gone in prune_pipeline(
            settings, warehouse.warehouse(), operational.engine(), utc_now()
        ):
            context.log.info(f"{gone.what}: {gone.rows} rows removed")

    @dg.job(
        name=f"{settings.name}_prune_job",
        executor_def=dg.in_process_executor,
        description="Removes what the block `retention` lets go; never what the registry needs.",
    )
    def job() -> None:
        prune()

    return job


def prune_schedule(settings: PipelineSettings) -> dg.ScheduleDefinition:
    """Once a week, when little else runs."""
    return dg.ScheduleDefinition(
        name=f"{settings.name}_prune_schedule",
        job_name=f"{settings.name}_prune_job",
        cron_schedule="30 4 * * 0",
        execution_timezone="UTC",
        default_status=schedule_status(),
        description="Removes once a week what the block `retention` lets go.",
    )
