"""One HTTP attempt: a complete answer in time, or an error that `classify` understands.

Belongs here: sessions without retries of their own, one request and its whole answer. Does not:
asking again (`caller.py`), how the time limit is kept (`connections.py`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from ml_patterns.retry.classify import HttpStatusError
from ml_patterns.retry.connections import PunctualAdapter

IDEMPOTENCY_KEY = "Idempotency-Key"
_DETAIL = 200
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# For requests, None takes a proxy of the environment away; its type stubs do not know.
_NO_PROXY: Any = {"http": None, "https": None, "all": None}


@dataclass(frozen=True)
class Answer:
    """A successful answer, whole.

    Attributes:
        headers: as they came; names in any case.
        next_url: where the `Link` header says the next page is (RFC 8288); None: nowhere.
    """

    body: bytes
    headers: Mapping[str, str]
    next_url: str | None = None


def http_session(connections: int = 4) -> requests.Session:
    """A keep-alive session that never retries.

    Args:
        connections: kept open per host.
    """
    session = requests.Session()
    adapter = PunctualAdapter(connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def idempotency_key(*parts: str | bytes) -> str:
    """The same key for the same request, whoever repeats it: attempt, step or run."""
    whole = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(whole).hexdigest()[:32]


def fetch(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """A successful answer, whole. Redirects are not followed: they would take our headers along.

    Args:
        session: from `http_session`.
        timeout: seconds for connecting, the answer's head, and all of its body together.

    Raises:
        HttpStatusError: the status is not 2xx.
        requests.RequestException, urllib3.exceptions.HTTPError: the connection failed, the answer
            came too slowly, or its body is shorter than announced.
    """
    answer = session.request(
        method,
        url,
        headers=dict(headers or {}),
        data=body,
        timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type] # requests passes it on
        stream=True,
        allow_redirects=False,
        # A proxy for the world outside must not be asked for this machine's own servers.
        proxies=_NO_PROXY if urlsplit(url).hostname in _LOOPBACK else None,
    )
    with answer:
        content: bytes = answer.raw.read(decode_content=True)
        if not 200 <= answer.status_code <= 299:
            detail = content[:_DETAIL].decode(errors="replace").strip()
            if answer.is_redirect:
                detail = f"it moved to {answer.headers['location']}; put that into the settings"
            raise HttpStatusError(url, answer.status_code, answer.headers, detail)
    next_url = answer.links.get("next", {}).get("url")
    return Answer(content, answer.headers, next_url)
