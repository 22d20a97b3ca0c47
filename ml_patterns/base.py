"""What all settings share: strictness, and durations as people write them.

Belongs here: the base class and field types of settings. Does not: the settings themselves, which
live in the room they steer (`incremental/settings.py`, `branching/policy.py`, …).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")

Clock = Callable[[], datetime]
"""Returns the current time, time zone aware, UTC."""


def utc_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


def parse_duration(value: Any) -> timedelta:
    """Reads `90s`, `10m`, `6h` or `2d`.

    Raises:
        ValueError: with a sentence that shows what a duration looks like.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{value!r} is not a duration: write 90s, 10m, 6h or 2d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """The shortest way to write a duration that `parse_duration` reads back."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["90s", "10m", "6h", "2d"]}),
]
"""A span of time in settings: a number and one of s, m, h, d."""


class Settings(BaseModel):
    """Base of every block of settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
