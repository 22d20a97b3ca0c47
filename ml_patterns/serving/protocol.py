"""The Open Inference Protocol v2: bytes to matrix, predictions to bytes.

Belongs here: the JSON bodies and the binary tensor data extension. Does not: routes, limits on
bytes and status lines (`app.py`), which model answers (`models.py`).

One input tensor, `[rows, features]` of FP64 or FP32, missing values as null or NaN; one output
tensor, `[rows]` of FP64. Nothing here loops over rows in Python.

Sources: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md;
kserve.github.io, "Binary Tensor Data Extension".
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pydantic_core

from ml_patterns.serving.errors import bad_request, too_large
from ml_patterns.serving.models import ServedModel

INPUT = "input"
OUTPUT = "predict"
PLATFORM = "lightgbm_text"
EXTENSIONS = ("binary_tensor_data",)
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"

_DATATYPES: dict[str, np.dtype[Any]] = {"FP64": np.dtype("<f8"), "FP32": np.dtype("<f4")}
_LARGEST_SIZE = 2**31
_LONGEST_LENGTH = 15
_OTHER_COMMAS = 1000
_NUMBERS = {float, int, type(None)}


@dataclass(frozen=True)
class InferenceRequest:
    """A request as the model needs it.

    Attributes:
        matrix: float64, shape (rows, features), C order.
        binary: whether the predictions are wanted as binary tensor data.
    """

    id: str | None
    matrix: np.ndarray
    binary: bool


@dataclass(frozen=True)
class Answer:
    """A response body; `json_length` is set where binary data follows the JSON."""

    content: bytes
    json_length: int | None


def read_request(
    body: bytes, json_length: str | None, max_rows: int, *, columns: int | None = None
) -> InferenceRequest:
    """Reads the body of an inference request.

    Args:
        body: JSON, followed by binary tensor data where `json_length` says so.
        json_length: the value of the header Inference-Header-Content-Length, if any.
        max_rows: more rows are refused.
        columns: the model's; with it, JSON that could hold more than `max_rows` rows of them is
            refused before it is parsed.

    Raises:
        RequestError: 400 with what is wrong, 413 for too many rows.
    """
    text, rest = _split(body, json_length)
    # Three bytes, "[],", become sixty-four in memory: bytes alone do not bound what JSON takes.
    if columns is not None and text.count(b",") > max_rows * (columns + 1) + _OTHER_COMMAS:
        raise too_large(f"the JSON has more values than {max_rows} rows of {columns} features")
    try:
        request = pydantic_core.from_json(text)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise bad_request("the body must be a JSON object")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise bad_request("id must be a text")
    return InferenceRequest(identity, _matrix(request, rest, max_rows), _wants_binary(request))


def write_answer(
    served: ServedModel, identity: str, predictions: np.ndarray, *, binary: bool
) -> Answer:
    """The response to an inference request; names the version that answered."""
    output: dict[str, Any] = {
        "name": OUTPUT,
        "datatype": "FP64",
        "shape": [len(predictions)],
    }
    raw = b""
    if binary:
        raw = predictions.astype("<f8", copy=False).tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
    else:
        output["data"] = predictions.tolist()
    head = pydantic_core.to_json(
        {
            "model_name": served.name,
            "model_version": str(served.version),
            "id": identity,
            "outputs": [output],
        }
    )
    return Answer(head + raw, len(head) if binary else None)


def model_metadata(served: ServedModel, versions: list[int]) -> dict[str, Any]:
    """The protocol's model metadata; the feature names stand in the input's parameters."""
    names = [feature.name for feature in served.model.card.features]
    return {
        "name": served.name,
        "versions": [str(number) for number in versions],
        "platform": PLATFORM,
        "inputs": [
            {
                "name": INPUT,
                "datatype": "FP64",
                "shape": [-1, len(names)],
                "parameters": {"feature_names": names},
            }
        ],
        "outputs": [{"name": OUTPUT, "datatype": "FP64", "shape": [-1]}],
    }


def check_width(matrix: np.ndarray, served: ServedModel) -> None:
    """Raises: RequestError 400: the matrix does not have the model's number of features."""
    expected = len(served.model.card.features)
    if matrix.shape[1] != expected:
        raise bad_request(
            f"input {INPUT!r} has shape {list(matrix.shape)}, but version {served.version} of "
            f"model {served.name!r} takes [rows, {expected}]"
        )


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    if (
        not (json_length.isascii() and json_length.isdigit())
        # int() refuses thousands of digits with an error of its own.
        or len(json_length) > _LONGEST_LENGTH
        or int(json_length) > len(body)
    ):
        raise bad_request(
            f"{JSON_LENGTH_HEADER} is {json_length!r}, but the body has {len(body)} bytes"
        )
    length = int(json_length)
    return body[:length], memoryview(body)[length:]


