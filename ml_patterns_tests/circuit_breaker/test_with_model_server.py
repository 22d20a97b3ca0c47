"""Promise: the client agrees with our own model server and with MLServer, in bytes and in JSON."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import mlserver
from ml_patterns.storage.encoding import encode
from ml_patterns_tests.circuit_breaker.conftest import Deployment, parcels
from ml_patterns_tests.serving.conftest import FEATURES, running_server


def test_live_answers_are_the_champions(deployment: Deployment) -> None:
    frame = parcels(50)
    frame.loc["row-3", "distance"] = np.nan
    frame.loc["row-4", "carrier"] = None
    expected = deployment.house.expected("eu", 1, encode(frame, FEATURES))
    with running_server(deployment.house) as server:
        client = deployment.client(server.url, request_timeout="10s", deadline="20s", batch_rows=20)
        first = client.predict("deliveries", "eu", frame)
        assert client.dialect.binary, "our server lists the extension"
        answers = client.predict("deliveries", "eu", frame)
        for given in (first, answers):
            assert (given["source"] == "live").all(), given["reason"].unique()
            np.testing.assert_array_equal(given["prediction"], expected)

        infinite = parcels(2)
        infinite.iloc[:, 0] = [np.inf, -np.inf]
        missing = client.predict("deliveries", "eu", infinite)
        assert (missing["source"] == "live").all(), "missing, not a broken request"

        deployment.house.deploy("eu", seed=2)
        newer = client.predict("deliveries", "eu", frame)
        assert (newer["source"] == "live").all(), newer["reason"].unique()
        assert (newer["model_version"] == "2").all()
    gone = client.predict("deliveries", "eu", frame)
    assert (gone["source"] == "cache").all()
    assert gone["prediction"].tolist() == newer["prediction"].tolist()


@pytest.mark.slow
@pytest.mark.skipif(
    mlserver.program() is None,
    reason=f"needs MLServer in an environment of its own, named by {mlserver.VARIABLE}; "
    "benchmarks/mlserver.py says how",
)
def test_mlserver_answers_the_same(deployment: Deployment, tmp_path: Path) -> None:
    frame = parcels(50)
    frame.loc["row-4", "carrier"] = None
    expected = deployment.house.expected("eu", 1, encode(frame, FEATURES))
    booster = deployment.house.truth["eu", 1]
    with mlserver.mlserver(tmp_path / "mlserver", "deliveries.eu", booster) as url:
        client = deployment.client(url, request_timeout="10s", deadline="20s", batch_rows=20)
        answers = client.predict("deliveries", "eu", frame)
        assert not client.dialect.binary, "MLServer lists no extension"
    assert (answers["source"] == "live").all(), answers["reason"].unique()
    np.testing.assert_array_equal(answers["prediction"], expected)
