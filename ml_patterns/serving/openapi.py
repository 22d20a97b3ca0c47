"""The parts of the OpenAPI document that FastAPI cannot derive.

Belongs here: the inference body and the error bodies. Does not: reading them (`protocol.py`).
"""

from typing import Any

_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    }
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, **_ERROR}
    for status, description in {
        400: "The request breaks the protocol or does not fit the model.",
        401: "A bearer token is needed.",
        404: "No such model or version.",
        408: "The body did not arrive in time.",
        413: "Too many rows or bytes.",
        415: "A content encoding that is not read.",
        422: "Not used; malformed requests are answered with 400.",
        429: "Too many requests at a time; see Retry-After.",
        503: "Cannot be answered now; see Retry-After.",
    }.items()
}

INFERENCE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"const": "input"},
                                    "datatype": {"enum": ["FP64", "FP32"]},
                                    "shape": {
                                        "type": "array",
                                        "items": {"type": "integer", "minimum": 0},
                                        "minItems": 2,
                                        "maxItems": 2,
                                    },
                                    "data": {"type": "array"},
                                    "parameters": {"type": "object"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"const": "predict"},
                                    "parameters": {"type": "object"},
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}
