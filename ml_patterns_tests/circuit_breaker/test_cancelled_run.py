"""Promise: cancelling a Dagster run in the middle of its requests opens nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml_patterns.circuit_breaker.control import status
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.circuit_breaker.model_server import always, serve_models
from ml_patterns_tests.circuit_breaker.test_processes import await_that

RUN = """
import sys
import dagster as dg
from ml_patterns.circuit_breaker.breaker import SharedBreaker
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.retry.http import fetch, http_session
from ml_patterns.storage.operational import engine_for

@dg.asset
def asks():
    breaker = SharedBreaker("server", OperationalStore(engine_for(sys.argv[1])), fail_max=1)
    body = b'{"inputs": [{"shape": [1, 1], "data": [0.5]}]}'
    url = sys.argv[2] + "/v2/models/p.eu/versions/1/infer"
    breaker.call(lambda: fetch(http_session(), "POST", url, timeout=60, body=body))

dg.materialize([asks])
"""


@pytest.mark.parametrize(
    "cancel", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_cancelled_run_opens_nothing(tmp_path: Path, cancel: signal.Signals) -> None:
    """`fail_max` is 1: one counted failure would open the circuit."""
    url = f"sqlite:///{tmp_path / 'state.sqlite'}"
    engine = engine_for(url)
    with serve_models(always("hang")) as server:
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, url, server.url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            await_that(lambda: server.under_way == 1)
            run.send_signal(cancel)
            _, told = run.communicate(timeout=60)
        finally:
            run.kill()
            run.wait()
    assert "Interrupted" in told or "KeyboardInterrupt" in told
    assert OperationalStore(engine).read("server").state == "closed"
    assert status(engine) == []
