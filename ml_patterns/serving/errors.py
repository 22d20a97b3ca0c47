"""What the model server says no to.

Belongs here: the refusals of a request, with their status codes. Does not: how they are written on
the wire (`app.py`).
"""

from http import HTTPStatus

from ml_patterns.errors import MLPatternsError

_LONGEST_MESSAGE = 500


class RequestError(MLPatternsError):
    """A request that is not answered with predictions; the sentence goes to the client.

    It is cut where a stranger's name or shape would make it long.
    """

    def __init__(self, status: HTTPStatus, message: str, retry_after: int | None = None) -> None:
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}…"
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def bad_request(message: str) -> RequestError:
    """The request breaks the protocol or does not fit the model."""
    return RequestError(HTTPStatus.BAD_REQUEST, message)


def not_found(message: str) -> RequestError:
    """There is no such model or version."""
    return RequestError(HTTPStatus.NOT_FOUND, message)


def too_large(message: str) -> RequestError:
    """More rows or bytes than one request may have."""
    return RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def unavailable(message: str, retry_after: int = 1) -> RequestError:
    """It cannot be answered now; the client is told when to try again (seconds)."""
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after)


def too_many(message: str, retry_after: int = 1) -> RequestError:
    """More requests at a time than the server takes; the client is told when to try again."""
    return RequestError(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after)
