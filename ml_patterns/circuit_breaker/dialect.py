"""Whether a model server gets its tensors as JSON or as bytes.

Belongs here: what is known of a server's extensions. Does not: bodies (`protocol.py`), sending them
(`live.py`).

A server that is down is asked for nothing extra: its metadata is read once, after its first answer.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np

from ml_patterns.circuit_breaker.protocol import (
    Request,
    binary_request,
    json_request,
    speaks_binary,
)
from ml_patterns.retry.classify import HttpStatusError

_LOG = logging.getLogger(__name__)


class Dialect:
    """JSON until the server has said that it reads binary tensor data, then that.

    Args:
        ask: reads the body of the server's metadata.
    """

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._binary: bool | None = None

    @property
    def binary(self) -> bool:
        """Whether the next request is a binary one."""
        return self._binary is True

    def request(self, matrix: np.ndarray) -> Request:
        """The request for a matrix, float64, shape (rows, features)."""
        return binary_request(matrix) if self.binary else json_request(matrix)

    def answered(self) -> None:
        """The server has just answered; the first time, it is asked what it can read."""
        if self._binary is not None or not self._lock.acquire(blocking=False):
            return
        try:
            if self._binary is None:
                self._binary = speaks_binary(self._ask())
        except HttpStatusError:
            self._binary = False
        except Exception as error:
            # Whatever that was, JSON goes on to work, and after the next answer we ask again.
            _LOG.info("the model server's metadata could not be read: %s", error)
        finally:
            self._lock.release()

    def failed(self) -> None:
        """The server did not like a request: perhaps another has taken its place."""
        if self._binary:
            self._binary = None
