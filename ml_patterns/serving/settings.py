"""Settings of the model server.

Belongs here: where the server listens and what it refuses. Does not: which models it serves (the
registry says), where they lie (`installation.py`).
"""

import os
import secrets
from datetime import timedelta
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator

from ml_patterns.base import Duration, Settings

TOKEN_VARIABLE = "ML_PATTERNS_SERVING_TOKEN"  # noqa: S105 - the variable's name, not its value
SESSION_VARIABLE = "ML_PATTERNS_SESSION_SECRET"
HEADER_VARIABLE = "ML_PATTERNS_REVIEWER_HEADER"
PROXIES_VARIABLE = "ML_PATTERNS_TRUSTED_PROXIES"
ORIGIN_VARIABLE = "ML_PATTERNS_PUBLIC_ORIGIN"
_MIB = 2**20


class ServerSettings(Settings):
    """How the model server listens, and where it draws the line."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback only.")
    port: int = Field(default=8085, ge=0, le=65_535, description="0: any free port.")
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that share the port; each holds the models it is asked for.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="Predictions that run side by side in each worker; 0: one per core in all.",
    )
    max_rows: int = Field(default=100_000, ge=1, description="Most rows of one request (413).")
    max_body_bytes: int = Field(
        default=64 * _MIB, ge=1, description="Largest body of one request (413)."
    )
    max_pending_bytes: int = Field(
        default=512 * _MIB, ge=1, description="Bodies of all unanswered requests together (503)."
    )
    max_concurrent_requests: int = Field(
        default=2048, ge=1, description="Inference requests that wait or run at a time (429)."
    )
    request_timeout: Duration = Field(
        default=timedelta(seconds=30), description="From the whole body to the answer (503)."
    )
    receive_timeout: Duration = Field(
        default=timedelta(seconds=20), description="For a request's headers, and for its body."
    )
    keep_alive: Duration = Field(
        default=timedelta(seconds=75), description="How long an idle connection stays open."
    )
    shutdown_timeout: Duration = Field(
        default=timedelta(seconds=30), description="What runs is finished for this long."
    )
    refresh_interval: Duration = Field(
        default=timedelta(milliseconds=500), description="How often champions are read."
    )
    fault_pause: Duration = Field(
        default=timedelta(seconds=5), description="Before a broken artifact is tried again."
    )
    max_models: int = Field(default=500, ge=1, description="Models kept in memory.")
    max_model_bytes: int = Field(
        default=1024 * _MIB, ge=1, description="Their text together, a measure of their memory."
    )
    token: SecretStr | None = Field(
        default=None, description=f"Bearer token; from {TOKEN_VARIABLE}. None: open."
    )
    reviewer_header: str | None = Field(
        default=None,
        description="Header in which a proxy that authenticates people names the reviewer; from "
        f"{HEADER_VARIABLE}. None: reviewers show tokens.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses that the header is believed from; from "
        f"{PROXIES_VARIABLE}, separated by commas.",
    )
    public_origin: str | None = Field(
        default=None,
        pattern=r"^https?://[^/]+$",
        description="Where browsers reach the review pages, such as https://models.example.com; "
        f"from {ORIGIN_VARIABLE}. None: whatever the request's Host says.",
    )
    session_secret: SecretStr | None = Field(
        default=None,
        description=f"Signs reviewers' cookies; from {SESSION_VARIABLE}. None: a new one per "
        "process, so that a restart logs reviewers out.",
    )
    session_lifetime: Duration = Field(
        default=timedelta(hours=12), description="How long a reviewer stays logged in."
    )
    logins_per_minute: int = Field(
        default=10, ge=1, description="Attempts to prove an identity, per address (429)."
    )
    answers_per_minute: int = Field(
        default=60, ge=1, description="Answers to reviews, per reviewer (429)."
    )

    @field_validator("refresh_interval")
    @classmethod
    def _within_a_second(cls, value: timedelta) -> timedelta:
        if not timedelta(0) < value <= timedelta(seconds=1):
            raise ValueError("refresh_interval must be above 0 s and at most 1 s")
        return value

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """The defaults with `overrides`; secrets and what an installation decides come from the
        environment, by the names that the fields' descriptions give.
        """
        read = os.environ.get
        values: dict[str, Any] = {
            "token": read(TOKEN_VARIABLE) or None,
            "session_secret": read(SESSION_VARIABLE) or None,
            "reviewer_header": read(HEADER_VARIABLE) or None,
            "public_origin": read(ORIGIN_VARIABLE) or None,
        }
        if proxies := read(PROXIES_VARIABLE):
            values["trusted_proxies"] = tuple(part.strip() for part in proxies.split(","))
        return cls(**{**values, **overrides})

    @property
    def worker_threads(self) -> int:
        """Threads of one worker that parse, load and predict."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    def of_one_worker(self) -> Self:
        """Its share of what the workers may take together, bounds rounded up.

        A worker always has room for one request and one model. All sign cookies with one secret,
        or a reviewer would be logged out by whichever worker did not log them in.
        """

        def share(value: int) -> int:
            return -(-value // self.workers)

        return self.model_copy(
            update={
                "threads": self.worker_threads,
                "max_concurrent_requests": share(self.max_concurrent_requests),
                "max_pending_bytes": max(share(self.max_pending_bytes), self.max_body_bytes),
                "max_models": share(self.max_models),
                "max_model_bytes": share(self.max_model_bytes),
                "logins_per_minute": share(self.logins_per_minute),
                "answers_per_minute": share(self.answers_per_minute),
                "session_secret": self.session_secret or SecretStr(secrets.token_urlsafe(32)),
            }
        )
