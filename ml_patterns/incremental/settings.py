"""Settings of the events and of the tables made from them.

Belongs here: what the `events`, `aggregates` and `features` blocks of a pipeline's YAML may say.
Does not: reading the files (`sources.py`), deciding what is due (`plan.py`).
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from ml_patterns.base import Duration, Settings, format_duration

_READER = 2
"""Changes with what this version reads differently from the same file: ledgers then read anew."""


class EventsSettings(Settings):
    """Which files hold the events, and what their columns mean."""

    path: str = Field(
        description="Glob of the landed files, relative to the project; Parquet, CSV (.gz) or JSON "
        "lines; local or any fsspec URL."
    )
    id: str = Field(description="Column with the event's identity; versions of an event share it.")
    time: str = Field(description="Column with the event time: decides the partition.")
    version: str = Field(description="Column with the time at which this version became known.")
    region: str = Field(description="Column that says which model the event belongs to.")
    timezone: str = Field(
        default="UTC", description="Zone of timestamps that carry none (IANA name)."
    )
    grain: Literal["hour", "day"] = Field(default="hour", description="Length of a partition.")
    start: date = Field(description="First day of the stream (UTC); earlier rows are invalid.")
    end: date | None = Field(
        default=None, description="Day after the last one (UTC), for a stream that has ended."
    )
    grace: Duration = Field(
        default=timedelta(hours=6),
        description="How long a partition stays open behind the newest event.",
    )
    label_delay: Duration = Field(
        default=timedelta(0),
        description="How long after an event its label is known; at most the grace period.",
    )
    allowed_skew: Duration = Field(
        default=timedelta(minutes=10),
        description="How far ahead of our clock an event time may be before it counts as future.",
    )
    max_rows_per_run: int | None = Field(
        default=None,
        ge=1,
        description="A run that would read more accepted rows is stopped before it starts.",
    )
    max_too_late_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of rows that may come too late before `arrives_within_grace` warns.",
    )

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        if value != "UTC" and value not in available_timezones():  # a walk through all their files
            raise ValueError(f"events.timezone {value!r} is not an IANA zone such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        grace = format_duration(self.grace)
        if self.grace < self.grain_length:
            raise ValueError(
                f"events.grace {grace} is shorter than the grain (one {self.grain}): rows of an "
                f"open partition would be too late; set it to at least "
                f"{format_duration(self.grain_length)}"
            )
        if self.grace < self.label_delay:
            raise ValueError(
                f"events.grace {grace} is shorter than events.label_delay "
                f"{format_duration(self.label_delay)}: labels would arrive too late; raise grace"
            )
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"events.end {self.end} is not after events.start {self.start}")
        return self

    @property
    def grain_length(self) -> timedelta:
        """Length of one partition."""
        return timedelta(hours=1) if self.grain == "hour" else timedelta(days=1)

    @property
    def start_time(self) -> datetime:
        """First instant of the stream, UTC."""
        return datetime.combine(self.start, time(), UTC)

    @property
    def end_time(self) -> datetime | None:
        """First instant after the stream, UTC; None while it goes on."""
        return None if self.end is None else datetime.combine(self.end, time(), UTC)

    @property
    def reading(self) -> str:
        """What decides how a file's rows are read; a change computes every partition again."""
        parts = (
            self.id, self.time, self.version, self.region, self.timezone, self.grain, self.start,
            self.end,
        )  # fmt: skip
        return "|".join(map(str, parts))

    @property
    def judging(self) -> str:
        """What decides how a file's rows are read and judged; a change reads every file again."""
        return f"{_READER}|{self.allowed_skew}|{self.reading}"

    @property
    def zone(self) -> ZoneInfo:
        """Zone of timestamps that carry none."""
        return ZoneInfo(self.timezone)


class AggregatesSettings(Settings):
    """How events are summed up, and how far features look back at the sums."""

    sql: str = Field(default="aggregates.sql", description="File beside the YAML; sees `events`.")
    window: int = Field(
        default=24, ge=1, le=10_000, description="Partitions that features may look back at."
    )
    label_columns: tuple[str, ...] = Field(
        default=(),
        description="Aggregate columns derived from labels; NULL while a label may be unknown.",
    )


class FeaturesSettings(Settings):
    """How features are computed."""

    sql: str = Field(
        default="features.sql",
        description="File beside the YAML; sees `events`, `aggregates` and the external tables; "
        "returns event_id, event_time, region, label and the features.",
    )
