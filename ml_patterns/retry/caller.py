"""One request, asked again while that helps.

Belongs here: attempts, deadline, budget and waits of one request, on a fresh tenacity `Retrying`.
Does not: which failures are transient (`classify.py`), speaking HTTP (`http.py`).
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import tenacity

from ml_patterns.base import Clock, utc_now
from ml_patterns.errors import MLPatternsError
from ml_patterns.retry.budget import Budget, Unlimited
from ml_patterns.retry.classify import Outcome, classify, server_forbids_retry
from ml_patterns.retry.settings import RetrySettings
from ml_patterns.retry.waits import Backoff, Uniform, retry_after_of

T = TypeVar("T")


@dataclass
class Tally:
    """What a request cost, counted while it runs.

    Attributes:
        attempts: how often the server was asked.
        waited: seconds spent between attempts.
    """

    attempts: int = 0
    waited: float = 0.0


class GaveUpError(MLPatternsError):
    """A transient failure outlasted what we were willing to do; later it may work.

    Attributes:
        why: `attempts`, `deadline`, `budget` or `server` (it said not to retry).
        retry_after: seconds the server asked us to wait, if it did.
    """

    def __init__(self, why: str, attempts: int, last: BaseException, retry_after: float | None):
        super().__init__(f"gave up after {attempts} attempt(s) ({why}): {last}")
        self.why, self.attempts, self.last, self.retry_after = why, attempts, last, retry_after


@dataclass(frozen=True)
class RetryingCaller:
    """Calls a function until it answers, fails for good, or asking again is not allowed.

    Attributes:
        attempts: most attempts of one request.
        deadline: seconds for one request, waits included; also bounds each attempt's time.
        attempt_timeout: seconds for one attempt.
        budget: grants retries; shared by the fleet.
    """

    attempts: int
    deadline: float
    attempt_timeout: float
    backoff: Backoff
    budget: Budget = field(default_factory=Unlimited)
    clock: Clock = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Uniform = random.uniform

    @classmethod
    def from_settings(cls, settings: RetrySettings, budget: Budget) -> "RetryingCaller":
        """The caller that a pipeline's `retry` block describes."""
        return cls(
            attempts=settings.attempts,
            deadline=settings.deadline.total_seconds(),
            attempt_timeout=settings.attempt_timeout.total_seconds(),
            backoff=Backoff(
                settings.multiplier,
                settings.min_wait.total_seconds(),
                settings.max_wait.total_seconds(),
            ),
            budget=budget,
        )

    def call(self, attempt: Callable[[float], T], tally: Tally | None = None) -> T:
        """The function's answer.

        Args:
            attempt: is given the seconds it may take; raises what `classify` understands.
            tally: counts attempts and waits, whatever the end.

        Raises:
            GaveUpError: the last failure was transient, and one of the limits was met.
            BaseException: a permanent failure or an interrupt, as it was raised.
        """
        tally = Tally() if tally is None else tally
        request = _Request(self, tally)
        self.budget.requested()
        for one in tenacity.Retrying(
            retry=tenacity.retry_if_exception(request.may_pass),
            wait=request.wait,
            stop=request.must_stop,
            sleep=request.sleep,
            retry_error_callback=request.give_up,
        ):
            with one:
                tally.attempts += 1
                return attempt(request.time_for_an_attempt())
        raise AssertionError("unreachable: tenacity answers or raises")


class _Request:
    """The part of one call that must not be shared between calls."""

    def __init__(self, caller: RetryingCaller, tally: Tally) -> None:
        self._caller, self._tally = caller, tally
        self._ends = caller.monotonic() + caller.deadline
        self._why = ""

    def time_for_an_attempt(self) -> float:
        left = self._ends - self._caller.monotonic()
        return max(0.001, min(self._caller.attempt_timeout, left))

    def may_pass(self, error: BaseException) -> bool:
        return classify(error) is Outcome.TRANSIENT

    def wait(self, state: tenacity.RetryCallState) -> float:
        asked = retry_after_of(_error_of(state), self._caller.clock())
        return self._caller.backoff.wait(state.attempt_number, self._caller.uniform, asked)

    def must_stop(self, state: tenacity.RetryCallState) -> bool:
        # The budget is asked last: it is only spent on a retry that will be made.
        if server_forbids_retry(_error_of(state)):
            self._why = "server"
        elif state.attempt_number >= self._caller.attempts:
            self._why = "attempts"
        elif self._caller.monotonic() + state.upcoming_sleep >= self._ends:
            self._why = "deadline"
        elif not self._caller.budget.spend():
            self._why = "budget"
        return bool(self._why)

    def sleep(self, seconds: float) -> None:
        self._caller.sleep(seconds)
        self._tally.waited += seconds

    def give_up(self, state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        asked = retry_after_of(error, self._caller.clock())
        raise GaveUpError(self._why, state.attempt_number, error, asked) from error


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        raise AssertionError("tenacity asks about waits only after a failure")
    return error
