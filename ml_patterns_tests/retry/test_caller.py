"""Promise: a request is asked again only while that helps, and within every limit."""

from dataclasses import dataclass

import pytest
import requests

from ml_patterns.retry.caller import GaveUpError, RetryingCaller, Tally
from ml_patterns.retry.classify import HttpStatusError
from ml_patterns.retry.waits import Backoff
from ml_patterns_tests.retry.virtual import VirtualTime, highest


@dataclass
class Purse:
    """A budget of so many retries."""

    left: int
    requests: int = 0

    def requested(self) -> None:
        self.requests += 1

    def spend(self) -> bool:
        self.left -= 1
        return self.left >= 0


# Each step is what one attempt meets: an HTTP status, "timeout" (uses up the attempt's time), or
# "ok". After botocore's standard-mode scenarios.
@dataclass(frozen=True)
class Scenario:
    name: str
    meets: list[object]
    end: str
    attempts: int
    naps: list[float]
    budget: int = 100
    deadline: float = 1000.0
    headers: tuple[tuple[str, str], ...] = ()


SCENARIOS = [
    Scenario("answers at once", ["ok"], "ok", 1, []),
    Scenario("answers after two failures", [503, 503, "ok"], "ok", 3, [4, 4]),
    Scenario("waits grow", [500] * 4 + ["ok"], "ok", 5, [4, 4, 4, 8]),
    Scenario("never answers", [503] * 9, "attempts", 5, [4, 4, 4, 8]),
    Scenario("is refused", [400, "ok"], "status 400", 1, []),
    Scenario("is refused on the way", [503, 404, "ok"], "status 404", 2, [4]),
    Scenario("not implemented", [501, "ok"], "status 501", 1, []),
    Scenario("budget is empty", [503, "ok"], "budget", 1, [], budget=0),
    Scenario("budget runs out", [503] * 9, "budget", 3, [4, 4], budget=2),
    Scenario("deadline comes first", [503] * 9, "deadline", 3, [4, 4], deadline=9.0),
    Scenario("timeouts use up the deadline", ["timeout"] * 9, "deadline", 2, [4], deadline=64.0),
    Scenario(
        "server asks for a wait", [503, "ok"], "ok", 2, [77], headers=(("Retry-After", "77"),)
    ),
    Scenario(
        "server asks for more than we have", [503, "ok"], "deadline", 1, [],
        headers=(("Retry-After", "86400"),),
    ),
    Scenario(
        "server says never", [503, "ok"], "server", 1, [], headers=(("x-should-retry", "false"),)
    ),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_request_ends_as_it_should(scenario: Scenario) -> None:
    time, purse, tally = VirtualTime(), Purse(scenario.budget), Tally()
    script = iter(scenario.meets)

    def attempt(timeout: float) -> str:
        met = next(script)
        if met == "timeout":
            time.seconds += timeout
            raise requests.ReadTimeout("slow")
        if isinstance(met, int):
            raise HttpStatusError("http://upstream", met, dict(scenario.headers))
        return "ok"

    caller = RetryingCaller(
        attempts=5,
        deadline=scenario.deadline,
        attempt_timeout=30,
        backoff=Backoff(1, 4, 300),
        budget=purse,
        clock=time.now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        uniform=highest,
    )
    try:
        end = caller.call(attempt, tally)
    except GaveUpError as error:
        end = error.why if error.attempts == scenario.attempts else "miscounted"
    except HttpStatusError as error:
        end = f"status {error.status}"
    assert (end, tally.attempts, time.naps) == (scenario.end, scenario.attempts, scenario.naps)
    assert tally.waited == sum(scenario.naps)
    assert time.seconds <= scenario.deadline
    assert purse.requests == 1
    if scenario.end != "budget":
        assert purse.left == scenario.budget - len(scenario.naps), "spent on retries not made"


def test_an_attempt_gets_no_more_time_than_the_deadline_leaves() -> None:
    time, given = VirtualTime(), []

    def attempt(timeout: float) -> None:
        given.append(timeout)
        time.seconds += timeout
        raise requests.ReadTimeout("slow")

    caller = RetryingCaller(
        attempts=5,
        deadline=50,
        attempt_timeout=30,
        backoff=Backoff(1, 4, 300),
        clock=time.now,
        monotonic=time.monotonic,
        sleep=time.sleep,
        uniform=highest,
    )
    with pytest.raises(GaveUpError, match="deadline"):
        caller.call(attempt)
    assert given == [30, 16]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_ends_the_request_at_once(interrupt: type[BaseException]) -> None:
    tally, time = Tally(), VirtualTime()
    caller = RetryingCaller(5, 100, 30, Backoff(1, 4, 300), sleep=time.sleep)

    def attempt(_timeout: float) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        caller.call(attempt, tally)
    assert (tally.attempts, time.naps) == (1, [])
