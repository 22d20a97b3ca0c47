"""The OpenAPI document tells the truth: schemathesis asks what it allows, and what it forbids."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip(
    "schemathesis", reason="needs schemathesis: uv pip install schemathesis"
)

schemathesis.checks.load_all_checks()
POSITIVE = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
MODELS = {"model": "deliveries.eu", "version": "1"}


@pytest.mark.parametrize("real_model", [False, True])
def test_whatever_is_asked_is_answered_as_documented(
    client: httpx.Client, real_model: bool
) -> None:
    """Every operation, with any model names and with one that exists."""
    document = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    asked = 0
    for result in document.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal asked
            if real_model:
                case.path_parameters = {
                    name: MODELS[name] for name in case.path_parameters or {} if name in MODELS
                }
            # A tensor's data must fit its shape and its model, which a JSON schema cannot say.
            case.call_and_validate(excluded_checks=[POSITIVE])
            asked += 1

        ask()
    assert asked > 100
