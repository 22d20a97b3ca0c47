"""Retries by Dagster: a thin shell around what the core says about a failure.

Belongs here: translating failures into Dagster's `RetryRequested` and `Failure`. Does not: deciding
what is transient (`classify.py`), attempts within a step (`caller.py`).

Layers do not multiply: a step asks to be repeated only when the attempts in code have ended with a
transient failure, and it repeats only what has no answer yet.
"""

import random
from collections.abc import Sequence

import dagster as dg

from ml_patterns.retry.settings import RetrySettings
from ml_patterns.retry.waits import Backoff, Uniform


def step_wait(
    settings: RetrySettings,
    retry_number: int,
    *,
    retry_after: float | None = None,
    uniform: Uniform = random.uniform,
) -> float:
    """Seconds until a step is repeated: exponential with jitter, never above the cap.

    Args:
        retry_number: 0 for the step's first run.
        retry_after: what the server asked for.
    """
    base, cap = settings.step_wait.total_seconds(), settings.step_max_wait.total_seconds()
    backoff = Backoff(multiplier=base, floor=base / 2, cap=cap)
    return min(cap, backoff.wait(retry_number + 1, uniform, retry_after))


def raise_for_later(
    settings: RetrySettings, retry_number: int, reason: str, retry_after: float | None = None
) -> None:
    """Ends the step, to be repeated later if it still may be.

    Raises:
        dagster.RetryRequested: it will be.
        dagster.Failure: its retries are used up, or are off because CI is true.
    """
    most = settings.effective_step_retries
    if retry_number >= most:
        raise dg.Failure(f"{reason} (no step retry left of {most})", allow_retries=False)
    raise dg.RetryRequested(
        max_retries=most,
        seconds_to_wait=step_wait(settings, retry_number, retry_after=retry_after),
    )


def raise_for_good(reasons: Sequence[str]) -> None:
    """Ends the step for good.

    Raises:
        dagster.Failure: always.
    """
    raise dg.Failure("; ".join(reasons), allow_retries=False)