def _matrix(request: dict[str, Any], rest: memoryview, max_rows: int) -> np.ndarray:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise bad_request("inputs must be a list of tensors")
    for tensor in inputs:
        if tensor.get("name") != INPUT:
            raise bad_request(f"there is no input {tensor.get('name')!r}; the input is {INPUT!r}")
    if len(inputs) != 1:
        raise bad_request(f"exactly one input {INPUT!r} is needed, not {len(inputs)}")
    tensor = inputs[0]
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        raise bad_request(f"input {INPUT!r} has datatype {datatype!r}; FP64 or FP32 are needed")
    rows, columns = _shape(tensor.get("shape"))
    if rows > max_rows:
        raise too_large(f"{rows} rows are more than the {max_rows} that one request may have")
    parameters = _parameters(tensor, f"input {INPUT!r}")
    size = parameters.get("binary_data_size")
    if size is not None:
        return _from_binary(rest, size, rows, columns, _DATATYPES[datatype])
    if len(rest):
        raise bad_request(f"{len(rest)} bytes follow the JSON, but no input has binary_data_size")
    values = _from_json(tensor.get("data"), rows, columns)
    if datatype == "FP32":
        # A client that says FP32 means the nearest FP32 number, as its binary form would carry.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32).astype(np.float64)
    return values


def _shape(shape: Any) -> tuple[int, int]:
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(size) is int and 0 <= size < _LARGEST_SIZE for size in shape)
    ):
        raise bad_request(f"input {INPUT!r} has shape {shape!r}; [rows, features] is needed")
    return shape[0], shape[1]


def _from_binary(
    rest: memoryview, size: Any, rows: int, columns: int, dtype: np.dtype[Any]
) -> np.ndarray:
    needed = rows * columns * dtype.itemsize
    if size != needed or len(rest) != needed:
        raise bad_request(
            f"input {INPUT!r} of shape [{rows}, {columns}] has {needed} bytes; "
            f"binary_data_size says {size!r} and {len(rest)} bytes follow the JSON"
        )
    # Copied: the body starts at any byte, and LightGBM wants aligned float64.
    return np.frombuffer(rest, dtype=dtype).reshape(rows, columns).astype(np.float64)


def _from_json(data: Any, rows: int, columns: int) -> np.ndarray:
    if not isinstance(data, list):
        raise bad_request(f"input {INPUT!r} has no data: a list of numbers and nulls is needed")
    flat = data
    if data and isinstance(data[0], list):
        if set(map(type, data)) != {list} or set(map(len, data)) != {columns}:
            raise bad_request(f"the rows of input {INPUT!r} do not all have {columns} values")
        flat = list(chain.from_iterable(data))
    if not set(map(type, flat)) <= _NUMBERS:
        raise bad_request(f"the data of input {INPUT!r} must be numbers and nulls")
    if len(flat) != rows * columns:
        raise bad_request(
            f"input {INPUT!r} of shape [{rows}, {columns}] has {rows * columns} values, "
            f"not {len(flat)}"
        )
    try:
        # numpy turns None into NaN when it is told that the result is float64.
        return np.array(flat, dtype=np.float64).reshape(rows, columns)
    except OverflowError as error:
        raise bad_request(f"input {INPUT!r} has a number beyond FP64") from error


def _wants_binary(request: dict[str, Any]) -> bool:
    wanted = _parameters(request, "the request").get("binary_data_output", False)
    outputs = request.get("outputs")
    if outputs is not None:
        if not isinstance(outputs, list) or not all(isinstance(o, dict) for o in outputs):
            raise bad_request("outputs must be a list of tensors")
        for output in outputs:
            if output.get("name") != OUTPUT:
                raise bad_request(
                    f"there is no output {output.get('name')!r}; the output is {OUTPUT!r}"
                )
            wanted = _parameters(output, f"output {OUTPUT!r}").get("binary_data", wanted)
    if not isinstance(wanted, bool):
        raise bad_request("binary_data and binary_data_output must be true or false")
    return wanted


def _parameters(holder: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise bad_request(f"the parameters of {name} must be an object")
    return parameters
