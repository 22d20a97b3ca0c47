"""What looks after the runs by itself: an alert for each that failed.

Belongs here: the sensor's shell. Does not: what an alert is (`alerts.py`), sending it (the outbox
sensor of `branching/`).

This is no `dg.run_failure_sensor`, which goes on to the next run also when telling of one has
failed: if the operational database is down, its runs fail, and just those alerts would be lost. Our
cursor moves when the outbox has the alerts.
"""

from datetime import datetime, timedelta
from itertools import chain

import dagster as dg

from ml_patterns.automation import pipeline_sensor
from ml_patterns.base import utc_now
from ml_patterns.jobs import build_jobs
from ml_patterns.maintenance.alerts import FailedRun, report_failed_run
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource

_FIRST_LOOK = timedelta(days=1)
_OVERLAP = timedelta(minutes=10)
"""The processes that write the end of a run have clocks of their own."""


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensor that reports the pipeline's failed runs, whoever started them."""
    jobs = {job.name for job in build_jobs(settings)}

    @pipeline_sensor(
        settings.name,
        "run_failure",
        seconds=30,
        description="Tells the team of every run of this pipeline that failed, at least once.",
    )
    def run_failure_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.SkipReason:
        seen = datetime.fromisoformat(context.cursor) if context.cursor else None
        since = seen - _OVERLAP if seen else utc_now() - _FIRST_LOOK
        records = context.instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since),
            order_by="update_timestamp",
            ascending=True,
        )
        reported = [
            record.dagster_run.run_id
            for record in records
            if _concerns(record.dagster_run, settings.name, jobs)
            and report_failed_run(
                operational.engine(),
                settings.name,
                _described(context.instance, record.dagster_run),
            )
        ]
        if records:
            context.update_cursor(max(record.update_timestamp for record in records).isoformat())
        return dg.SkipReason(f"{len(reported)} failed runs reported {' '.join(reported)}".rstrip())

    return [run_failure_sensor]


def _concerns(run: dg.DagsterRun, pipeline: str, jobs: set[str]) -> bool:
    """Whether a run is of a pipeline: of one of its jobs, or of assets or checks of it."""
    if run.job_name in jobs:
        return True
    checked = (check.asset_key for check in run.asset_check_selection or ())
    return any(key.path[0] == pipeline for key in chain(run.asset_selection or (), checked))


def _described(instance: dg.DagsterInstance, run: dg.DagsterRun) -> FailedRun:
    """A run with the innermost error of its first failed step, or how its process ended."""
    failed = instance.all_logs(
        run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    )
    why = "it failed without a message"
    for entry in failed:
        event = entry.dagster_event
        if event is None:
            continue
        why = event.message or why
        if event.is_step_failure:
            said = event.step_failure_data
            error = said.error
            while error and error.cause:
                error = error.cause
            described = said.user_failure_data and said.user_failure_data.description
            why = described or (error.message.strip() if error else "") or why
            why = f"{event.step_key}: {why}"
            break
    return FailedRun(run.run_id, run.job_name, why, run.tags.get("dagster/will_retry") == "true")
