"""Promise: the circuit opens, is probed and closes by these rules, and by nothing else."""

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pybreaker
import pytest
import requests

from ml_patterns.circuit_breaker.breaker import CircuitOpenError, SharedBreaker
from ml_patterns.circuit_breaker.control import force, reset, status
from ml_patterns.circuit_breaker.store import CircuitStore, LocalStore, OperationalStore
from ml_patterns.circuit_breaker.window import FailureWindow
from ml_patterns.errors import UserError
from ml_patterns.retry.classify import HttpStatusError
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.retry.virtual import VirtualTime


def breaker_on(store: CircuitStore, time: VirtualTime, owner: str = "a", **more: object):  # type: ignore[no-untyped-def]
    options: dict[str, object] = {
        "fail_max": 3,
        "reset_timeout": 60.0,
        "lease": 30.0,
        "cached_for": 0.0,
        "clock": time.now,
        "monotonic": time.monotonic,
        "uniform": lambda low, _high: low,
        "owner": owner,
    }
    return SharedBreaker("server", store, **(options | more))  # type: ignore[arg-type]


# A word is a call and what it meets, a number lets that many seconds pass; then the state, and how
# often the backend was called. After the state-machine tables of resilience4j and Polly.
@dataclass(frozen=True)
class Scenario:
    name: str
    story: str
    state: str
    backend_calls: int


SCENARIOS = [
    Scenario("stays closed on success", "ok ok ok", "closed", 3),
    Scenario("two failures are not three", "503 503", "closed", 2),
    Scenario("three in a row open it", "503 503 503", "open", 3),
    Scenario("a success between starts the count again", "503 503 1 ok 1 503 503", "closed", 5),
    Scenario("and three after it open it", "503 503 1 ok 1 503 503 503", "open", 6),
    Scenario("open lets nothing through", "503 503 503 ok ok ok", "open", 3),
    Scenario("not before its time", "503 503 503 59 ok", "open", 3),
    Scenario("an answered probe closes it", "503 503 503 60 ok", "closed", 4),
    Scenario("a failed probe opens it again", "503 503 503 60 503", "open", 4),
    Scenario("and for its full time", "503 503 503 60 503 59 ok", "open", 4),
    Scenario("then it is probed again", "503 503 503 60 503 60 ok", "closed", 5),
    Scenario("closed again it counts from nothing", "503 503 503 60 ok 503 503", "closed", 6),
    Scenario("refusals count for nothing", "400 404 422 401 501 400", "closed", 6),
    Scenario("a refusal does not restart the count", "503 503 400 503", "open", 4),
    Scenario("our bugs count for nothing", "bug bug bug bug", "closed", 4),
    Scenario("interrupts count for nothing", "interrupt interrupt interrupt", "closed", 3),
    Scenario("an interrupted probe frees the next", "503 503 503 60 interrupt ok", "closed", 5),
    Scenario("a refused probe proves nothing", "503 503 503 60 400", "open", 4),
    Scenario("and the next may try at once", "503 503 503 60 400 ok", "closed", 5),
    Scenario("timeouts count", "timeout timeout timeout", "open", 3),
    Scenario("too many requests count", "429 429 429", "open", 3),
]  # fmt: skip

ERRORS: dict[str, BaseException] = {
    "bug": ZeroDivisionError(),
    "interrupt": KeyboardInterrupt(),
    "timeout": requests.ReadTimeout("slow"),
}


