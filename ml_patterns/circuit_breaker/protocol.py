"""One request in the Open Inference Protocol v2, and what its answer must look like.

Belongs here: URLs, bodies in JSON and with binary tensor data, the validation of an answer. Does
not: sending it (`live.py`), which of the two a server gets (`dialect.py`).

Sources: github.com/open-inference/open-inference-protocol (REST, "infer" and "server metadata");
kserve.github.io, "Binary Tensor Data Extension".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ml_patterns.retry.classify import InvalidAnswerError

BINARY_EXTENSION = "binary_tensor_data"
_JSON_LENGTH = "Inference-Header-Content-Length"
_INPUT = "input"
_TYPES: Mapping[str, np.dtype[Any]] = {"FP64": np.dtype("<f8"), "FP32": np.dtype("<f4")}


@dataclass(frozen=True)
class Request:
    """A body and the headers that say how to read it."""

    body: bytes
    headers: Mapping[str, str]


def infer_url(base: str, model: str, version: str) -> str:
    """Where a version of a model answers."""
    return f"{base.rstrip('/')}/v2/models/{quote(model)}/versions/{quote(version)}/infer"


def server_url(base: str) -> str:
    """Where the server says what it can do."""
    return f"{base.rstrip('/')}/v2"


def speaks_binary(body: bytes) -> bool:
    """Whether a server's metadata lists the binary tensor data extension."""
    try:
        extensions = json.loads(body)["extensions"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(extensions, list) and BINARY_EXTENSION in extensions


def json_request(matrix: np.ndarray) -> Request:
    """The matrix as one FP64 tensor, row by row; missing values are null.

    Args:
        matrix: float64, shape (rows, features).
    """
    # JSON has no infinity either: a server must not be asked to parse what is no JSON.
    flat = [value if np.isfinite(value) else None for value in matrix.ravel().tolist()]
    body = json.dumps({"inputs": [_tensor(matrix) | {"data": flat}]}, allow_nan=False).encode()
    return Request(body, {"Content-Type": "application/json"})


def binary_request(matrix: np.ndarray) -> Request:
    """The same with the tensor's bytes behind the JSON, and the answer wanted so, too."""
    raw = np.ascontiguousarray(matrix, dtype="<f8").tobytes()
    tensor = _tensor(matrix) | {"parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(head))}
    return Request(head + raw, headers)


def _tensor(matrix: np.ndarray) -> dict[str, Any]:
    return {"name": _INPUT, "shape": list(matrix.shape), "datatype": "FP64"}


def read_answer(body: bytes, headers: Mapping[str, str], rows: int) -> np.ndarray:
    """The probabilities of an answer; NaN where a row's value is no probability.

    Args:
        headers: say where binary data begins, if the answer holds any.
        rows: how many were asked for.

    Returns:
        float64, shape (rows,), each in [0, 1] or NaN.

    Raises:
        InvalidAnswerError: it is no JSON, no v2 answer, or has another number of rows.
    """
    try:
        length = headers.get(_JSON_LENGTH)
        head = body if length is None else body[: int(length)]
        values = _values(json.loads(head)["outputs"][0], body[len(head) :])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidAnswerError("the model server's answer is not of the v2 protocol") from error
    if values.shape not in ((rows,), (rows, 1)):
        raise InvalidAnswerError(
            f"the model server answered {values.shape} values for {rows} row(s)"
        )
    values = values.reshape(rows)
    with np.errstate(invalid="ignore"):
        return np.where((values >= 0.0) & (values <= 1.0), values, np.nan)


def _values(output: dict[str, Any], raw: bytes) -> np.ndarray:
    if "data" in output:
        data = output["data"]
        if data and isinstance(data[0], list):
            return np.array([[np.nan if v is None else v for v in row] for row in data], np.float64)
        return np.array([np.nan if value is None else value for value in data], np.float64)
    size = output["parameters"]["binary_data_size"]
    values: np.ndarray = np.frombuffer(raw[:size], dtype=_TYPES[output["datatype"]])
    return values.astype(np.float64)
