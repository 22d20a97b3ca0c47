"""One HTTP attempt: a complete answer in time, or an error that `classify` understands.

Belongs here: sessions without retries of their own, time limits over the whole body. Does not:
asking again (`caller.py`).
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from ml_patterns.retry.classify import HttpStatusError

IDEMPOTENCY_KEY = "Idempotency-Key"
_CHUNK = 1 << 16
_DETAIL = 200
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# For requests, None takes a proxy of the environment away; its type stubs do not know.
_NO_PROXY: Any = {"http": None, "https": None, "all": None}


def http_session(connections: int = 4) -> requests.Session:
    """A keep-alive session that never retries.

    urllib3's retries are off: they would multiply with ours and escape the budget.

    Args:
        connections: kept open per host.
    """
    session = requests.Session()
    adapter = HTTPAdapter(max_retries=0, pool_connections=1, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def idempotency_key(*parts: str) -> str:
    """The same key for the same request, whoever repeats it: attempt, step or run."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def fetch(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> bytes:
    """The body of a successful answer, whole.

    Args:
        timeout: seconds for connecting, the answer's head, and all of its body together.

    Raises:
        HttpStatusError: the status is not 2xx.
        TimeoutError: the body came too slowly.
        requests.RequestException, urllib3.exceptions.HTTPError: the connection failed, or the body
            is shorter than announced.
    """
    ends = monotonic() + timeout
    answer = session.request(
        method,
        url,
        headers=dict(headers or {}),
        data=body,
        timeout=timeout,
        stream=True,
        # A proxy for the world outside must not be asked for this machine's own servers.
        proxies=_NO_PROXY if urlsplit(url).hostname in _LOOPBACK else None,
    )
    with answer:
        content = bytearray()
        # One underlying read at a time: a body that trickles must not outlive the time limit.
        while chunk := answer.raw.read1(_CHUNK, decode_content=True):
            content += chunk
            if monotonic() > ends:
                raise TimeoutError(f"{url} had not sent its whole answer after {timeout:g} s")
        if not 200 <= answer.status_code <= 299:
            detail = bytes(content[:_DETAIL]).decode(errors="replace").strip()
            raise HttpStatusError(url, answer.status_code, answer.headers, detail)
    return bytes(content)
