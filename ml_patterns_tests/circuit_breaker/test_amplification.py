"""Promise: whatever fails, the server gets at most a tenth more requests than were asked of us."""

from datetime import UTC, datetime

import pandas as pd
import pytest

from ml_patterns.circuit_breaker.client import ModelClient
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns_tests.circuit_breaker.conftest import QUICK, Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import serve_models

REQUESTS = 1000
NEVER_OPENS = {"fail_max": 10**6, "minimum_calls": 10**6, "reset_timeout": "60s"}


@pytest.mark.parametrize("breaker", [NEVER_OPENS, QUICK["breaker"]], ids=["budget", "breaker"])
def test_a_total_outage_is_not_amplified(
    deployment: Deployment, breaker: dict[str, object]
) -> None:
    """The budget alone keeps the promise; with the breaker the server is left almost in peace."""
    settings = PredictionsSettings.model_validate(QUICK | {"breaker": breaker, "batch_rows": 1})
    with serve_models(lambda _rows: 503) as server:
        client = ModelClient(
            deployment.engine,
            ArtifactStore(str(deployment.house.folder / "artifacts")),
            server.url,
            settings,
            # One minute, however slow the machine: the budget's floor counts per minute.
            clock=lambda: datetime(2026, 6, 1, 12, tzinfo=UTC),
        )
        answers = pd.concat(
            client.predict("deliveries", "eu", parcels(100, seed)) for seed in range(10)
        )
        assert server.calls <= 1.1 * REQUESTS
        assert server.calls == client.accounting.backend_calls
    assert len(answers) == client.accounting.requests == REQUESTS
    assert answers["prediction"].notna().all()
    assert (answers["source"] == "champion").all()
    if breaker is NEVER_OPENS:
        assert server.calls >= REQUESTS
    else:
        assert server.calls == 5


def test_a_third_of_failures_is_not_amplified_either(deployment: Deployment) -> None:
    calls = iter(range(10**6))
    with serve_models(lambda _rows: 503 if next(calls) % 3 == 0 else None) as server:
        client = deployment.client(server.url, batch_rows=1)
        client.predict("deliveries", "eu", parcels(300))
        assert 300 < server.calls <= 1.1 * 300 + 10
