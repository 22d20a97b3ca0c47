"""Promise: a store that is locked or full is said, takes no request with it, and heals."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_patterns.circuit_breaker.breaker import SharedBreaker
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.retry.classify import HttpStatusError
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.circuit_breaker.conftest import Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import always, serve_models
from ml_patterns_tests.retry.virtual import VirtualTime


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's long write transaction."""
    connection = sqlite3.connect(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def test_a_locked_database_fails_no_request_and_stalls_none(deployment: Deployment) -> None:
    with serve_models() as server, locked(deployment.house.folder / "state.sqlite"):
        client = deployment.client(server.url)
        began = time.monotonic()
        live = client.predict("deliveries", "eu", parcels(2))
        server.behaviour = always(503)
        degraded = [client.predict("deliveries", "eu", parcels(2)) for _ in range(5)]
        took = time.monotonic() - began
        assert server.calls == 1 + 5, "the local breaker opened"
    assert (live["source"] == "live").all()
    assert all(answers["prediction"].notna().all() for answers in degraded)
    assert "locked" in str(client.breaker.storage.local_because)
    # Not speed: waiting for the writer as everybody else does would take 30 s each time.
    assert took < 30


def fail() -> None:
    raise HttpStatusError("http://server", 503, {})


def test_what_was_known_goes_on_to_hold_and_is_shared_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, virtual = tmp_path / "state.sqlite", VirtualTime()
    store = OperationalStore(engine_for(f"sqlite:///{path}"))
    breaker = SharedBreaker(
        "server", store, fail_max=3, cached_for=0.0, clock=virtual.now, monotonic=virtual.monotonic
    )
    for _ in range(2):
        with pytest.raises(HttpStatusError):
            breaker.call(fail)
    with locked(path):
        with pytest.raises(HttpStatusError):
            breaker.call(fail)
        assert breaker.current_state == "open", "two shared failures and a local one"
    virtual.sleep(6)
    assert breaker.current_state == "closed", "what the fleet believes"
    assert breaker.storage.local_because is None
    assert "is shared again" in caplog.text


def test_a_full_disk_leaves_a_local_breaker(tmp_path: Path) -> None:
    engine = engine_for(f"sqlite:///{tmp_path / 'state.sqlite'}")
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count = {pages}")
        with contextlib.suppress(sqlite3.OperationalError):
            raw.execute("CREATE TABLE filler (x)")
            for _ in range(1000):
                raw.execute("INSERT INTO filler VALUES (zeroblob(4000))")
    breaker = SharedBreaker("server" * 2000, OperationalStore(engine), fail_max=3, cached_for=0.0)
    for _ in range(3):
        with pytest.raises(HttpStatusError):
            breaker.call(fail)
    assert breaker.current_state == "open"
    assert "full" in str(breaker.storage.local_because)
