"""Promise: an answer is whole and in time, whatever the server does, or it is a failure."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ml_patterns.retry.classify import HttpStatusError, Outcome, classify
from ml_patterns.retry.http import fetch, http_session

PAUSE = 0.02


@contextlib.contextmanager
def serve_bytes(*pieces: bytes, for_ever: bytes = b"") -> Iterator[str]:
    """Sends the pieces to whoever connects, then repeats the last one until the block ends."""
    closing = threading.Event()

    def serve() -> None:
        while not closing.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    for piece in pieces:
                        connection.sendall(piece)
                    while for_ever and not closing.wait(PAUSE):
                        connection.sendall(for_ever)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            closing.set()
            thread.join()


TRICKLES = {
    "status line": ([b"HTTP/1.1 "], b"2"),
    "one header": ([b"HTTP/1.1 200 OK\r\nX-Slow: "], b"z"),
    "many headers": ([b"HTTP/1.1 200 OK\r\n"], b"X: 1\r\n"),
    "body": ([b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"], b"z"),
    "chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], b"1\r\nz\r\n"),
    "chunk length": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], b"0"),
}


@pytest.mark.parametrize("where", TRICKLES)
def test_an_answer_that_trickles_ends_in_time(where: str) -> None:
    """Every byte once started the socket's time-out anew: such a call never came back."""
    pieces, for_ever = TRICKLES[where]
    with serve_bytes(*pieces, for_ever=for_ever) as url, http_session() as session:
        began = time.monotonic()
        with pytest.raises(Exception) as caught:
            fetch(session, "GET", url, timeout=0.3)
        # Not speed: without the limit it would not end at all.
        assert time.monotonic() - began < 10
    assert classify(caught.value) is Outcome.TRANSIENT


def test_the_time_limit_is_of_one_answer_not_of_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    closing = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(5):
                connection.recv(65536)
                closing.wait(0.1)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener, http_session() as session:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        answers = [fetch(session, "GET", url, timeout=0.4).body for _ in range(5)]
        thread.join()
    assert answers == [b"ok"] * 5, "half a second over one kept-alive connection"


def test_a_redirect_does_not_take_our_headers_to_another_server() -> None:
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        there = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        moved = f"HTTP/1.1 302 Found\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode()
        with (
            serve_bytes(moved) as url,
            http_session() as session,
            pytest.raises(HttpStatusError, match=f"302: it moved to {there}"),
        ):
            fetch(session, "GET", url, timeout=2, headers={"X-Api-Key": "secret"})
        elsewhere.settimeout(0.01)
        with pytest.raises(TimeoutError):
            received.append(elsewhere.accept()[0].recv(1))
    assert received == []
