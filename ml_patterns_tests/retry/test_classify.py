"""Promise: retry, breaker and Dagster agree on what is transient."""

import asyncio
import concurrent.futures

import pytest
import requests
import urllib3.exceptions
from pybreaker import CircuitBreakerError

from ml_patterns.errors import SettingsError
from ml_patterns.retry.classify import (
    HttpStatusError,
    InvalidAnswerError,
    Outcome,
    classify,
    server_forbids_retry,
)


def status(code: int, **headers: str) -> HttpStatusError:
    return HttpStatusError("http://upstream", code, headers)


TRANSIENT = [
    *(status(code) for code in (408, 425, 429, 500, 502, 503, 504, 507, 599)),
    requests.ConnectionError("refused"),
    requests.ConnectTimeout("slow"),
    requests.ReadTimeout("slow"),
    requests.exceptions.ChunkedEncodingError("cut"),
    urllib3.exceptions.ProtocolError("cut"),
    urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
    ConnectionResetError(),
    TimeoutError(),
]
PERMANENT = [
    *(status(code) for code in (301, 400, 401, 403, 404, 409, 410, 413, 422, 501)),
    requests.exceptions.SSLError("certificate"),
    requests.exceptions.InvalidURL("no"),
    InvalidAnswerError("html"),
    SettingsError("no such setting"),
    KeyError("a bug of ours"),
    ZeroDivisionError(),
    MemoryError(),
]
NEITHER = [
    KeyboardInterrupt(),
    SystemExit(1),
    GeneratorExit(),
    asyncio.CancelledError(),
    concurrent.futures.CancelledError(),
]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        *((error, Outcome.TRANSIENT) for error in TRANSIENT),
        *((error, Outcome.PERMANENT) for error in PERMANENT),
        *((error, Outcome.NEITHER) for error in NEITHER),
    ],
    ids=repr,
)
def test_every_failure_has_one_meaning(error: BaseException, outcome: Outcome) -> None:
    assert classify(error) is outcome


def test_an_open_circuit_is_not_asked_again_by_the_same_request() -> None:
    assert classify(CircuitBreakerError("open")) is not Outcome.TRANSIENT


def test_a_server_can_forbid_retries_and_still_have_failed() -> None:
    forbidden = status(503, **{"X-Should-Retry": "False"})
    assert server_forbids_retry(forbidden)
    assert classify(forbidden) is Outcome.TRANSIENT
    assert not server_forbids_retry(status(503))
