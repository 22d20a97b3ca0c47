"""Whether sensors and schedules start by themselves.

Belongs here: one switch for all of them. Does not: the sensors and schedules (in their rooms).

Dagster's default is stopped: what runs by itself in production is turned on there, by a person, in
the UI. `make dev` sets ML_PATTERNS_AUTOMATION=on, so that everything runs.
"""

import os

import dagster as dg


def _on() -> bool:
    return os.environ.get("ML_PATTERNS_AUTOMATION", "").lower() == "on"


def sensor_status() -> dg.DefaultSensorStatus:
    """Status of a sensor that nobody has switched yet."""
    return dg.DefaultSensorStatus.RUNNING if _on() else dg.DefaultSensorStatus.STOPPED


def schedule_status() -> dg.DefaultScheduleStatus:
    """Status of a schedule that nobody has switched yet."""
    return dg.DefaultScheduleStatus.RUNNING if _on() else dg.DefaultScheduleStatus.STOPPED
