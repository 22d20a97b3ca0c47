"""What happens to every request, whatever its route.

Belongs here: request id, bearer token, access log, request metrics. Does not: the routes
(`app.py`).
"""

import hmac
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_patterns.serving.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-Id"
NOTES = "ml_patterns.notes"
"""Key of the scope under which a route leaves what the access log should say."""

_OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
_GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_log = logging.getLogger("ml_patterns.serving.access")


class Doorkeeper:
    """Names each request, asks for the token, and writes down how it went.

    Args:
        token: what `Authorization: Bearer` must carry; None: nothing. Liveness and readiness are
            always open, so that an orchestrator's probes need no secret.
        own_doors: beginnings of paths that ask for people, not for this token, themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        token: str | None,
        own_doors: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._token = None if token is None else token.encode()
        self._own_doors = own_doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        notes: dict[str, Any] = {"request_id": request_id}
        scope[NOTES] = notes
        status = 500

        async def remember(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            if self._may_pass(scope, headers):
                await self._app(scope, receive, remember)
            else:
                refusal = JSONResponse(
                    {"error": "a bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"}
                )
                await refusal(scope, receive, remember)
        finally:
            self._write_down(scope, notes, status, time.perf_counter() - started)

    def _may_pass(self, scope: Scope, headers: Headers) -> bool:
        if self._token is None or scope["path"] in _OPEN_PATHS:
            return True
        if any(f"{scope['path']}/".startswith(f"{door}/") for door in self._own_doors):
            return True
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(), self._token
        )

    def _write_down(self, scope: Scope, notes: dict[str, Any], status: int, seconds: float) -> None:
        # The route's template, not the path: a stranger's paths must not become label values.
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if _log.isEnabledFor(logging.INFO):
            entry = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 6),
            }
            _log.info(json.dumps(entry | notes))
