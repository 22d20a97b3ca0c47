"""Connections that behave badly.

Belongs here: headers that do not end, and answers to requests whose body nobody read. Does not:
what a body may hold (`app.py`, `protocol.py`).
"""

import asyncio
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEADER_BYTES = 64 * 1024
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n"


def impatient(patience: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, closing connections whose headers do not arrive, or do not end.

    uvicorn bounds idle connections only after their first answer, and headers not at all; without
    this, connections that send a header a minute (slowloris) would stay for ever, and one that
    sends headers without end would fill the memory.

    Args:
        patience: seconds from the connection, or a request's first byte, to its last header.
    """

    class ImpatientProtocol(HttpToolsProtocol):
        _patience: asyncio.TimerHandle | None = None
        _header_bytes: int | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._header_bytes is not None:
                # Not the chunk in which they begin: it may be the end of a body before them.
                self._header_bytes += len(data)
            super().data_received(data)
            if (
                self._header_bytes is not None
                and self._header_bytes > _MOST_HEADER_BYTES
                and not self.transport.is_closing()
            ):
                self.transport.write(_TOO_LARGE)
                self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait()
            self._header_bytes = 0

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            self._header_bytes = None
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._stop_waiting()
            self._patience = self.loop.call_later(patience, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return ImpatientProtocol


class Lingering:
    """Closes a connection whose request was answered before its body was read.

    The rest of such a body would otherwise be received, without a bound, only to be thrown away.
    Closing at once is no better: bytes that meet a closed socket make the system reset the
    connection, and the client may lose the answer. So the answer goes out whole, what still comes
    is thrown away for a moment, and then the connection ends (nginx's `lingering_close`).

    Args:
        patience: seconds that what still comes is thrown away for.
        most_bytes: of it that are thrown away.
    """

    def __init__(self, app: ASGIApp, *, patience: float, most_bytes: int) -> None:
        self._app = app
        self._patience = patience
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        unread = True
        lingers = False

        async def read() -> Message:
            nonlocal unread
            message = await receive()
            # A disconnect has no `more_body` either: nothing more comes.
            unread = message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            nonlocal lingers
            if message["type"] == "http.response.start":
                expects = "Expect" in Headers(scope=scope)
                if unread and not expects:
                    # A small body has arrived by now; such a connection may stay.
                    await _discard(read, 0, self._most_bytes)
                if unread:
                    MutableHeaders(scope=message)["Connection"] = "close"
                    # Who waits for "100 Continue" sends no body after a refusal.
                    lingers = not expects
            if lingers and message["type"] == "http.response.body":
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, read, answer)
        # After the application, whose metrics and log are not about this.
        if lingers:
            await _discard(read, self._patience, self._most_bytes)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers


async def _discard(read: Receive, patience: float, most_bytes: int) -> None:
    size = 0
    try:
        async with asyncio.timeout(patience):
            while size < most_bytes:
                message = await read()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