@pytest.mark.parametrize("kind", ["local", "shared"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_state_machine(scenario: Scenario, kind: str, tmp_path: Path) -> None:
    store: CircuitStore = (
        LocalStore()
        if kind == "local"
        else OperationalStore(engine_for(f"sqlite:///{tmp_path / 'state.sqlite'}"))
    )
    time, calls = VirtualTime(), []
    breaker = breaker_on(store, time)

    def backend(met: str) -> None:
        calls.append(met)
        if met in ERRORS:
            raise ERRORS[met]
        if met != "ok":
            raise HttpStatusError("http://server", int(met), {})

    for word in scenario.story.split():
        if word.isdigit() and int(word) < 100:
            time.sleep(int(word))
            continue
        try:
            breaker.call(backend, word)
        except (HttpStatusError, ZeroDivisionError, KeyboardInterrupt, requests.Timeout):
            pass
        except CircuitOpenError:
            assert breaker.current_state == "open"
    assert (breaker.current_state, len(calls)) == (scenario.state, scenario.backend_calls)


@pytest.fixture
def store(tmp_path: Path) -> OperationalStore:
    return OperationalStore(engine_for(f"sqlite:///{tmp_path / 'state.sqlite'}"))


def fail() -> None:
    raise HttpStatusError("http://server", 503, {})


def fails(breaker: SharedBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(HttpStatusError):
            breaker.call(fail)


def test_processes_count_failures_together(store: OperationalStore) -> None:
    time = VirtualTime()
    one, two = breaker_on(store, time, "one"), breaker_on(store, time, "two")
    fails(one, 2)
    fails(two)
    with pytest.raises(CircuitOpenError, match="3 failures in a row"):
        one.call(fail)


def test_a_success_of_another_process_does_not_hide_our_failures(store: OperationalStore) -> None:
    """One process reaches a replica that works; the others still open the circuit."""
    time = VirtualTime()
    sick, well = breaker_on(store, time, "sick"), breaker_on(store, time, "well")
    for _ in range(3):
        fails(sick)
        well.call(lambda: "ok") if well.current_state == "closed" else None
    assert sick.current_state == "open"


def test_only_one_process_probes(store: OperationalStore) -> None:
    time = VirtualTime()
    one, two = breaker_on(store, time, "one"), breaker_on(store, time, "two")
    fails(one, 3)
    time.sleep(60)

    def while_probing() -> str:
        with pytest.raises(CircuitOpenError, match="half-open"):
            two.call(fail)
        return "ok"

    assert one.call(while_probing) == "ok"
    assert two.current_state == "closed"


def test_a_killed_probers_lease_expires_and_its_late_result_is_discarded(
    store: OperationalStore,
) -> None:
    time = VirtualTime()
    one, two = breaker_on(store, time, "one"), breaker_on(store, time, "two")
    fails(one, 3)
    time.sleep(60)

    def hangs_beyond_its_lease() -> str:
        time.sleep(30)
        fails(two)
        return "late success"

    assert one.call(hangs_beyond_its_lease) == "late success"
    assert two.current_state == "open", "a straggler must not close what a newer probe opened"


def test_a_straggler_from_before_the_opening_counts_for_nothing(store: OperationalStore) -> None:
    time = VirtualTime()
    one, two = breaker_on(store, time, "one"), breaker_on(store, time, "two")

    def meanwhile_opened_and_closed() -> None:
        fails(two, 3)
        time.sleep(60)
        two.call(lambda: "ok")
        fail()

    with pytest.raises(HttpStatusError):
        one.call(meanwhile_opened_and_closed)
    assert one.fail_counter == 0
    assert one.current_state == "closed"


def test_admission_rests_on_the_cache_for_its_time_and_no_longer(store: OperationalStore) -> None:
    time = VirtualTime()
    one = breaker_on(store, time, "one", cached_for=0.25)
    two = breaker_on(store, time, "two", cached_for=0.25)
    one.call(lambda: "ok")
    fails(two, 3)
    time.sleep(0.2)
    assert one.call(lambda: "ok") == "ok"
    time.sleep(0.05)
    with pytest.raises(CircuitOpenError):
        one.call(lambda: "ok")


def test_success_while_closed_writes_nothing(store: OperationalStore) -> None:
    breaker = breaker_on(store, VirtualTime())
    for _ in range(5):
        breaker.call(lambda: "ok")
    assert store.all() == {}


def test_listeners_hear_every_transition(store: OperationalStore) -> None:
    heard: list[str] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state) -> None:  # type: ignore[no-untyped-def]
            heard.append(new_state.name)

    time = VirtualTime()
    breaker = breaker_on(store, time, listeners=[Listener()])
    fails(breaker, 3)
    time.sleep(60)
    breaker.call(lambda: "ok")
    assert heard == ["open", "half-open", "closed"]


def test_forced_open_admits_nothing_until_its_time(store: OperationalStore) -> None:
    time, engine = VirtualTime(), store._engine
    breaker = breaker_on(store, time)
    force(
        engine, "server", "open", reason="maintenance", actor="ada",
        lasting=timedelta(hours=1), clock=time.now,
    )  # fmt: skip
    for _ in range(3):
        with pytest.raises(CircuitOpenError, match="maintenance"):
            breaker.call(lambda: "ok")
        time.sleep(1000)
    time.sleep(1000)
    assert breaker.call(lambda: "ok") == "ok"
    assert breaker.current_state == "closed"


def test_forced_closed_stays_closed_whatever_fails(store: OperationalStore) -> None:
    time, engine = VirtualTime(), store._engine
    breaker = breaker_on(store, time)
    force(engine, "server", "closed", reason="we must know", actor="ada", clock=time.now)
    fails(breaker, 10)
    assert breaker.current_state == "closed"
    reset(engine, "server", reason="known now", actor="ada", clock=time.now)
    fails(breaker, 3)
    assert breaker.current_state == "open"


def test_what_is_done_by_hand_is_on_record(store: OperationalStore) -> None:
    time, engine = VirtualTime(), store._engine
    with pytest.raises(UserError, match="without reason"):
        force(engine, "server", "open", reason=" ", actor="ada")
    force(engine, "server", "open", reason="maintenance", actor="ada", clock=time.now)
    (shown,) = status(engine, clock=time.now)
    assert (shown.name, shown.state, shown.forced) == ("server", "open", True)
    assert [(event.actor, event.reason) for event in shown.events] == [("ada", "maintenance")]
    assert shown.as_json()["events"][0]["at"] == "2026-06-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ("fo" * 4, "closed"),  # eight calls are too few to tell
        ("of" * 5, "open"),
        ("fo" * 5 + "f", "open"),
        ("foo" * 10, "closed"),
        ("of" * 4 + "." + "of" * 4, "closed"),  # the first eight are forgotten
        ("r" * 50, "closed"),
    ],
)
def test_a_failure_rate_opens_it_without_a_row_of_failures(
    store: OperationalStore, story: str, state: str
) -> None:
    """`o` answered, `f` failed, `r` refused, `.` a minute passes; half of ten calls is too many."""
    time = VirtualTime()
    window = FailureWindow(0.5, 10, 60.0, time.monotonic)
    breaker = breaker_on(store, time, window=window, fail_max=100)

    def refuse() -> None:
        raise HttpStatusError("http://server", 422, {})

    for step in story:
        if step == ".":
            time.sleep(60)
            continue
        with contextlib.suppress(HttpStatusError, CircuitOpenError):
            breaker.call({"o": lambda: None, "f": fail, "r": refuse}[step])
    assert breaker.current_state == state
    if state == "open":
        assert "calls failed within 60 s" in store.read("server").reason


def test_a_closed_again_circuit_forgets_its_rate(store: OperationalStore) -> None:
    time = VirtualTime()
    window = FailureWindow(0.5, 4, 1000.0, time.monotonic)
    breaker = breaker_on(store, time, window=window, fail_max=100)
    fails(breaker, 4)
    assert breaker.current_state == "open"
    time.sleep(60)
    breaker.call(lambda: "ok")
    fails(breaker, 1)
    assert breaker.current_state == "closed"
