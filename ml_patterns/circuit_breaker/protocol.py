"""One request in the Open Inference Protocol v2, and what its answer must look like.

Belongs here: the URL, the body and the validation of an answer. Does not: sending it (`client.py`).

The protocol: https://github.com/open-inference/open-inference-protocol (REST, "infer").
"""

import json
from urllib.parse import quote

import numpy as np

from ml_patterns.retry.classify import InvalidAnswerError


def infer_url(base: str, model: str, version: str) -> str:
    """Where a version of a model answers."""
    return f"{base.rstrip('/')}/v2/models/{quote(model)}/versions/{quote(version)}/infer"


def request_body(matrix: np.ndarray) -> bytes:
    """The matrix as one FP64 tensor, row by row; missing values are null.

    Args:
        matrix: float64, shape (rows, features).
    """
    # JSON has no infinity either: a server must not be asked to parse what is no JSON.
    flat = [value if np.isfinite(value) else None for value in matrix.ravel().tolist()]
    tensor = {"name": "input", "shape": list(matrix.shape), "datatype": "FP64", "data": flat}
    return json.dumps({"inputs": [tensor]}, allow_nan=False).encode()


def read_answer(body: bytes, rows: int) -> np.ndarray:
    """The probabilities of an answer; NaN where a row's value is no probability.

    Args:
        rows: how many were asked for.

    Returns:
        float64, shape (rows,), each in [0, 1] or NaN.

    Raises:
        InvalidAnswerError: it is no JSON, no v2 answer, or has another number of rows.
    """
    try:
        data = json.loads(body)["outputs"][0]["data"]
        values = np.array([np.nan if value is None else value for value in data], dtype=np.float64)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidAnswerError("the model server's answer is not of the v2 protocol") from error
    if values.shape != (rows,):
        raise InvalidAnswerError(
            f"the model server answered {values.shape} values for {rows} row(s)"
        )
    with np.errstate(invalid="ignore"):
        return np.where((values >= 0.0) & (values <= 1.0), values, np.nan)
