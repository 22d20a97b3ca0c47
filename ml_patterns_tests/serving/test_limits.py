"""What the server refuses, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from ml_patterns.serving.settings import ServerSettings
from ml_patterns_tests.serving.conftest import (
    House,
    Server,
    body_of,
    running_server,
    sample_matrix,
)

INFER = "/v2/models/deliveries.eu/infer"
MATRIX = sample_matrix(3)


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30)


class HalfSent:
    """An inference request whose body stops half-way, on a socket of its own."""

    def __init__(self, server: Server, body: bytes) -> None:
        self._rest = body[len(body) // 2 :]
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body[: len(body) // 2])

    def __enter__(self) -> "HalfSent":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def finish(self) -> None:
        """Sends the rest."""
        self._socket.sendall(self._rest)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; waits for them."""
        with self._socket.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            return status, headers, stream.read(int(headers["content-length"]))


def _in_progress(client: httpx.Client) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("ml_patterns_requests_in_progress "):
            return float(line.split()[1])
    raise AssertionError("no metric")


def _wait_for_progress(client: httpx.Client, requests: int) -> None:
    deadline = time.monotonic() + 20
    while _in_progress(client) != requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)


BODY = json.dumps(body_of(MATRIX)).encode()


def test_more_requests_than_allowed_are_429_and_told_when_to_return(house: House) -> None:
    house.deploy("eu", 1)
    with (
        running_server(house, max_concurrent_requests=1) as server,
        _client(server) as client,
        HalfSent(server, BODY) as first,
    ):
        _wait_for_progress(client, 1)
        refused = client.post(INFER, json=body_of(MATRIX))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert list(refused.json()) == ["error"]
        assert client.get("/v2/health/live").status_code == 200
        first.finish()
        assert first.answer()[0] == 200
        _wait_for_progress(client, 0)
        assert client.post(INFER, json=body_of(MATRIX)).status_code == 200


def test_more_bytes_than_the_memory_bound_are_503(house: House) -> None:
    house.deploy("eu", 1)
    with (
        running_server(house, max_pending_bytes=len(BODY)) as server,
        _client(server) as client,
        HalfSent(server, BODY) as first,
    ):
        _wait_for_progress(client, 1)
        refused = client.post(INFER, content=BODY)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        first.finish()
        assert first.answer()[0] == 200
        _wait_for_progress(client, 0)
        assert client.post(INFER, content=BODY).status_code == 200


@pytest.fixture(scope="module")
def impatient(shared_house: House) -> Iterator[Server]:
    """A server that does not wait long for what was begun."""
    with running_server(shared_house, receive_timeout="0.5s") as server:
        yield server


def test_a_body_that_does_not_arrive_is_408(impatient: Server) -> None:
    with _client(impatient) as client, HalfSent(impatient, BODY) as slow:
        status, headers, _ = slow.answer()
        assert (status, headers["connection"]) == (408, "close")
        _wait_for_progress(client, 0)


def test_a_client_that_hangs_up_leaves_nothing_behind(house: House) -> None:
    """No place is kept for it, and no stack trace is written about it."""
    house.deploy("eu", 1)
    with running_server(house) as server, _client(server) as client:
        with HalfSent(server, BODY):
            _wait_for_progress(client, 1)
        _wait_for_progress(client, 0)
        server.process.terminate()
        server.process.wait(timeout=20)
        assert "Traceback" not in server.log.read_text()


def test_headers_that_do_not_arrive_close_the_connection(impatient: Server) -> None:
    """Slowloris: connections that send a header now and then would fill the server."""
    address = ("127.0.0.1", impatient.port)
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(100)
        ]
        for connection in connections:
            # Some of the hundred may be closed before it is their turn, on a busy machine.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"GET /v2 HTTP/1.1\r\nX-Slow: ")
        with _client(impatient) as client:
            assert client.get("/v2/health/live").status_code == 200
        for connection in connections:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_a_connection_that_says_nothing_is_closed(impatient: Server) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=30) as connection:
        assert connection.recv(1) == b""


