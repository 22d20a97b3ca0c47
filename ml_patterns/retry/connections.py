"""HTTP connections whose time limit holds for the whole answer.

Belongs here: the limit on an answer's head and body together. Does not: requests (`http.py`).

A socket's time-out starts anew with every byte, so a server that sends one byte a second holds its
caller for as long as it likes, in the headers as well as in the body. Here every read gets only
what is left of the time that the answer as a whole may take.
"""

import http.client
import io
import socket
import time
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection


class _PunctualReader(io.RawIOBase):
    """What a socket sends, until the time is over."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, ends: float) -> None:
        self._raw, self._sock, self._ends = raw, sock, ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took longer than it may")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PunctualResponse(http.client.HTTPResponse):
    """An answer that begins when urllib3 has set the socket's time-out, and ends within it."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        limit = sock.gettimeout()
        if limit is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_PunctualReader(raw, sock, time.monotonic() + limit))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _PunctualResponse


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = _PunctualResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class PunctualAdapter(requests.adapters.HTTPAdapter):
    """Keeps connections open, never retries, and ends an answer in time.

    Args:
        connections: kept open per host.
    """

    def __init__(self, connections: int) -> None:
        # urllib3's retries are off: they would multiply with ours and escape the budget.
        super().__init__(max_retries=0, pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Makes the pool of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the pool of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
