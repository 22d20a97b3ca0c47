"""Several processes are one server: one port, one set of figures, one end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ml_patterns.serving.settings import ServerSettings
from ml_patterns_tests.serving.conftest import (
    House,
    Server,
    running_server,
    sample_matrix,
    values_of,
)
from ml_patterns_tests.serving.test_fleet import _metric, _until
from ml_patterns_tests.serving.test_limits import BODY, HalfSent, _accepts

INFER = "/v2/models/deliveries.eu/infer"
MATRIX = sample_matrix(3)


def _children(server: Server) -> set[int]:
    """The workers, by process id."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    if not tasks.is_dir():
        pytest.skip("needs /proc to find the workers")
    found = {
        int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()
    }
    return {pid for pid in found if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()}


def _ask(server: Server) -> httpx.Response:
    """On a connection of its own, which any worker may take."""
    return httpx.post(f"{server.url}{INFER}", content=BODY, timeout=30)


def _figure(server: Server, name: str) -> float:
    """As whichever worker takes the connection tells it."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        return _metric(client, name)


def _version(server: Server) -> str:
    return str(_ask(server).json()["model_version"])


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Server]]:
    """Two workers for more than one test, because they take long to start."""
    house = House.build(tmp_path_factory.mktemp("workers"))
    house.deploy("eu", 1)
    with running_server(house, workers=2) as server:
        yield house, server


@pytest.fixture
def served(house: House) -> Iterator[Server]:
    """Two workers that a test may end."""
    house.deploy("eu", 1)
    with running_server(house, workers=2) as server:
        yield server


LOADS = 'ml_patterns_model_loads_total{result="success"}'
ROWS = 'ml_patterns_predicted_rows_total{model="deliveries.eu"}'


def test_two_workers_answer_as_one(lasting: tuple[House, Server]) -> None:
    """Whichever worker is asked, figures are those of both; and both follow the champion."""
    house, server = lasting
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert len(_children(server)) == 2
        asked = 0

        def both_loaded() -> bool:
            nonlocal asked
            assert values_of(_ask(server)).tobytes() == house.expected("eu", 1, MATRIX).tobytes()
            asked += 1
            return _metric(client, LOADS) == 2

        _until(both_loaded)
        for _ in range(10):
            assert _figure(server, ROWS) == 3 * asked
        _until(lambda: _metric(client, "ml_patterns_models_in_memory") == 2)

        house.deploy("eu", 2)
        # A worker that lagged would answer some of many with the old version.
        _until(lambda: all(_version(server) == "2" for _ in range(20)))


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(
    lasting: tuple[House, Server],
) -> None:
    _, server = lasting
    before = _children(server)
    counted = _figure(server, ROWS)
    for _ in range(10):
        assert _ask(server).status_code == 200
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    _until(lambda: len(_children(server) - {victim}) == 2)
    assert f"worker {victim} ended with exit code -9" in server.log.read_text()
    for _ in range(10):
        assert _figure(server, ROWS) == counted + 30
    assert _ask(server).status_code == 200


def test_sigterm_finishes_what_every_worker_runs(served: Server) -> None:
    with HalfSent(served, BODY) as first, HalfSent(served, BODY) as second:
        with httpx.Client(base_url=served.url, timeout=30) as client:
            _until(lambda: _metric(client, "ml_patterns_requests_in_progress") == 2)
        workers = _children(served)
        served.process.send_signal(signal.SIGTERM)
        _until(lambda: not _accepts(served))
        for request in (first, second):
            request.finish()
            assert request.answer()[0] == 200
        assert served.process.wait(timeout=30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_workers_do_not_outlive_their_parent(served: Server) -> None:
    workers = _children(served)
    served.process.kill()
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not _accepts(served)


def test_bounds_are_those_of_all_workers_together() -> None:
    one = ServerSettings(workers=4, threads=3, max_models=10, max_concurrent_requests=9)
    share = one.of_one_worker()
    assert (share.threads, share.max_models, share.max_concurrent_requests) == (3, 3, 3)
    assert share.session_secret is not None
    assert share.max_pending_bytes == one.max_pending_bytes // 4
    small = ServerSettings(workers=4, max_body_bytes=100, max_pending_bytes=200)
    assert small.of_one_worker().max_pending_bytes == 100
