"""Settings of retention.

Belongs here: what the `retention` block of a pipeline's YAML may say. Does not: removing anything
(`retention.py`).
"""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from ml_patterns.base import Duration, Settings, format_duration

_SHORTEST_NEWS = timedelta(days=15)


class RetentionSettings(Settings):
    """How long is kept what grows by itself. The audit log is kept for ever.

    What several pipelines share is kept as long as the most patient of them says.
    """

    predictions: Duration | None = Field(
        default=None,
        description="Answers for days this far behind the newest features; unset: kept for ever.",
    )
    dead_letters: Duration | None = Field(
        default=None,
        description="Entries of rows that were refused, since their file was registered; they can "
        "be replayed as long as they are kept. Unset: kept for ever.",
    )
    costs: Duration = Field(
        default=timedelta(days=90),
        description="Measured costs of partitions that were built again since.",
    )
    notifications: Duration = Field(
        default=timedelta(days=90), description="Delivered notifications of the outbox."
    )
    breaker_events: Duration = Field(
        default=timedelta(days=90),
        description="Transitions of circuit breakers, and partitions that have healed.",
    )
    orphans: Duration = Field(
        default=timedelta(days=7),
        description="Artifacts that no version, champion, generation or review refers to.",
    )

    @model_validator(mode="after")
    def _news_stay_news(self) -> Self:
        if self.notifications < _SHORTEST_NEWS:
            raise ValueError(
                f"retention.notifications {format_duration(self.notifications)} is too short: a "
                "channel that comes back is told of the last 14 days; set it to at least "
                f"{format_duration(_SHORTEST_NEWS)}"
            )
        if self.orphans < timedelta(days=1):
            raise ValueError(
                f"retention.orphans {format_duration(self.orphans)} is too short: an artifact is "
                "written before its version is registered; set it to at least 1d"
            )
        return self