def test_a_request_that_takes_too_long_is_503_and_keeps_its_place(house: House) -> None:
    house.deploy("eu", 1, rounds=400)
    matrix = sample_matrix(100_000)
    tensor = {"name": "input", "datatype": "FP64", "shape": list(matrix.shape)}
    tensor["parameters"] = {"binary_data_size": matrix.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    sizes = {"Inference-Header-Content-Length": str(len(head))}
    with running_server(house, request_timeout="0.05s") as server, _client(server) as client:
        refused = client.post(INFER, content=head + matrix.tobytes(), headers=sizes)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert _in_progress(client) == 1
        _wait_for_progress(client, 0)


def test_a_compressed_body_is_415(client: httpx.Client) -> None:
    response = client.post(INFER, content=BODY, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415


def test_the_token_is_asked_for_everywhere_but_by_probes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.deploy("eu", 1)
    with running_server(house, token="secret") as server, _client(server) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            refused = client.post(INFER, json=body_of(MATRIX), headers=headers)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        allowed = client.post(
            INFER, json=body_of(MATRIX), headers={"Authorization": "Bearer secret"}
        )
        assert allowed.status_code == 200
    monkeypatch.setenv("ML_PATTERNS_SERVING_TOKEN", "from outside")
    settings = ServerSettings.from_environment()
    assert settings.token is not None
    assert settings.token.get_secret_value() == "from outside"
    assert "from outside" not in repr(settings)


def test_champions_are_read_at_least_once_a_second() -> None:
    with pytest.raises(ValidationError, match="at most 1 s"):
        ServerSettings(refresh_interval="2s")


def test_sigterm_finishes_what_runs(house: House) -> None:
    """The request began before the signal and is answered after the listener is gone."""
    house.deploy("eu", 1)
    with running_server(house) as server, HalfSent(server, BODY) as running:
        with _client(server) as client:
            _wait_for_progress(client, 1)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while _accepts(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.process.poll() is None
        running.finish()
        status, _, content = running.answer()
        assert status == 200
        assert len(json.loads(content)["outputs"][0]["data"]) == 3
        assert server.process.wait(timeout=20) == 0


def test_sigterm_drops_nothing_that_waits_for_its_turn(house: House) -> None:
    """Eight requests for one thread, all begun before the signal."""
    house.deploy("eu", 1, rounds=100)
    matrix = sample_matrix(5000)
    body = json.dumps(body_of(matrix)).encode()
    expected = house.expected("eu", 1, matrix).tolist()
    with running_server(house, threads=1) as server, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(HalfSent(server, body)) for _ in range(8)]
        with _client(server) as client:
            _wait_for_progress(client, 8)
        server.process.send_signal(signal.SIGTERM)
        for request in waiting:
            request.finish()
        for request in waiting:
            status, _, content = request.answer()
            assert status == 200
            assert json.loads(content)["outputs"][0]["data"] == expected
        assert server.process.wait(timeout=20) == 0


def _accepts(server: Server) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


def test_each_request_is_one_line_in_the_log(house: House) -> None:
    house.deploy("eu", 1)
    with running_server(house) as server, _client(server) as client:
        client.post(INFER, json=body_of(MATRIX), headers={"X-Request-Id": "line-1"})
        server.process.terminate()
        server.process.wait(timeout=20)
        lines = [line for line in server.log.read_text().splitlines() if "line-1" in line]
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert entry["status"] == 200
    assert entry["model"] == "deliveries.eu"
    assert (entry["version"], entry["rows"]) == (1, 3)


def test_a_taken_port_is_one_sentence(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "ml_patterns.serving", "--port", str(port)],
            env={**os.environ, **house.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert f"port {port}" in ended.stderr


def test_the_module_serves_the_installation_of_the_environment(house: House) -> None:
    house.deploy("eu", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "ml_patterns.serving", "--port", "0"],
        env={**os.environ, **house.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        assert httpx.post(f"{url}{INFER}", json=body_of(MATRIX), timeout=30).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
