"""Whatever a stranger sends costs the stranger an answer, and nobody else anything."""

import json
import os
import socket
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from ml_patterns.serving.errors import RequestError
from ml_patterns.serving.protocol import read_request
from ml_patterns_tests.serving.conftest import (
    House,
    Server,
    body_of,
    running_server,
    sample_matrix,
    values_of,
)

INFER = "/v2/models/deliveries.eu/infer"
MATRIX = sample_matrix(3)
ROW = np.array([[1.0, 0.0, 2.0]])


@pytest.fixture(scope="module")
def server(shared_house: House) -> Iterator[Server]:
    """A server that must still answer, and whose log must hold no stack trace, after all tests."""
    with running_server(shared_house, max_rows=1000, max_body_bytes=200_000) as server:
        yield server
        response = httpx.post(f"{server.url}{INFER}", json=body_of(MATRIX), timeout=30)
        assert values_of(response).tobytes() == shared_house.expected("eu", 2, MATRIX).tobytes()
        server.process.terminate()
        assert server.process.wait(timeout=20) == 0
        assert "Traceback" not in server.log.read_text()


def _raw(server: Server, content: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(content)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    "name",
    [
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "deliveries%2Feu",
        "deliveries.eu%00",
        "%00",
        "deliveries.eu%0d%0aX-Injected: 1",
        "deliveries.eu%FF%FE",
        "deliveries.%F0%9F%98%80",
        "deliveries.eu' OR '1'='1",
        "deliveries.eu;DROP TABLE champion",
        ".",
        "..",
        ".eu",
        "deliveries.",
        "deliveries.eu/versions/1%2F..%2F2",
        "deliveries.eu/versions/%31%00",
        "deliveries.eu/versions/-1",
        "deliveries.eu/versions/%C2%B2",
        "deliveries.eu/versions/99999999999999999999",
        "x" * 20_000,
    ],
)
def test_a_name_that_is_none_is_404(server: Server, name: str) -> None:
    """Sent as it is: a client library would tidy it first."""
    path = f"/v2/models/{name}/infer".replace(" ", "%20").replace("'", "%27").encode()
    body = json.dumps(body_of(ROW)).encode()
    answer = _raw(
        server,
        b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (path, len(body), body),
    )
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 "), answer[:300]
    assert b"x-injected" not in head.lower()
    assert list(json.loads(content)) == ["error"]
    assert len(content) < 1000


@pytest.mark.parametrize(
    ("shape", "data", "status"),
    [
        ([2**31 - 1, 2**31 - 1], [], 413),
        ([2**63, 3], [], 400),
        ([10**400, 3], [], 400),
        ([1, 2**31 - 1], [1], 400),
        ([0, 2**31 - 1], [], 400),
        ([1000, 0], [], 400),
        ([1.0, 3.0], [1, 2, 3], 400),
        ([1e3, 3], [1, 2, 3], 400),
        ([[1], 3], [1, 2, 3], 400),
        ([1, 3, 1], [1, 2, 3], 400),
        ([1] * 50_000, [1], 413),
        ([1, 3], [[]] * 50_000, 413),
        ([1, 3], [[[1, 2, 3]]], 400),
        ([1, 3], {"0": 1}, 400),
    ],
)
def test_a_shape_is_not_believed(server: Server, shape: object, data: object, status: int) -> None:
    """Nothing is allocated that the bytes at hand do not fill."""
    body = {"inputs": [{"name": "input", "datatype": "FP64", "shape": shape, "data": data}]}
    response = httpx.post(f"{server.url}{INFER}", json=body, timeout=30)
    assert response.status_code == status, response.text
    assert len(response.content) < 1000


def test_few_bytes_do_not_become_much_memory() -> None:
    """Empty lists take twenty times their bytes; they are counted before they are parsed."""
    body = b'{"inputs": [' + b"[]," * 20_000 + b"[]]}"
    with pytest.raises(RequestError, match="more values than 100 rows of 3 features") as refusal:
        read_request(body, None, 100, columns=3)
    assert refusal.value.status == 413
    rows = [[1, 2, 3]] * 100
    fits = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [100, 3], "data": rows}]}
    assert read_request(json.dumps(fits).encode(), None, 100, columns=3).matrix.shape == (100, 3)


