"""An upstream that fails on a script: a weather API, and a receiver of webhooks.

Belongs here: HTTP on loopback that misbehaves exactly as it was told, then behaves. Does not:
surviving it (`retry/`).

`python -m ml_patterns.sandbox.upstream --port 8086 --script FILE.json` runs it as a process. The
weather API speaks the daily format of Open-Meteo's archive (https://open-meteo.com/en/docs).
"""

import argparse
import json
import signal
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ml_patterns.errors import SettingsError
from ml_patterns.sandbox.weather import weather_on

Step = Mapping[str, Any]
"""What happens to one request: exactly one of STEPS, and for a status perhaps `retry_after`."""

STEPS = {
    "status": "this status instead of an answer; with `retry_after`: seconds to wait",
    "hang": "the answer comes after so many seconds",
    "reset": "the connection is reset",
    "truncate": "the answer breaks off in the middle",
    "body": "200 with this text instead of an answer",
}
UNITS = {"temperature_2m_max": "°C", "rain_sum": "mm"}
MOST_DAYS = 366


class Upstream:
    """A running upstream.

    Attributes:
        url: where it listens, without a slash at the end.
    """

    def __init__(self, url: str, script: Sequence[Step]) -> None:
        self.url = url
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._script = deque(_checked(script))
        self._requests = 0
        self._messages: list[Any] = []

    @property
    def requests(self) -> int:
        """Requests to the weather API so far, the failed ones included."""
        with self._lock:
            return self._requests

    @property
    def messages(self) -> list[Any]:
        """JSON documents posted to the webhook so far."""
        with self._lock:
            return list(self._messages)

    def misbehave(self, script: Sequence[Step]) -> None:
        """Adds steps to the script of a running upstream."""
        steps = _checked(script)
        with self._lock:
            self._script.extend(steps)

    def next_step(self) -> Step:
        """Counts a request and says what happens to it; empty: it is answered."""
        with self._lock:
            self._requests += 1
            return self._script.popleft() if self._script else {}

    def received(self, message: Any) -> None:
        """Keeps a message that was posted to the webhook."""
        with self._lock:
            self._messages.append(message)


@contextmanager
def serve_upstream(script: Sequence[Step] = (), port: int = 0) -> Iterator[Upstream]:
    """Serves on loopback until the block ends.

    `GET /v1/archive` is the weather and follows the script, one step per request, then is healthy.
    `GET /requests` says how many those were. `POST /webhook` keeps a JSON document, `GET /webhook`
    lists them; neither uses up the script.

    Args:
        script: see STEPS.
        port: 0 chooses a free one.

    Raises:
        SettingsError: a step that does not exist, named.
    """
    server = _Server(("127.0.0.1", port), _Handler)
    try:
        server.upstream = Upstream(f"http://127.0.0.1:{server.server_port}", script)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.upstream
        finally:
            server.upstream.closing.set()
            server.shutdown()
            thread.join()
    finally:
        server.server_close()


def archive(start: date, end: date, variables: Sequence[str]) -> dict[str, Any]:
    """The daily weather of some days, both included, as Open-Meteo's archive answers.

    Raises:
        ValueError: unknown variable, or days in the wrong order or too many.
    """
    for name in variables:
        if name not in UNITS:
            raise ValueError(f"Cannot initialize daily variable from invalid String value {name}")
    if not 0 <= (end - start).days < MOST_DAYS:
        raise ValueError(f"start_date {start} to end_date {end} is not 1 to {MOST_DAYS} days")
    days = [start + timedelta(days=number) for number in range((end - start).days + 1)]
    weather = [weather_on(day) for day in days]
    columns = {
        "temperature_2m_max": [day.temperature_max for day in weather],
        "rain_sum": [day.rain_sum for day in weather],
    }
    return {
        "latitude": 52.52,
        "longitude": 13.42,
        "timezone": "GMT",
        "daily_units": {"time": "iso8601"} | {name: UNITS[name] for name in variables},
        "daily": {"time": [day.isoformat() for day in days]}
        | {name: columns[name] for name in variables},
    }


def _checked(script: Sequence[Step]) -> list[Step]:
    for number, step in enumerate(script):
        kinds = [key for key in step if key in STEPS]
        unknown = [key for key in step if key not in STEPS and key != "retry_after"]
        if len(kinds) != 1 or unknown or ("retry_after" in step and kinds != ["status"]):
            raise SettingsError(
                f"step {number} of the upstream's script is {dict(step)}; write one of "
                f"{', '.join(STEPS)}, and retry_after only beside a status"
            )
    return list(script)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    upstream: Upstream

    def shutdown_request(self, request: Any) -> None:
        # Only close: the usual shutdown would say goodbye before a connection that is to be reset.
        self.close_request(request)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        upstream = self.server.upstream
        path = urlsplit(self.path).path
        if path == "/v1/archive":
            # A client that has given up does not read the answer; that is its right.
            with suppress(ConnectionError):
                self._follow(upstream.next_step())
        elif path == "/requests":
            self._answer(200, _json({"requests": upstream.requests}))
        elif path == "/webhook":
            self._answer(200, _json(upstream.messages))
        else:
            self._answer(404, _json({"error": True, "reason": f"{path} is not served here"}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if urlsplit(self.path).path != "/webhook":
            self._answer(404, _json({"error": True, "reason": "post to /webhook"}))
            return
        try:
            self.server.upstream.received(json.loads(body))
        except ValueError:
            self._answer(400, _json({"error": True, "reason": "the body is not JSON"}))
            return
        self._answer(200, _json({"ok": True}))

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what was asked is counted, not printed."""

    def _follow(self, step: Step) -> None:
        if "reset" in step:
            no_goodbye = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_goodbye)
        elif "status" in step:
            headers = {"Retry-After": str(step["retry_after"])} if "retry_after" in step else {}
            reason = _json({"error": True, "reason": "as the script says"})
            self._answer(int(step["status"]), reason, headers)
        elif "body" in step:
            self._answer(200, str(step["body"]).encode())
        else:
            self.server.upstream.closing.wait(float(step.get("hang", 0)))
            status, body = self._weather()
            self._answer(status, body, cut="truncate" in step)

    def _weather(self) -> tuple[int, bytes]:
        query = parse_qs(urlsplit(self.path).query)
        try:
            start, end = (
                date.fromisoformat(query[key][0]) if key in query else _missing(key)
                for key in ("start_date", "end_date")
            )
            variables = ",".join(query.get("daily", [])).split(",")
            return 200, _json(archive(start, end, [name for name in variables if name]))
        except ValueError as error:
            return 400, _json({"error": True, "reason": str(error)})

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)


def _missing(key: str) -> date:
    raise ValueError(f"Parameter {key} is missing")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def main() -> None:
    """Serves until it is interrupted; prints the address first."""
    parser = argparse.ArgumentParser(description="A weather API that fails on a script.")
    parser.add_argument("--port", type=int, default=8086)
    parser.add_argument("--script", type=Path, help="JSON list of steps")
    options = parser.parse_args()
    script = json.loads(options.script.read_text()) if options.script else []
    # A shell that starts it in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with serve_upstream(script, options.port) as upstream, suppress(KeyboardInterrupt):
        print(upstream.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
