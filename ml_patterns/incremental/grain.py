"""Partitions of time: hours and days, UTC.

Belongs here: the arithmetic of partitions and their keys. Does not: which partitions exist or are
due (`plan.py`).

Inside the core a partition is its first instant as a naive datetime in UTC, just as the warehouse
stores it; with Dagster it goes by its key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

_FORMATS = {"hour": "%Y-%m-%d-%H:%M", "day": "%Y-%m-%d"}


def naive(moment: datetime) -> datetime:
    """A moment as the warehouse stores it: UTC, without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


@dataclass(frozen=True)
class Grain:
    """The length of a pipeline's partitions."""

    unit: Literal["hour", "day"]

    @property
    def length(self) -> timedelta:
        """Of one partition."""
        return timedelta(hours=1) if self.unit == "hour" else timedelta(days=1)

    @property
    def interval(self) -> str:
        """The length as an SQL interval."""
        return f"INTERVAL 1 {self.unit.upper()}"

    def floor(self, moment: datetime) -> datetime:
        """First instant of the partition that holds a moment."""
        moment = naive(moment)
        if self.unit == "day":
            return moment.replace(hour=0, minute=0, second=0, microsecond=0)
        return moment.replace(minute=0, second=0, microsecond=0)

    def key(self, partition: datetime) -> str:
        """Dagster's key of a partition."""
        return partition.strftime(_FORMATS[self.unit])

    def parse(self, key: str) -> datetime:
        """The partition of a key.

        Raises:
            ValueError: the text is not a key of this grain.
        """
        return datetime.strptime(key, _FORMATS[self.unit])  # noqa: DTZ007 - naive UTC, see above


def contiguous(partitions: Iterable[datetime], grain: Grain) -> list[tuple[datetime, datetime]]:
    """First and last partition of each unbroken run, in order."""
    ranges: list[tuple[datetime, datetime]] = []
    for partition in sorted(partitions):
        if ranges and ranges[-1][1] + grain.length == partition:
            ranges[-1] = (ranges[-1][0], partition)
        else:
            ranges.append((partition, partition))
    return ranges