def test_an_answer_does_not_repeat_what_is_long(server: Server) -> None:
    body = body_of(ROW, name="y" * 100_000)
    response = httpx.post(f"{server.url}{INFER}", json=body, timeout=30)
    assert response.status_code == 400
    assert len(response.content) < 1000


@pytest.mark.parametrize("open_with", ["[", '{"a":', '{"inputs":['])
def test_depth_without_end_is_400(server: Server, open_with: str) -> None:
    content = open_with * (150_000 // len(open_with))
    response = httpx.post(f"{server.url}{INFER}", content=content, timeout=30)
    assert response.status_code == 400


def test_keys_that_come_twice_are_the_last_of_them(server: Server) -> None:
    """As in JavaScript and Python; no second tensor hides behind the first."""
    right = json.dumps(body_of(ROW))
    doubled = right.replace('"datatype"', '"datatype": "BYTES", "datatype"')
    response = httpx.post(f"{server.url}{INFER}", content=doubled, timeout=30)
    assert response.status_code == 200


@pytest.mark.parametrize("length", ["9" * 5000, "1e3", "+2", "0x10", "\N{FULLWIDTH DIGIT ONE}"])
def test_a_json_length_that_is_none_is_400(server: Server, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    response = httpx.post(f"{server.url}{INFER}", content=b"{}", headers=headers, timeout=30)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: -1",
        "Content-Length: two",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Transfer-Encoding: gzip",
        "Bad Header: 1",
    ],
)
def test_lengths_that_contradict_end_the_connection(server: Server, headers: str) -> None:
    """Two readings of where a request ends are how requests are smuggled past a proxy."""
    request = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{{}}"
    smuggled = f"{request}GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = _raw(server, smuggled.encode())
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert b'"live"' not in answer


def test_headers_without_end_are_431(server: Server) -> None:
    """They are not kept until time or memory runs out."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        answer = b""
        try:
            for number in range(100_000):
                connection.sendall(b"X-%d: %b\r\n" % (number, b"a" * 1000))
        except OSError:
            # Closed while we still sent; an answer may be lost then, the end may not.
            return
        answer = connection.recv(100)
    assert answer.startswith(b"HTTP/1.1 431 ")


def _announced(connection: socket.socket, size: int, sent: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{lines}\r\n"
    connection.sendall(head.encode() + sent)
    with connection.makefile("rb") as stream:
        answer = b""
        while line := stream.readline().strip():
            answer += line.lower() + b"\n"
        return answer + stream.read(int(answer.partition(b"content-length: ")[2].split()[0]))


def _send_without_end(connection: socket.socket) -> None:
    for _ in range(10_000):
        connection.sendall(b"x" * 100_000)


def test_a_body_that_nobody_read_ends_its_connection(server: Server) -> None:
    """The answer arrives whole first, though the client still sends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        answer = _announced(connection, 10**9, b"x" * 100_000)
        assert answer.startswith(b"http/1.1 413 ")
        assert b"connection: close" in answer
        with pytest.raises(OSError, match=r"reset|pipe|abort"):
            _send_without_end(connection)


def test_a_client_that_waits_to_be_asked_is_refused_without_its_body(server: Server) -> None:
    """`Expect: 100-continue`, as curl sends it: no "100 Continue" to what is refused."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        answer = _announced(connection, 10**9, b"", "Expect: 100-continue")
        assert answer.startswith(b"http/1.1 413 ")
        assert b"connection: close" in answer
        while connection.recv(1000):
            pass


def test_a_small_body_that_nobody_read_keeps_its_connection(server: Server) -> None:
    """A refusal that has nothing to do with the body costs no reconnecting."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for _ in range(2):
            answer = _announced(connection, 2, b"{}", "Content-Encoding: gzip")
            assert answer.startswith(b"http/1.1 415 ")
            assert b"connection: close" not in answer
            assert b'{"error"' in answer


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_400_or_silence(server: Server, seed: int) -> None:
    noise = np.random.default_rng(seed).bytes(2000)
    answer = _raw(server, noise + b"\r\n\r\n" + os.linesep.encode())
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
