"""Whether sensors and schedules start by themselves, how often they look, and what they wait for.

Belongs here: one switch and one pace for all of them, and whether a job is under way. Does not: the
sensors and schedules (in their rooms).

Dagster's default is stopped: what runs by itself in production is turned on there, by a person, in
the UI. `make dev` sets ML_PATTERNS_AUTOMATION=on, so that everything runs.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg

from ml_patterns.base import utc_now
from ml_patterns.errors import SettingsError

SWITCH = "ML_PATTERNS_AUTOMATION"
"""`on`: what nobody has switched yet runs; unset or anything else: it is stopped."""

PACE = "ML_PATTERNS_SENSOR_SECONDS"
"""Most seconds between two looks of a sensor; unset: each sensor's own."""

GIVEN_UP_AFTER = timedelta(days=1)
"""A run that is older holds nothing back: its machine may have died before it could say so.

Asking again is safe even if it lives: any number of processes at once give the same result.
"""

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def _on() -> bool:
    return os.environ.get(SWITCH, "").lower() == "on"


def sensor_status() -> dg.DefaultSensorStatus:
    """Status of a sensor that nobody has switched yet."""
    return dg.DefaultSensorStatus.RUNNING if _on() else dg.DefaultSensorStatus.STOPPED


def schedule_status() -> dg.DefaultScheduleStatus:
    """Status of a schedule that nobody has switched yet."""
    return dg.DefaultScheduleStatus.RUNNING if _on() else dg.DefaultScheduleStatus.STOPPED


def sensor_interval(seconds: int) -> int:
    """Seconds between two looks of a sensor: its own number, or less where PACE says so.

    Raises:
        SettingsError: PACE is not a whole number of seconds.
    """
    asked = os.environ.get(PACE, "").strip()
    if not asked:
        return seconds
    if not asked.isdecimal() or int(asked) < 1:
        raise SettingsError(f"{PACE} is {asked!r}; write a whole number of seconds, or unset it")
    return min(seconds, int(asked))


def pipeline_sensor(
    pipeline: str, name: str, *, seconds: int, description: str, job: str | None = None
) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Decorates the sensor `<pipeline>_<name>_sensor`, with the switch and the pace of all.

    Args:
        seconds: its own interval between two looks.
        job: it requests runs of `<pipeline>_<job>_job`; None: it requests none.

    Raises:
        SettingsError: PACE is not a whole number of seconds.
    """
    return dg.sensor(
        name=f"{pipeline}_{name}_sensor",
        default_status=sensor_status(),
        job_name=f"{pipeline}_{job}_job" if job else None,
        minimum_interval_seconds=sensor_interval(seconds),
        description=description,
    )


def under_way(instance: dg.DagsterInstance, pipeline: str, *steps: str) -> str | None:
    """The first of some jobs `<pipeline>_<step>_job` of which a run waits or works; None: none."""
    since = utc_now() - GIVEN_UP_AFTER
    for step in steps:
        job = f"{pipeline}_{step}_job"
        living = dg.RunsFilter(job_name=job, statuses=_UNFINISHED, created_after=since)
        if instance.get_runs_count(living):
            return job
    return None
