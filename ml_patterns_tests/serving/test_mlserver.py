"""MLServer, the protocol's reference on Python, answers the same requests with the same values."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks import mlserver
from ml_patterns_tests.serving.conftest import House, body_of, sample_matrix, values_of

MODEL = "/v2/models/deliveries.eu"

pytestmark = pytest.mark.skipif(
    mlserver.program() is None,
    reason=f"needs MLServer in an environment of its own, named by {mlserver.VARIABLE}; "
    "benchmarks/mlserver.py says how",
)


@pytest.fixture(scope="module")
def theirs(shared_house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """MLServer with the model that our server has as version 1."""
    folder: Path = tmp_path_factory.mktemp("mlserver")
    with (
        mlserver.mlserver(folder, "deliveries.eu", shared_house.truth["eu", 1]) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize("rows", [1, 32, 1000])
def test_the_same_request_has_the_same_answer(
    client: httpx.Client, theirs: httpx.Client, rows: int
) -> None:
    """Missing values are null for both; MLServer calls a vector a matrix of one column."""
    body = body_of(sample_matrix(rows, seed=rows))
    ours, other = (c.post(f"{MODEL}/versions/1/infer", json=body) for c in (client, theirs))
    assert values_of(ours).tobytes() == values_of(other).tobytes()
    for field in ("model_name", "model_version", "id"):
        assert ours.json()[field] == other.json()[field]
    first, second = ours.json()["outputs"][0], other.json()["outputs"][0]
    assert (first["name"], first["datatype"]) == (second["name"], second["datatype"])
    assert np.prod(first["shape"]) == np.prod(second["shape"]) == rows


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        MODEL,
        f"{MODEL}/ready",
        f"{MODEL}/versions/1",
        f"{MODEL}/versions/1/ready",
        f"{MODEL}/versions/9",
        f"{MODEL}/versions/9/ready",
        "/v2/models/unknown",
        "/v2/models/unknown/ready",
    ],
)
def test_both_answer_with_the_same_status(
    client: httpx.Client, theirs: httpx.Client, path: str
) -> None:
    ours, other = client.get(path), theirs.get(path)
    assert ours.status_code == other.status_code
    if ours.status_code == 404:
        assert list(ours.json()) == list(other.json()) == ["error"]


def test_only_ours_offers_binary_tensors(client: httpx.Client, theirs: httpx.Client) -> None:
    """A client must ask before it sends them: MLServer answers them with 500."""
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert theirs.get("/v2").json()["extensions"] == []
