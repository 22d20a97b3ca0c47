"""Champions are followed, versions never mix, and a broken artifact hurts nobody."""

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

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


def test_a_broken_champion_is_told_before_anybody_asks_for_it(house: House) -> None:
    house.deploy("eu", 1)
    second = house.register("eu", 2)
    house.break_artifact(second)
    with running_server(house) as server, _client(server) as client:
        house.promote(second)
        _until(lambda: bool(client.get("/v2/health/ready").json()["broken"]))


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


class Connection:
    """One keep-alive connection that asks and reads, light enough to have a thousand of."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: Server) -> "Connection":
        """Connects."""
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def ask(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one inference request."""
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        length = next(line for line in lines if line.startswith("content-length:"))
        content = await self._reader.readexactly(int(length.split()[1]))
        return int(lines[0].split()[1]), json.loads(content)

    async def close(self) -> None:
        """Hangs up."""
        self._writer.close()
        await self._writer.wait_closed()


def test_a_thousand_at_once_are_neither_dropped_nor_mixed_while_champions_change(
    house: House,
) -> None:
    """1,000 connections ask together through 20 champion changes, and all at once after each.

    Every request is answered, and every answer is that of the version it names.
    """
    house.deploy("eu", 1)
    house.deploy("eu", 2)
    matrices = [sample_matrix(5, seed=seed) for seed in range(10)]
    bodies = [json.dumps(body_of(matrix)).encode() for matrix in matrices]
    expected = {
        (str(version), index): house.expected("eu", version, matrix).tobytes()
        for version in (1, 2)
        for index, matrix in enumerate(matrices)
    }
    seen: list[str] = []

    async def ask(connection: Connection, number: int) -> None:
        index = number % len(bodies)
        status, answer = await connection.ask(bodies[index])
        assert status == 200, answer
        version = answer["model_version"]
        values = np.array(answer["outputs"][0]["data"])
        assert values.tobytes() == expected[version, index]
        seen.append(version)

    async def change_champions(changed: asyncio.Event) -> None:
        for change in range(20):
            house.registry.rollback(
                "deliveries",
                "eu",
                to_generation=1 + change % 2,
                actor="test",
                reason="made for a test",
            )
            # The next change comes when the server has answered with this one.
            while not seen or seen[-1] != str(1 + change % 2):
                await asyncio.sleep(0.001)
        changed.set()

    async def scenario(server: Server) -> None:
        changed = asyncio.Event()
        connections = [await Connection.open(server) for _ in range(1000)]
        changing = asyncio.create_task(change_champions(changed))
        while not changed.is_set():
            await asyncio.gather(*(ask(c, number) for number, c in enumerate(connections)))
        await changing
        for connection in connections:
            await connection.close()

    with (
        many_open_files(4096),
        # What a busy machine adds is not the promise: no time-out may stand for a dropped request.
        running_server(
            house, refresh_interval="0.05s", receive_timeout="5m", request_timeout="5m"
        ) as server,
    ):
        asyncio.run(scenario(server))
    assert set(seen) == {"1", "2"}
    assert len(seen) >= 1000


@contextlib.contextmanager
def many_open_files(wanted: int) -> Iterator[None]:
    """A thousand connections need as many file handles, here and in the server."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, the limit is {hard}; raise it with ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


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
