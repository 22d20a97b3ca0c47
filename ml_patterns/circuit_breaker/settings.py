"""Settings of the model client and its circuit breaker.

Belongs here: what the `predictions` block of a pipeline's YAML may say. Does not: the breaker
(`breaker.py`), the client (`client.py`).
"""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from ml_patterns.base import Duration, Settings

Fallback = Literal["cache", "champion", "base_rate"]


class BreakerSettings(Settings):
    """When the circuit opens and when it is tried again."""

    fail_max: int = Field(default=5, ge=1, description="Consecutive failures that open it.")
    failure_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of failed calls within the window that opens it, in one process.",
    )
    window: Duration = Field(
        default=timedelta(seconds=60), description="How far back the failure rate looks."
    )
    minimum_calls: int = Field(
        default=20, ge=1, description="Calls within the window below which there is no rate."
    )
    reset_timeout: Duration = Field(
        default=timedelta(seconds=60), description="How long it stays open before a probe."
    )
    admission_cache: Duration = Field(
        default=timedelta(milliseconds=250),
        description="How long a process admits calls on what it last saw of the shared state.",
    )


class PredictionsSettings(Settings):
    """How predictions are asked for, and what answers when the model server does not."""

    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    horizon: Duration = Field(
        default=timedelta(days=2),
        description="Partitions this far behind the newest one are predicted by themselves; "
        "older ones on request.",
    )
    batch_rows: int = Field(default=1000, ge=1, description="Most rows of one request.")
    request_timeout: Duration = Field(
        default=timedelta(seconds=10), description="For one attempt at a request."
    )
    deadline: Duration = Field(
        default=timedelta(seconds=60), description="For one request, all attempts together."
    )
    attempts: int = Field(default=3, ge=1, description="Attempts of one request.")
    min_wait: Duration = Field(default=timedelta(milliseconds=200), description="Shortest wait.")
    max_wait: Duration = Field(default=timedelta(seconds=5), description="Longest wait.")
    bulkhead: int = Field(default=4, ge=1, description="Requests of one process at a time.")
    fallbacks: tuple[Fallback, ...] = Field(
        default=("cache", "champion", "base_rate"), description="Asked in this order."
    )
    cache_max_age: Duration = Field(
        default=timedelta(hours=24), description="Older cached predictions are not used."
    )
    stale_after: Duration = Field(
        default=timedelta(hours=1), description="Answers older than this are warned of."
    )
    cache_max_rows: int = Field(default=1_000_000, ge=0, description="Oldest go first.")
    quality_window: Duration = Field(
        default=timedelta(days=7), description="Days over which live accuracy is judged."
    )
