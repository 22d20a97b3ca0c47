"""Settings of retries and of the external tables read over HTTP.

Belongs here: what the `retry` and `external` blocks of a pipeline's YAML may say. Does not:
deciding whether to retry (`classify.py`).
"""

import os
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ml_patterns.base import Duration, Settings, format_duration
from ml_patterns.storage.sql import is_name

INSIDE_COMMAND = "ML_PATTERNS_INSIDE_COMMAND"
"""Environment variable that is set while a command executes runs in its own process."""


class RetrySettings(Settings):
    """How long and how often transient failures are retried, in code and in Dagster."""

    attempts: int = Field(default=5, ge=1, description="Attempts of one request, in code.")
    multiplier: float = Field(default=1.0, gt=0, description="Seconds that double each attempt.")
    min_wait: Duration = Field(default=timedelta(seconds=4), description="Shortest wait.")
    max_wait: Duration = Field(default=timedelta(seconds=300), description="Longest wait.")
    deadline: Duration = Field(
        default=timedelta(minutes=20), description="For one request, all attempts together."
    )
    attempt_timeout: Duration = Field(
        default=timedelta(seconds=30), description="For one attempt, connecting included."
    )
    budget_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Retries allowed per request, fleet-wide."
    )
    budget_floor: int = Field(default=10, ge=0, description="Retries always allowed per minute.")
    step_retries: int = Field(default=5, ge=0, description="Dagster's retries; 0 where CI=true.")
    step_wait: Duration = Field(
        default=timedelta(seconds=60), description="Before Dagster's first retry; doubles."
    )
    step_max_wait: Duration = Field(
        default=timedelta(hours=1), description="Longest wait before a retry by Dagster."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (("min_wait", "max_wait"), ("step_wait", "step_max_wait")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"retry.{low} {format_duration(getattr(self, low))} is above retry.{high} "
                    f"{format_duration(getattr(self, high))}; swap them"
                )
        return self

    @property
    def effective_step_retries(self) -> int:
        """`step_retries`, or 0 where Dagster would sleep inside a command (CI, `ml-patterns`)."""
        inside = os.environ.get("CI", "").lower() == "true" or os.environ.get(INSIDE_COMMAND)
        return 0 if inside else self.step_retries


class PagesSettings(Settings):
    """How an API splits its answer into pages. Without this block it does not."""

    next: Literal["link_header", "page_number"] = Field(
        description="link_header: the header Link names the next page (RFC 8288). page_number: "
        "{page} in the URL counts up until a page has no items."
    )
    items: str | None = Field(
        default=None,
        description="JSON path of a page's list of items, such as $.results; page_number needs it.",
    )
    total: str | None = Field(
        default=None,
        description="JSON path of the number of items that all pages together announce; a day with "
        "more or fewer is refused.",
    )
    first: int = Field(default=1, ge=0, description="Number of the first page.")
    most: int = Field(default=1000, ge=1, description="Pages beyond which a day is refused.")

    @model_validator(mode="after")
    def _items_are_named(self) -> Self:
        if self.items is None and (self.next == "page_number" or self.total is not None):
            raise ValueError(
                "external.pages needs items, the JSON path of a page's list, such as $.results"
            )
        return self


class ExternalSettings(Settings):
    """A table that is read from an HTTP API, day by day."""

    name: str = Field(description="Name of the table in SQL and of the asset `external/<name>`.")
    url: str = Field(
        description="URL template; {start} and {end} are the partition's first and last date, "
        "{region} what `regions` says, {page} the page's number."
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Header -> environment variable that holds its value.",
    )
    regions: dict[str, str] = Field(
        default_factory=dict,
        description="Region -> what stands for it as {region} in the URL, such as its coordinates; "
        "one request per region and day.",
    )
    pages: PagesSettings | None = Field(default=None, description="How the answer is paged.")
    select: str = Field(
        description="SELECT over `response`: one row per region and page, with the JSON document "
        "in column `body`, `region` and `page`."
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not is_name(value):
            raise ValueError(f"external.name {value!r} is not a name: a-z, 0-9 and _, a-z first")
        return value

    @model_validator(mode="after")
    def _url_has_what_is_filled_in(self) -> Self:
        numbered = self.pages is not None and self.pages.next == "page_number"
        for field, wanted, setting in (
            ("{region}", bool(self.regions), "regions"),
            ("{page}", numbered, "pages.next: page_number"),
        ):
            if (field in self.url) != wanted:
                has, lacks = ("url", setting) if field in self.url else (setting, "url")
                raise ValueError(
                    f"external {self.name}: {has} asks for {field} and {lacks} does not; "
                    "it takes both"
                )
        return self
