"""Promise: a server gets bytes only if it says that it reads them, and no question while down."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ml_patterns.circuit_breaker.protocol import (
    BINARY_EXTENSION,
    binary_request,
    read_answer,
    speaks_binary,
)
from ml_patterns.retry.classify import InvalidAnswerError
from ml_patterns.serving.protocol import read_request
from ml_patterns_tests.circuit_breaker.conftest import Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import always, serve_models

LENGTH = "Inference-Header-Content-Length"


def test_a_server_is_asked_once_after_its_first_answer_and_never_while_it_is_down(
    deployment: Deployment,
) -> None:
    with serve_models(always(503)) as server:
        client = deployment.client(server.url)
        client.predict("deliveries", "eu", parcels(2))
        assert server.metadata_calls == 0
        client.breaker.reset(reason="the test goes on", actor="test")
        server.behaviour = lambda _rows: None
        for seed in range(3):
            client.predict("deliveries", "eu", parcels(2, seed))
        assert server.metadata_calls == 1
    assert not client.dialect.binary


def test_a_server_that_cannot_read_what_it_listed_gets_json_again(deployment: Deployment) -> None:
    """As when another server takes the place of one: its 500s once opened the circuit for good."""
    with serve_models() as server:
        server.extensions = (BINARY_EXTENSION,)
        client = deployment.client(server.url)
        client.predict("deliveries", "eu", parcels(2))
        assert client.dialect.binary
        server.extensions = ()
        answers = client.predict("deliveries", "eu", parcels(2, seed=2))
        assert server.bodies_refused == 1
        assert not client.dialect.binary
    assert (answers["source"] == "live").all()
    assert (answers["attempts"] == 2).all()
    assert len(set(server.keys)) == 2, "one idempotency key per request, in whatever form"


MATRICES = arrays.arrays(
    np.float64, st.tuples(st.integers(0, 5), st.integers(1, 4)), elements=st.floats(allow_nan=True)
)


@given(MATRICES)
def test_our_server_reads_exactly_the_bytes_that_were_sent(matrix: np.ndarray) -> None:
    request = binary_request(matrix)
    read = read_request(request.body, request.headers[LENGTH], max_rows=100)
    assert read.binary
    np.testing.assert_array_equal(read.matrix, matrix)


def binary_answer(output: Mapping[str, object], raw: bytes) -> tuple[bytes, dict[str, str]]:
    head = json.dumps({"outputs": [output]}).encode()
    return head + raw, {LENGTH: str(len(head))}


TWO = np.array([0.25, 0.75])


@pytest.mark.parametrize(
    ("datatype", "raw"), [("FP64", TWO.tobytes()), ("FP32", TWO.astype("<f4").tobytes())]
)
def test_a_binary_answer_is_read_by_its_datatype(datatype: str, raw: bytes) -> None:
    output = {"datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    assert read_answer(*binary_answer(output, raw), rows=2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("output", "raw"),
    [
        ({"datatype": "FP64", "parameters": {"binary_data_size": 16}}, b"x" * 8),
        ({"datatype": "FP64", "parameters": {"binary_data_size": 8}}, b"x" * 8),
        ({"datatype": "FP64", "parameters": {"binary_data_size": 15}}, b"x" * 15),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 16}}, b"x" * 16),
        ({"datatype": "FP64", "parameters": {"binary_data_size": "16"}}, b"x" * 16),
        ({"datatype": "FP64"}, b"x" * 16),
    ],
    ids=str,
)
def test_a_binary_answer_that_does_not_fit_is_no_answer(
    output: Mapping[str, object], raw: bytes
) -> None:
    with pytest.raises(InvalidAnswerError):
        read_answer(*binary_answer(output, raw), rows=2)


def test_a_column_of_answers_is_as_good_as_a_list() -> None:
    body = b'{"outputs": [{"shape": [2, 1], "data": [[0.25], [0.75]]}]}'
    assert read_answer(body, {}, rows=2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("body", "binary"),
    [
        ('{"extensions": ["binary_tensor_data"]}', True),
        ('{"extensions": ["health", "binary_tensor_data"]}', True),
        ('{"extensions": []}', False),
        ('{"extensions": null}', False),
        ('{"extensions": "binary_tensor_data"}', False),
        ("{}", False),
        ("[]", False),
        ("<html>", False),
    ],
)
def test_only_a_list_that_names_the_extension_counts(body: str, binary: bool) -> None:
    assert speaks_binary(body.encode()) is binary
