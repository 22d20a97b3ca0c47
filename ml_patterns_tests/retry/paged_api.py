"""An API on loopback that answers in pages, by number or by the `Link` header, and may stop short.

`/items?region=R&day=D&page=N` gives three items a page, seven in all, with the total.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ITEMS, PER_PAGE = 7, 3


@dataclass
class PagedApi:
    """A running API.

    Attributes:
        faults: (region, page) -> statuses or bodies given first, one per request.
        total: what it says all pages hold.
        next_url: overrides where the `Link` header leads.
        asked: (region, page) of every request.
    """

    url: str
    faults: dict[tuple[str, int], list[object]] = field(default_factory=dict)
    total: int = ITEMS
    next_url: str | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def serve_pages() -> Iterator[PagedApi]:
    """Serves until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    api = PagedApi(f"http://127.0.0.1:{server.server_port}")
    server.api = api  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        api: PagedApi = self.server.api  # type: ignore[attr-defined]
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        region, page = query.get("region", ""), int(query.get("page", 1))
        api.asked.append((region, page))
        faults = api.faults.get((region, page))
        if faults:
            fault = faults.pop(0)
            if isinstance(fault, int):
                self._answer(fault, b"{}")
            else:
                self._answer(200, str(fault).encode())
            return
        numbers = range(ITEMS)[(page - 1) * PER_PAGE : page * PER_PAGE]
        items = [{"id": number, "day": query["day"]} for number in numbers]
        body = json.dumps({"items": items, "total": api.total}).encode()
        follows = page * PER_PAGE < ITEMS
        relative = f"?region={region}&day={query['day']}&page={page + 1}"
        link = f'<{api.next_url or relative}>; rel="next"' if follows else None
        self._answer(200, body, link)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _answer(self, status: int, body: bytes, link: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if link:
            self.send_header("Link", link)
        self.end_headers()
        self.wfile.write(body)
