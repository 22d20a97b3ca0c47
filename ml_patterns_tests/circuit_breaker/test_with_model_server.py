"""Promise: the client and our own model server agree, and survive each other's absence."""

import numpy as np
import pytest

from ml_patterns.storage.card import encode
from ml_patterns_tests.circuit_breaker.conftest import Deployment, parcels
from ml_patterns_tests.serving.conftest import FEATURES, running_server


def test_live_answers_are_the_champions(deployment: Deployment) -> None:
    frame = parcels(50)
    frame.loc["row-3", "distance"] = np.nan
    frame.loc["row-4", "carrier"] = None
    expected = deployment.house.expected("eu", 1, encode(frame, FEATURES))
    with running_server(deployment.house) as server:
        client = deployment.client(server.url, request_timeout="10s", deadline="20s", batch_rows=20)
        answers = client.predict("deliveries", "eu", frame)
        assert (answers["source"] == "live").all(), answers["reason"].unique()
        np.testing.assert_allclose(answers["prediction"], expected, rtol=0, atol=1e-12)

        deployment.house.deploy("eu", seed=2)
        newer = client.predict("deliveries", "eu", frame)
        assert (newer["source"] == "live").all(), newer["reason"].unique()
        assert (newer["model_version"] == "2").all()
    gone = client.predict("deliveries", "eu", frame)
    assert (gone["source"] == "cache").all()
    assert gone["prediction"].tolist() == newer["prediction"].tolist()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_feature_is_missing_not_a_broken_request(
    deployment: Deployment, value: float
) -> None:
    frame = parcels(2)
    frame.loc["row-0", "distance"] = value
    with running_server(deployment.house) as server:
        client = deployment.client(server.url, request_timeout="10s", deadline="20s")
        answers = client.predict("deliveries", "eu", frame)
    assert (answers["source"] == "live").all(), answers["reason"].unique()
