"""Live answers: asking the model server, and why it did not answer.

Belongs here: the layers around one request, splitting by size, bisecting what is refused. Does not:
what answers instead (`client.py`), what a request looks like (`protocol.py`).

The order is deadline( retry + budget( breaker( bulkhead( attempt timeout( HTTP ))))).
"""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import requests

from ml_patterns.circuit_breaker.answers import Answers
from ml_patterns.circuit_breaker.breaker import CircuitOpenError, SharedBreaker
from ml_patterns.circuit_breaker.dialect import Dialect
from ml_patterns.circuit_breaker.protocol import infer_url, read_answer
from ml_patterns.errors import MLPatternsError
from ml_patterns.retry.caller import GaveUpError, RetryingCaller, Tally
from ml_patterns.retry.classify import HttpStatusError, InvalidAnswerError
from ml_patterns.retry.http import IDEMPOTENCY_KEY, Answer, fetch, idempotency_key

_ROW_AT_FAULT = frozenset({400, 413, 422})
_GONE = 404
_MOST_REFUSALS = 64

CIRCUIT_OPEN = "circuit open"
UNAVAILABLE = "unavailable"
BUSY = "busy"
NOT_SERVED = "version not served"


def is_outage(reason: str) -> bool:
    """Whether a healthy server would answer the row that fell back for this reason."""
    return reason.startswith((CIRCUIT_OPEN, UNAVAILABLE, BUSY, NOT_SERVED))


class BulkheadFullError(MLPatternsError):
    """This process already has as many requests under way as it may."""


class VersionGoneError(MLPatternsError):
    """The server does not serve this version."""


@dataclass
class Accounting:
    """What a client did so far.

    Attributes:
        requests: batches, and parts of refused batches.
        backend_calls: HTTP attempts that left this process.
        refused_by_circuit: attempts that the breaker did not let through.
        waited: seconds between attempts.
        transitions: of the breaker, as seen from here.
    """

    requests: int = 0
    backend_calls: int = 0
    refused_by_circuit: int = 0
    waited: float = 0.0
    transitions: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def request_ended(self, tally: Tally, refused: int) -> None:
        """Adds a request, whatever its end."""
        with self._lock:
            self.requests += 1
            self.backend_calls += tally.attempts
            self.refused_by_circuit += refused
            self.waited += tally.waited


@dataclass(frozen=True)
class LiveModels:
    """Asks the model server.

    Attributes:
        batch_rows: most rows of one request.
        bulkhead: one entry per request that this process may have under way.
        dialect: how the server wants its tensors.
    """

    model_url: str
    session: requests.Session
    caller: RetryingCaller
    breaker: SharedBreaker
    batch_rows: int
    bulkhead: threading.BoundedSemaphore
    accounting: Accounting
    dialect: Dialect

    def ask(self, model: str, version: str, matrix: np.ndarray, answers: Answers) -> None:
        """Answers the waiting rows, or writes down why not.

        Raises:
            VersionGoneError: the server does not serve this version; some rows may be answered.
        """
        waiting = answers.waiting
        for start in range(0, len(waiting), self.batch_rows):
            batch = waiting[start : start + self.batch_rows]
            self._ask_batch(model, version, matrix, batch, answers)

    def _ask_batch(
        self, model: str, version: str, matrix: np.ndarray, batch: np.ndarray, answers: Answers
    ) -> None:
        """One batch; what the server refuses is halved until the rows at fault are alone.

        A server that refuses everything would cost two requests per row: after a while the rest of
        the batch falls back together.
        """
        parts, refusals = [batch], 0
        while parts:
            part = parts.pop()
            request = _Request(self, model, version, matrix[part])
            try:
                given = request.answer()
            except HttpStatusError as error:
                if error.status == _GONE:
                    raise VersionGoneError(str(error)) from error
                answers.reason[part] = f"refused: HTTP {error.status}"
                if error.status in _ROW_AT_FAULT and len(part) > 1:
                    refusals += 1
                    if refusals <= _MOST_REFUSALS:
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
            except Exception as error:
                # Every row is answered whatever happens to its request; the reason names the bug.
                answers.reason[part] = _reason(error)
            else:
                answers.reason[part] = np.where(
                    np.isnan(given), "invalid answer: no probability", ""
                )
                answers.give(part, given, "live", version=version)
            finally:
                answers.attempts[part] += request.tally.attempts


class _Request:
    """One request through all layers."""

    def __init__(self, live: LiveModels, model: str, version: str, matrix: np.ndarray) -> None:
        self.tally = Tally()
        self._live, self._matrix, self._refused = live, matrix, 0
        self._url = infer_url(live.model_url, model, version)
        # Of what is asked, not of who asks or how it is written: every layer that repeats it sends
        # the same key.
        self._key = idempotency_key(self._url, str(matrix.shape), matrix.tobytes())

    def answer(self) -> np.ndarray:
        try:
            answer = self._live.caller.call(self._attempt, self.tally)
            return read_answer(answer.body, answer.headers, len(self._matrix))
        finally:
            self._live.accounting.request_ended(self.tally, self._refused)

    def _attempt(self, timeout: float) -> Answer:
        try:
            answer = self._live.breaker.call(self._send, timeout)
        except (CircuitOpenError, BulkheadFullError) as error:
            self.tally.attempts -= 1  # it never left this process
            self._refused += isinstance(error, CircuitOpenError)
            raise
        except HttpStatusError:
            self._live.dialect.failed()
            raise
        self._live.dialect.answered()
        return answer

    def _send(self, timeout: float) -> Answer:
        ends = time.monotonic() + timeout
        if not self._live.bulkhead.acquire(timeout=timeout):
            raise BulkheadFullError("too many requests of this process are under way")
        try:
            request = self._live.dialect.request(self._matrix)
            return fetch(
                self._live.session,
                "POST",
                self._url,
                timeout=max(0.001, ends - time.monotonic()),
                headers={**request.headers, IDEMPOTENCY_KEY: self._key},
                body=request.body,
            )
        finally:
            self._live.bulkhead.release()


def _reason(error: Exception) -> str:
    if isinstance(error, CircuitOpenError):
        return CIRCUIT_OPEN
    if isinstance(error, GaveUpError):
        last = error.last
        cause = f"HTTP {last.status}" if isinstance(last, HttpStatusError) else type(last).__name__
        return f"{UNAVAILABLE}: {cause}, no retry left ({error.why})"
    if isinstance(error, BulkheadFullError):
        return f"{BUSY}: bulkhead full"
    if isinstance(error, InvalidAnswerError):
        return f"invalid answer: {error}"
    return f"error: {type(error).__name__}: {error}"
