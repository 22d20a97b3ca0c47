"""The Open Inference Protocol v2, as a client meets it."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from ml_patterns_tests.serving.conftest import House, body_of, edge_matrix, sample_matrix, values_of

MODEL = "/v2/models/deliveries.eu"
INFER = f"{MODEL}/infer"


def test_the_server_says_who_it_is(client: httpx.Client) -> None:
    answer = client.get("/v2").json()
    assert answer["name"] == "ml_patterns"
    assert answer["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json()["live"] is True
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_a_model_says_what_it_takes(client: httpx.Client) -> None:
    answer = client.get(MODEL).json()
    assert answer["name"] == "deliveries.eu"
    assert answer["versions"] == ["1", "2"]
    assert answer["inputs"][0]["name"] == "input"
    assert answer["inputs"][0]["datatype"] == "FP64"
    assert answer["inputs"][0]["shape"] == [-1, 3]
    assert answer["outputs"] == [{"name": "predict", "datatype": "FP64", "shape": [-1]}]
    assert client.get(f"{MODEL}/versions/1").status_code == 200
    for path in (f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        ready = client.get(path)
        assert ready.status_code == 200
        assert ready.json()["name"] == "deliveries.eu"
        assert ready.json()["ready"] is True


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_predictions_equal_lightgbms_own_bit_for_bit(
    client: httpx.Client, shared_house: House, rows: int
) -> None:
    """Missing numbers, missing categories and categories that were never seen included."""
    matrix = sample_matrix(rows, seed=9)
    response = client.post(INFER, json=body_of(matrix))
    answer = response.json()
    assert answer["model_name"] == "deliveries.eu"
    assert answer["model_version"] == "2"
    assert answer["id"] == "42"
    assert answer["outputs"][0]["name"] == "predict"
    assert answer["outputs"][0]["datatype"] == "FP64"
    assert answer["outputs"][0]["shape"] == [rows]
    expected = shared_house.expected("eu", 2, matrix) if rows else np.empty(0)
    assert values_of(response).tobytes() == expected.tobytes()


def test_no_bit_of_a_value_is_lost(client: httpx.Client, shared_house: House) -> None:
    """Values one bit from a threshold fall on the side on which LightGBM puts them."""
    matrix = edge_matrix(shared_house.truth["eu", 2])
    expected = shared_house.expected("eu", 2, matrix).tobytes()
    rounded = matrix.astype(np.float32).astype(np.float64)
    as_fp32 = shared_house.expected("eu", 2, rounded).tobytes()
    assert as_fp32 != expected
    assert values_of(client.post(INFER, json=body_of(matrix))).tobytes() == expected
    assert values_of(_send(client, _binary(matrix))).tobytes() == expected
    for request in (_binary(matrix, "FP32"), _json(body_of(matrix, datatype="FP32"))):
        assert values_of(_send(client, request)).tobytes() == as_fp32


def test_any_version_answers_by_its_number(client: httpx.Client, shared_house: House) -> None:
    matrix = sample_matrix(20)
    for region, number in (("eu", 1), ("eu", 2), ("us_west", 1)):
        path = f"/v2/models/deliveries.{region}/versions/{number}/infer"
        response = client.post(path, json=body_of(matrix))
        assert response.json()["model_version"] == str(number)
        assert values_of(response).tobytes() == (
            shared_house.expected(region, number, matrix).tobytes()
        )


def test_nested_rows_and_fp32_are_read(client: httpx.Client, shared_house: House) -> None:
    matrix = sample_matrix(5)
    rows = [[None if np.isnan(v) else v for v in row] for row in matrix.tolist()]
    nested = client.post(INFER, json=body_of(matrix, data=rows))
    assert values_of(nested).tobytes() == shared_house.expected("eu", 2, matrix).tobytes()
    single = client.post(INFER, json=body_of(matrix, datatype="FP32"))
    rounded = matrix.astype(np.float32).astype(np.float64)
    assert values_of(single).tobytes() == shared_house.expected("eu", 2, rounded).tobytes()


def _json(body: dict[str, Any]) -> httpx.Request:
    return httpx.Request("POST", INFER, json=body)


def _binary(matrix: np.ndarray, datatype: str = "FP64", **parameters: Any) -> httpx.Request:
    raw = matrix.astype("<f8" if datatype == "FP64" else "<f4").tobytes()
    tensor = body_of(matrix, data=..., datatype=datatype)
    tensor["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    tensor.update(parameters)
    head = json.dumps(tensor).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return httpx.Request("POST", INFER, content=head + raw, headers=headers)


def _send(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    return client.post(INFER, content=request.content, headers=request.headers)


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_binary_tensors_equal_json(client: httpx.Client, datatype: str) -> None:
    matrix = sample_matrix(200, seed=4)
    as_json = client.post(INFER, json=body_of(matrix, datatype=datatype))
    expected = values_of(as_json)
    assert values_of(_send(client, _binary(matrix, datatype))).tobytes() == expected.tobytes()
    for wanted in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "predict", "parameters": {"binary_data": True}}]},
    ):
        response = _send(client, _binary(matrix, datatype, **wanted))
        length = int(response.headers["Inference-Header-Content-Length"])
        output = json.loads(response.content[:length])["outputs"][0]
        assert "data" not in output
        assert output["parameters"] == {"binary_data_size": 8 * 200}
        assert response.content[length:] == expected.astype("<f8").tobytes()


def test_an_output_overrides_the_requests_wish_for_binary(client: httpx.Client) -> None:
    request = _binary(
        sample_matrix(3),
        parameters={"binary_data_output": True},
        outputs=[{"name": "predict", "parameters": {"binary_data": False}}],
    )
    response = _send(client, request)
    assert "Inference-Header-Content-Length" not in response.headers
    assert len(values_of(response)) == 3


ROW = np.array([[1.0, 0.0, 2.0]])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "exactly one"),
        ({"inputs": "input"}, "inputs"),
        ([], "object"),
        (body_of(ROW, name="other"), "other"),
        (body_of(ROW, datatype="INT64"), "INT64"),
        (body_of(ROW, datatype=...), "datatype"),
        (body_of(ROW, datatype=["FP64"]), "datatype"),
        (body_of(ROW, shape=[3]), "[rows, features]"),
        (body_of(ROW, shape=[1, 4], data=[1, 2, 3, 4]), "[rows, 3]"),
        (body_of(ROW, shape=[2, 3]), "6 values"),
        (body_of(ROW, shape=[True, 3]), "[rows, features]"),
        (body_of(ROW, shape=[-1, 3]), "[rows, features]"),
        (body_of(ROW, shape=[0, 2**62], data=[]), "[rows, features]"),
        (body_of(ROW, data=...), "no data"),
        (body_of(ROW, data="1,2,3"), "no data"),
        (body_of(ROW, data=["1", "2", "3"]), "numbers"),
        (body_of(ROW, data=[True, 2, 3]), "numbers"),
        (body_of(ROW, data=[[1, 2]]), "3 values"),
        (body_of(ROW, data=[[1, 2, 3], 4]), "rows"),
        (body_of(ROW, data=[[1, 2, [3]]]), "numbers"),
        (body_of(ROW, data=[10**400, 2, 3]), "FP64"),
        ({**body_of(ROW), "outputs": [{"name": "other"}]}, "other"),
        ({**body_of(ROW), "id": 7}, "id"),
        ({**body_of(ROW), "parameters": []}, "parameters"),
        ({**body_of(ROW), "parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({"inputs": body_of(ROW)["inputs"] * 2}, "exactly one"),
    ],
)
def test_what_breaks_the_protocol_is_400_and_named(
    client: httpx.Client, body: Any, named: str
) -> None:
    response = client.post(INFER, json=body)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert named in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "length"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "two"),
        (b'{"inputs": []}rest', "14"),
    ],
)
def test_a_body_that_is_no_request_is_400(
    client: httpx.Client, content: bytes, length: str | None
) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    response = client.post(INFER, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]


def test_binary_data_of_the_wrong_size_is_400(client: httpx.Client) -> None:
    right = _binary(sample_matrix(4))
    for content in (right.content[:-1], right.content + b"\0"):
        response = client.post(INFER, content=content, headers=_json_length(right))
        assert response.status_code == 400
        assert "96 bytes" in response.json()["error"]


def _json_length(request: httpx.Request) -> dict[str, str]:
    name = "Inference-Header-Content-Length"
    return {name: request.headers[name]}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/deliveries.mars",
        "/v2/models/deliveries",
        "/v2/models/deliveries.mars/ready",
        "/v2/models/deliveries.eu/versions/3",
        "/v2/models/deliveries.eu/versions/3/ready",
        "/v2/models/deliveries.eu/versions/latest",
        "/v2/models/deliveries.us_west",
        "/v2/nowhere",
    ],
)
def test_what_does_not_exist_is_404(client: httpx.Client, path: str) -> None:
    """A model that was never promoted has no champion to answer without a version."""
    response = client.get(path)
    assert response.status_code == 404
    assert list(response.json()) == ["error"]


def test_inference_on_what_does_not_exist_is_404(client: httpx.Client) -> None:
    for path in ("deliveries.mars", "deliveries.us_west", "deliveries.eu/versions/9"):
        response = client.post(f"/v2/models/{path}/infer", json=body_of(ROW))
        assert response.status_code == 404
        assert list(response.json()) == ["error"]
    assert client.get(INFER).status_code == 405
    assert list(client.get(INFER).json()) == ["error"]


def test_too_many_rows_are_413(client: httpx.Client) -> None:
    response = client.post(INFER, json=body_of(sample_matrix(1001)))
    assert response.status_code == 413
    assert "1000" in response.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_too_many_bytes_are_413(client: httpx.Client, chunked: bool) -> None:
    content = b" " * 200_001
    response = client.post(INFER, content=iter([content]) if chunked else content)
    assert response.status_code == 413
    assert "200000" in response.json()["error"]


def test_the_request_id_comes_back(client: httpx.Client) -> None:
    given = client.get("/v2", headers={"X-Request-Id": "abc-1"})
    assert given.headers["X-Request-Id"] == "abc-1"
    forged = client.get("/v2", headers={"X-Request-Id": "a b"})
    assert forged.headers["X-Request-Id"] not in {"", "a b"}
    body = body_of(ROW)
    del body["id"]
    answer = client.post(INFER, json=body, headers={"X-Request-Id": "abc-2"}).json()
    assert answer["id"] == "abc-2"
