"""Any bytes are either a request, read exactly, or refused with a sentence."""

import contextlib
import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ml_patterns.serving.errors import RequestError
from ml_patterns.serving.protocol import read_request

MOST = 50
MATRICES = st_numpy.arrays(
    np.float64,
    st.tuples(st.integers(0, 6), st.integers(1, 4)),
    elements=st.floats(allow_nan=True, allow_infinity=False),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["input", "predict", "FP64", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id",
                 "binary_data", "binary_data_size", "binary_data_output"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)  # fmt: skip
TENSORS = st.fixed_dictionaries(
    {"name": st.just("input"), "datatype": st.sampled_from(["FP64", "FP32"])},
    optional={
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
        "data": st.lists(st.floats() | st.none() | st.integers() | JSON, max_size=9) | JSON,
        "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-1, 80)) | JSON,
    },
)


def _tensor(matrix: np.ndarray) -> dict[str, object]:
    return {"name": "input", "datatype": "FP64", "shape": list(matrix.shape)}


@given(MATRICES)
def test_a_matrix_arrives_as_it_was_sent(matrix: np.ndarray) -> None:
    """As JSON and as binary, bit for bit but for the payload of a NaN."""
    data = [None if math.isnan(value) else value for value in matrix.ravel().tolist()]
    as_json = json.dumps({"inputs": [{**_tensor(matrix), "data": data}]}).encode()
    raw = matrix.tobytes()
    sized = {**_tensor(matrix), "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [sized]}).encode()
    for request in (
        read_request(as_json, None, MOST),
        read_request(head + raw, str(len(head)), MOST),
    ):
        assert request.matrix.dtype == np.float64
        assert request.matrix.flags.c_contiguous
        assert request.matrix.shape == matrix.shape
        missing = np.isnan(matrix)
        assert (np.isnan(request.matrix) == missing).all()
        assert request.matrix[~missing].tobytes() == matrix[~missing].tobytes()


@given(st.binary(max_size=200), st.none() | st.text(max_size=4) | st.integers(0, 200).map(str))
def test_any_bytes_are_refused_or_read(body: bytes, length: str | None) -> None:
    with contextlib.suppress(RequestError):
        read_request(body, length, MOST)


@given(JSON | st.fixed_dictionaries({"inputs": st.lists(TENSORS | JSON, max_size=2)}))
def test_any_json_is_refused_or_read(body: object) -> None:
    with contextlib.suppress(RequestError):
        request = read_request(json.dumps(body).encode(), None, MOST)
        assert request.matrix.ndim == 2
        assert len(request.matrix) <= MOST


@given(TENSORS, st.binary(max_size=80))
def test_any_tensor_with_binary_data_is_refused_or_read(
    tensor: dict[str, object], raw: bytes
) -> None:
    head = json.dumps({"inputs": [tensor]}).encode()
    with contextlib.suppress(RequestError):
        request = read_request(head + raw, str(len(head)), MOST)
        assert request.matrix.ndim == 2
