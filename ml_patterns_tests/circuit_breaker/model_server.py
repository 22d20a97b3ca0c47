"""A model server on loopback that speaks the v2 protocol, and misbehaves exactly as it is told.

What it is told is a function of each request's rows; healthy, it answers a row's first value,
clipped to [0, 1], which no trained model does: live answers can be told from all others.
Binary bodies it answers with 500 as MLServer does, whatever extensions it says that it has.
"""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rows = list[list[float | None]]
Behaviour = Callable[[Rows], object]
"""A status, one of `hang`, `trickle`, `trickle head`, `reset`, `truncate`, a body as text or bytes,
or None: ok."""


def healthy(_rows: Rows) -> object:
    """Answers."""
    return None


def always(what: object) -> Behaviour:
    """Does the same to every request."""
    return lambda _rows: what


@dataclass
class ModelServer:
    """A running server and what it saw."""

    url: str
    behaviour: Behaviour = healthy
    headers: dict[str, str] = field(default_factory=dict)
    versions: set[str] | None = None
    extensions: tuple[str, ...] = ()
    metadata_calls: int = 0
    bodies_refused: int = 0
    sizes: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> int:
        """Requests that arrived."""
        with self.lock:
            return len(self.sizes)


def live_answer(value: float | None) -> float:
    """What the healthy server says to a row that begins with this value."""
    return 0.5 if value is None else min(1.0, max(0.0, value))


@contextmanager
def serve_models(behaviour: Behaviour = healthy, port: int = 0) -> Iterator[ModelServer]:
    """Serves until the block ends."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.seen = ModelServer(f"http://127.0.0.1:{server.server_port}", behaviour)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.seen
    finally:
        server.seen.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    seen: ModelServer

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: clients that give up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        seen = self.server.seen
        with seen.lock:
            seen.metadata_calls += 1
        self._send(200, json.dumps({"name": "told", "extensions": seen.extensions}).encode())

    def do_POST(self) -> None:
        seen = self.server.seen
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "Inference-Header-Content-Length" in self.headers:
            with seen.lock:
                seen.bodies_refused += 1
            self._send(500, b"{}")
            return
        tensor = json.loads(body)["inputs"][0]
        count, width = tensor["shape"]
        rows = [tensor["data"][row * width : (row + 1) * width] for row in range(count)]
        with seen.lock:
            seen.sizes.append(count)
            seen.keys.append(self.headers["Idempotency-Key"])
            seen.under_way += 1
            seen.most_under_way = max(seen.most_under_way, seen.under_way)
        try:
            with suppress(ConnectionError):
                self._behave(seen, rows)
        finally:
            with seen.lock:
                seen.under_way -= 1

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _behave(self, seen: ModelServer, rows: Rows) -> None:
        version = self.path.split("/versions/")[1].split("/")[0]
        what = 404 if seen.versions and version not in seen.versions else seen.behaviour(rows)
        answer = json.dumps({"outputs": [{"data": [live_answer(row[0]) for row in rows]}]}).encode()
        if what is None:
            self._send(200, answer)
        elif isinstance(what, int):
            self._send(what, b'{"error": "as told"}')
        elif what == "hang":
            seen.closing.wait(60)
        elif what == "trickle":
            self._head(200, len(answer))
            for byte in answer:
                self.wfile.write(bytes([byte]))
                if seen.closing.wait(0.05):
                    return
        elif what == "trickle head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not seen.closing.wait(0.05):
                self.wfile.write(b"z")
        elif what == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif what == "truncate":
            self._head(200, len(answer) + 10)
            self.wfile.write(answer)
            self.close_connection = True
        else:
            self._send(200, what if isinstance(what, bytes) else str(what).encode())

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in self.server.seen.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, body: bytes) -> None:
        self._head(status, len(body))
        self.wfile.write(body)
