"""Promise: a dead server gets one probe at a time from all processes together."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.circuit_breaker.fleet import FAIL_MAX, await_each, running_fleet
from ml_patterns_tests.circuit_breaker.model_server import Rows, serve_models

SIZES = [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]


def await_that(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Polls a condition that other processes make true."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it never became true")


@pytest.mark.parametrize("processes", SIZES)
def test_an_outage_costs_the_server_one_probe_at_a_time(url: str, processes: int) -> None:
    store = OperationalStore(engine_for(url))
    with serve_models() as server:
        healthy = server.behaviour
        with running_fleet(url, server.url, processes) as fleet:
            await_that(lambda: server.calls > 3 * processes)

            def down(_rows: Rows) -> object:
                return 503

            server.behaviour = down
            # Who was refused has no call under way that was let through before; what comes after
            # are probes.
            await_each(fleet, "refused")
            await_that(lambda: server.under_way == 0)
            opened, already = store.read("server").epoch, server.calls
            with server.lock:
                server.most_under_way = server.under_way
            await_that(lambda: store.read("server").epoch >= opened + 6)
            calls, epoch = server.calls, store.read("server").epoch
            # Each probe is two transitions: half-open, then open again.
            assert calls - already <= (epoch - opened) / 2 + 1
            assert server.most_under_way <= 1

            server.behaviour = healthy
            await_that(lambda: store.read("server").state == "closed")
            await_each(fleet, "answered")
    events = store.events("server", limit=1000)
    assert f"{FAIL_MAX} failures in a row" in events[-1].reason
    assert [event.epoch for event in reversed(events)] == list(range(1, len(events) + 1))


def test_a_killed_prober_does_not_keep_the_circuit_open(url: str) -> None:
    store = OperationalStore(engine_for(url))
    hang = threading.Event()

    def fails_then_hangs(_rows: Rows) -> object:
        if hang.is_set():
            return "hang"
        return 503

    with serve_models(fails_then_hangs) as server:
        with running_fleet(url, server.url, 2, lease=1.0) as fleet:
            await_that(lambda: store.read("server").state != "closed")
            hang.set()
            await_that(lambda: store.read("server").state == "half-open" and server.under_way == 1)
            owner = store.read("server").lease_owner
            assert owner is not None
            prober = int(owner.split("/")[1])
            assert prober in [process.pid for process in fleet]
            server.behaviour = lambda _rows: None
            os.kill(prober, signal.SIGKILL)
            await_that(lambda: store.read("server").state == "closed")
        last = store.events("server")[0]
        assert str(prober) not in last.actor
