"""What lands a table by itself.

Belongs here: a thin shell that asks the core and requests runs. Does not: landing (`land.py`).
"""

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.settings import PipelineSettings


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The pipeline's sensor for changes of its table; none where its events land by themselves."""
    if settings.source is None:
        return []
    told, seconds = settings.source.told, int(settings.source.every.total_seconds())

    @pipeline_sensor(
        settings.name,
        "database",
        job="land",
        seconds=max(seconds, 1),
        description=f"Requests a landing when {told} holds rows that have not landed; again, once "
        "an hour, after one that failed.",
    )
    def database_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from ml_patterns.landing.land import waits

        if under_way(context.instance, settings.name, "land"):
            return dg.SkipReason("a landing is under way; what it misses is requested after it")
        waiting = waits(settings)
        if waiting is None:
            return dg.SkipReason(f"nothing new in {told}")
        return dg.RunRequest(run_key=f"{waiting}-{utc_now():%Y%m%d%H}")

    return [database_sensor]
