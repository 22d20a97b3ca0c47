"""How long to wait before asking again.

Belongs here: capped exponential waits with jitter, and `Retry-After`. Does not: whether to ask
again at all (`caller.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ml_patterns.retry.classify import HttpStatusError

Uniform = Callable[[float, float], float]
"""Draws from [low, high]; `random.uniform` outside tests."""

_LARGEST_EXPONENT = 64


@dataclass(frozen=True)
class Backoff:
    """Capped exponential waits, in seconds.

    Attributes:
        multiplier: the ceiling before the second attempt; doubles from attempt to attempt.
        floor: shortest wait.
        cap: longest wait.
    """

    multiplier: float
    floor: float
    cap: float

    def ceiling(self, attempt: int) -> float:
        """The longest wait after this attempt (the first is 1); never below the floor."""
        exponential = self.multiplier * 2.0 ** min(attempt - 1, _LARGEST_EXPONENT)
        return max(self.floor, min(self.cap, exponential))

    def wait(self, attempt: int, uniform: Uniform, retry_after: float | None = None) -> float:
        """Seconds to wait: drawn between floor and ceiling, and never less than `Retry-After`.

        Jitter after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), with a floor.
        A longer `Retry-After` is honoured in full: who cannot wait that long gives up instead.
        """
        drawn = uniform(self.floor, self.ceiling(attempt))
        return drawn if retry_after is None else max(retry_after, drawn)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3); None if it says nothing.

    Args:
        value: whole seconds or an HTTP date; anything else is ignored.
        now: the current time, UTC; a date in the past asks for no wait.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def retry_after_of(error: BaseException, now: datetime) -> float | None:
    """What the server that answered with this error asked for, in seconds."""
    if not isinstance(error, HttpStatusError):
        return None
    return parse_retry_after(error.headers.get("retry-after"), now)
