"""Which failures are transient: one answer for retry, breaker and Dagster.

Belongs here: `classify`, and the errors that carry an HTTP answer. Does not: how long to wait
(`waits.py`), whether to ask again (`caller.py`).
"""

import asyncio
import concurrent.futures
from collections.abc import Mapping
from enum import Enum

import requests
import urllib3.exceptions

from ml_patterns.errors import MLPatternsError

TRANSIENT_STATUSES = frozenset({408, 425, 429})
_NOT_IMPLEMENTED = 501


class Outcome(Enum):
    """What a failure says about asking again."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    NEITHER = "neither"


class HttpStatusError(MLPatternsError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        headers: the answer's headers, names in lower case.
    """

    def __init__(self, url: str, status: int, headers: Mapping[str, str], detail: str = "") -> None:
        super().__init__(f"{url} answered {status}{': ' + detail if detail else ''}")
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}


class InvalidAnswerError(MLPatternsError):
    """The server answered 200 with something that is no answer; asking again will not mend it."""


_NEVER_A_FAILURE = (
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)
_BAD_REQUEST = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)
_CONNECTION = (
    ConnectionError,
    TimeoutError,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)


def classify(error: BaseException) -> Outcome:
    """Whether a failure passes (ask again, count it), stays (do not), or is none at all.

    Transient are failed connections, timeouts, truncated bodies, and the statuses 408, 425, 429
    and 5xx but 501. Interrupts and cancellations are neither. All else is permanent: 4xx, an answer
    that is no answer, a certificate that does not fit, and our own bugs.
    """
    if isinstance(error, _NEVER_A_FAILURE) or not isinstance(error, Exception):
        return Outcome.NEITHER
    if isinstance(error, HttpStatusError):
        transient = error.status in TRANSIENT_STATUSES or (
            500 <= error.status <= 599 and error.status != _NOT_IMPLEMENTED
        )
        return Outcome.TRANSIENT if transient else Outcome.PERMANENT
    if isinstance(error, _BAD_REQUEST):
        return Outcome.PERMANENT
    return Outcome.TRANSIENT if isinstance(error, _CONNECTION) else Outcome.PERMANENT


def server_forbids_retry(error: BaseException) -> bool:
    """Whether the server said `x-should-retry: false`; the failure still counts as one."""
    return (
        isinstance(error, HttpStatusError)
        and error.headers.get("x-should-retry", "").strip().lower() == "false"
    )
