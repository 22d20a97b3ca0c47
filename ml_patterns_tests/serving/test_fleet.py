"""Champions are followed, versions never mix, and a broken artifact hurts nobody."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from ml_patterns.registry.tables import champions
from ml_patterns_tests.serving.conftest import (
    House,
    Server,
    body_of,
    running_server,
    sample_matrix,
    values_of,
)

INFER = "/v2/models/deliveries.eu/infer"
READY = "/v2/models/deliveries.eu/ready"
MATRIX = sample_matrix(7, seed=5)


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Returns when the condition holds; asks again and again."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)


def _version(client: httpx.Client) -> str:
    return str(client.post(INFER, json=body_of(MATRIX)).json()["model_version"])


def _metric(client: httpx.Client, name: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30)


def test_promotion_and_rollback_are_followed_within_a_second(house: House) -> None:
    house.deploy("eu", 1)
    with running_server(house) as server, _client(server) as client:
        assert _version(client) == "1"
        for change, version in (
            (lambda: house.deploy("eu", 2), "2"),
            (lambda: house.rollback("eu"), "1"),
        ):
            change()
            changed = time.monotonic()
            _until(lambda version=version: _version(client) == version)
            # The promise is a second; what the machine adds while it is busy is not counted
            # against it, an order of magnitude is.
            assert time.monotonic() - changed < 5
        champion = 'ml_patterns_champion_generation{model="deliveries.eu"}'
        assert _metric(client, champion) == 3


def test_a_region_that_appears_is_served(house: House) -> None:
    with running_server(house) as server, _client(server) as client:
        assert client.post(INFER, json=body_of(MATRIX)).status_code == 404
        house.deploy("eu", 1)
        _until(lambda: client.get(READY).status_code == 200)
        assert _version(client) == "1"


def test_a_broken_artifact_leaves_the_previous_champion_serving(house: House) -> None:
    """It is told in readiness and metrics, and mending it is enough."""
    house.deploy("eu", 1)
    second = house.register("eu", 2)
    house.break_artifact(second)
    with running_server(house, fault_pause="0.2s") as server, _client(server) as client:
        assert _version(client) == "1"
        house.promote(second)
        _until(lambda: bool(client.get("/v2/health/ready").json()["broken"]))
        response = client.post(INFER, json=body_of(MATRIX))
        assert response.json()["model_version"] == "1"
        assert values_of(response).tobytes() == house.expected("eu", 1, MATRIX).tobytes()
        ready = client.get("/v2/health/ready")
        assert ready.status_code == 200
        assert ready.json()["broken"] == [
            {"model": "deliveries.eu", "version": "2", "serving": "1"}
        ]
        assert client.get(READY).json()["broken"] == "2"
        broken = 'ml_patterns_champion_broken{model="deliveries.eu",version="2"}'
        assert _metric(client, broken) == 1
        assert client.get("/v2/models/deliveries.eu/versions/2/ready").status_code == 503

        house.mend_artifact(second)
        _until(lambda: _version(client) == "2")
        _until(lambda: not client.get("/v2/health/ready").json()["broken"])


def test_a_server_started_on_a_broken_champion_serves_the_one_before(house: House) -> None:
    house.deploy("eu", 1)
    house.break_artifact(house.deploy("eu", 2))
    with running_server(house) as server, _client(server) as client:
        assert _version(client) == "1"
        assert client.get(READY).json()["broken"] == "2"


def test_nothing_to_fall_back_on_is_503(house: House) -> None:
    house.break_artifact(house.deploy("eu", 1))
    with running_server(house) as server, _client(server) as client:
        response = client.post(INFER, json=body_of(MATRIX))
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert "version 1" in response.json()["error"]
        ready = client.get(READY)
        assert (ready.status_code, ready.json()["ready"]) == (503, False)


def test_models_stay_within_their_bound_and_all_answer(house: House) -> None:
    regions = [f"region_{number}" for number in range(5)]
    for number, region in enumerate(regions):
        house.deploy(region, number)
    with running_server(house, max_models=2) as server, _client(server) as client:
        for region in regions * 2:
            response = client.post(f"/v2/models/deliveries.{region}/infer", json=body_of(MATRIX))
            assert values_of(response).tobytes() == house.expected(region, 1, MATRIX).tobytes()
            assert _metric(client, "ml_patterns_models_in_memory") <= 2
        assert _metric(client, 'ml_patterns_model_loads_total{result="success"}') == 10


def test_many_who_ask_first_share_one_load(house: House) -> None:
    house.deploy("eu", 1, rounds=200)
    with running_server(house) as server, _client(server) as client:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: _version(client), range(16)))
        assert answers == ["1"] * 16
        assert _metric(client, 'ml_patterns_model_loads_total{result="success"}') == 1


def test_no_request_is_dropped_or_mixed_while_champions_change(house: House) -> None:
    """1,000 requests over 20 champion changes: each answer is that of the version it names."""
    house.deploy("eu", 1)
    house.deploy("eu", 2)
    matrices = [sample_matrix(5, seed=seed) for seed in range(10)]
    expected = {
        (str(version), index): house.expected("eu", version, matrix).tobytes()
        for version in (1, 2)
        for index, matrix in enumerate(matrices)
    }
    changed = threading.Event()
    asked = 0
    counting = threading.Lock()

    def ask(client: httpx.Client, number: int) -> str:
        nonlocal asked
        index = number % len(matrices)
        response = client.post(INFER, json=body_of(matrices[index]))
        assert response.status_code == 200, response.text
        version = str(response.json()["model_version"])
        assert values_of(response).tobytes() == expected[version, index]
        with counting:
            asked += 1
        return version

    def ask_until_changed(worker: int, client: httpx.Client) -> list[str]:
        versions = []
        while not changed.is_set() or len(versions) < 1000 // 16 + 1:
            versions.append(ask(client, worker + len(versions)))
        return versions

    limits = httpx.Limits(max_connections=16)
    with (
        running_server(house, refresh_interval="0.05s") as server,
        httpx.Client(base_url=server.url, timeout=30, limits=limits) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        workers = [pool.submit(ask_until_changed, number, client) for number in range(16)]
        try:
            for _ in range(20):
                before = _metric(client, 'ml_patterns_champion_generation{model="deliveries.eu"}')
                versions = house.registry.champion("deliveries", "eu")
                assert versions is not None
                house.registry.rollback(
                    "deliveries",
                    "eu",
                    to_generation=1 if versions.version == 2 else 2,
                    actor="test",
                    reason="made for a test",
                )
                _until(
                    lambda before=before: (
                        _metric(client, 'ml_patterns_champion_generation{model="deliveries.eu"}')
                        > before
                    )
                )
        finally:
            changed.set()
        versions_seen = {version for worker in workers for version in worker.result()}
    assert versions_seen == {"1", "2"}
    assert asked >= 1000


def test_a_thousand_requests_at_once_are_all_answered(house: House) -> None:
    house.deploy("eu", 1)
    expected = house.expected("eu", 1, MATRIX).tobytes()
    together = threading.Barrier(50)

    def ask(server: Server) -> list[bytes]:
        answers = []
        with _client(server) as client:
            together.wait()
            for _ in range(20):
                answers.append(values_of(client.post(INFER, json=body_of(MATRIX))).tobytes())
        return answers

    with running_server(house) as server, ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(ask, server) for _ in range(50)]
        answers = [answer for future in futures for answer in future.result()]
    assert answers == [expected] * 1000


def test_champions_still_serve_while_the_registry_is_down(house: House) -> None:
    house.deploy("eu", 1)
    with running_server(house) as server, _client(server) as client:
        assert _version(client) == "1"
        with house.registry.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {champions.name} RENAME TO elsewhere")
        _until(lambda: "registry does not answer" in server.log.read_text())
        assert np.array_equal(
            values_of(client.post(INFER, json=body_of(MATRIX))), house.expected("eu", 1, MATRIX)
        )
