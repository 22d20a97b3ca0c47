"""What asks for the days of external tables by itself.

Belongs here: a thin shell that asks the core and requests runs. Does not: which days are missing
(`incremental/plan.py`), asking and storing (`external.py`).
"""

from datetime import timedelta

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.incremental import plan
from ml_patterns.incremental.grain import Grain, contiguous, naive
from ml_patterns.partitions import DAY_FORMAT, range_tags
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource

_DAY = timedelta(days=1)


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensor for missing days; none for a pipeline without external tables."""
    return [_external_sensor(settings)] if settings.external else []


def _external_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    @pipeline_sensor(
        settings.name,
        "external",
        job="external",
        seconds=30,
        description="Asks the HTTP APIs for the days that have events and no answer yet; for a day "
        "that was not answered again, once an hour.",
    )
    def external_sensor(
        context: dg.SensorEvaluationContext, warehouse: WarehouseResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        if under_way(context.instance, settings.name, "external"):
            return dg.SkipReason("an API is being asked; what it leaves is requested after it")
        if not warehouse.warehouse().path.exists():
            return dg.SkipReason("no file was registered yet")
        now = utc_now()
        with warehouse.reading() as connection:
            missing = plan.external_days(connection, settings)
        # A day that has not ended is not a partition of Dagster's yet.
        due = {
            table: [day for day in days if day + _DAY <= naive(now)]
            for table, days in missing.items()
        }
        if not any(due.values()):
            return dg.SkipReason("every day with events is answered")
        return [
            dg.RunRequest(
                run_key=f"{table}-{first:%Y%m%d}-{last:%Y%m%d}-{now:%Y%m%d%H}",
                asset_selection=[dg.AssetKey([settings.name, "external", table])],
                tags=range_tags(first.strftime(DAY_FORMAT), last.strftime(DAY_FORMAT)),
            )
            for table, days in due.items()
            for first, last in contiguous(days, Grain("day"))
        ]

    return external_sensor
