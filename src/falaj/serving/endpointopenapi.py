"""The OpenAPI document of one endpoint, made from its active release.

What it says of a field is what the decoder enforces: type, null, bounds. One document tells
plain JSON, Arrow streams and the Open Inference Protocol of that endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falaj.kernel.problems import MEDIA_TYPE
from falaj.serving.anomalies import tag_columns
from falaj.serving.featurebodies import ARROW
from falaj.serving.model import FeatureStatus, FieldType, Release, RequestField
from falaj.serving.tensors import DATATYPES, MODEL, PREDICTION_ID

FLOAT32_MAX = 3.4028234e38
_FIELD: Mapping[FieldType, dict[str, Any]] = {
    FieldType.FLOAT: {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX},
    FieldType.INT: {
        "type": "integer",
        "minimum": -(2**63),
        "maximum": 2**63 - 1,
        "description": "Written without a fraction: 1, not 1.0.",
    },
    FieldType.STRING: {"type": "string", "maxLength": 4_096},
    FieldType.BOOLEAN: {"type": "boolean"},
    FieldType.TIMESTAMP: {"type": "string", "format": "date-time"},
}
_TEXT: dict[str, Any] = {"type": "string"}
_STREAM = ARROW.decode()
_RAW = "application/octet-stream"
_NULLABLE_INSTANT = {"type": ["string", "null"], "format": "date-time"}
_NULLABLE_ID = {"type": ["string", "null"], "maxLength": 200}


def document(release: Release) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the endpoint that a release serves."""
    name = release.endpoint
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Predictions of {name}",
            "version": release.id,
            "description": _description(release),
        },
        "paths": {
            f"/v1/endpoints/{name}/predict": {"post": _predict(release)},
            f"/v1/endpoints/{name}/openapi.json": {
                "get": _operation("openapi", "This document.", {"type": "object"})
            },
            **_inference_paths(release),
            "/healthz": {"get": _open("healthz", "The worker lives.", MEDIA_TYPE)},
            "/readyz": {"get": _open("readyz", "The worker can answer.", MEDIA_TYPE)},
        },
        "components": {
            "schemas": {
                "Row": _row(release.fields),
                "Request": _request(release),
                "Answer": _answer(release),
                "Problem": _PROBLEM,
                **_inference_schemas(release),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
        "x-limits": release.limits.model_dump(mode="json"),
    }


def _description(release: Release) -> str:
    told = [f"Release {release.id} of the model {release.model}."]
    if release.feature_service:
        told.append(
            f"A row's fields are the keys and request fields of the feature service "
            f"{release.feature_service}; its features are looked up."
        )
    limits = release.limits
    told.append(
        f"A request has at most {limits.rows} rows and {limits.body_bytes} bytes, and is answered "
        f"within {limits.deadline_seconds:g} s or not at all."
    )
    return " ".join(told)


# ── plain JSON and Arrow ─────────────────────────────────────────────────────────────


def field_schema(item: RequestField) -> dict[str, Any]:
    """What a value of a field may be. A field that may be left out may be null as well."""
    schema = dict(_FIELD[item.type])
    if item.nullable or not item.required:
        schema["type"] = [schema["type"], "null"]
    return schema


def _row(fields: tuple[RequestField, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {item.name: field_schema(item) for item in fields},
        "required": [item.name for item in fields if item.required],
        "additionalProperties": False,
    }


def _request(release: Release) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "inputs": {
                "type": "array",
                "items": _reference("Row"),
                "minItems": 1,
                "maxItems": release.limits.rows,
            },
            "request_id": {**_NULLABLE_ID, "description": "The caller's own name for it."},
            "at": {**_NULLABLE_INSTANT, "description": "The instant that the rows are about."},
        },
        "required": ["inputs"],
        "additionalProperties": False,
    }


_ANOMALY: dict[str, Any] = {
    "type": "object",
    "description": "How unlike the rows of the training the inputs of this row are, by the "
    "isolation forest of the model.",
    "properties": {
        "score": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "About 0.5 is ordinary.",
        },
        "anomalous": {
            "type": "boolean",
            "description": "The score is above the limit that was frozen with the model.",
        },
    },
    "required": ["score", "anomalous"],
    "additionalProperties": False,
}


def _answer(release: Release) -> dict[str, Any]:
    scores = {name: {"type": ["number", "null"]} for name in release.outputs}
    feature = {
        "type": "object",
        "properties": {
            "value": {"type": ["number", "null"]},
            "status": {"enum": [status.name.lower() for status in FeatureStatus]},
            "event_time": _NULLABLE_INSTANT,
        },
        "required": ["value", "status", "event_time"],
    }
    tag = ["anomaly"] if tag_columns(release) else []
    prediction = {
        "type": "object",
        "properties": {
            "id": _TEXT,
            **scores,
            "anomaly": _ANOMALY,
            "variant": _TEXT,
            "model": _TEXT,
            "features": {"type": "object", "additionalProperties": feature},
        },
        "required": ["id", *release.outputs, *tag],
    }
    return {
        "type": "object",
        "properties": {
            "request_id": _TEXT,
            "release": _TEXT,
            "model": _TEXT,
            "predictions": {"type": "array", "items": prediction, "minItems": 1},
        },
        "required": ["request_id", "release", "model", "predictions"],
    }


def _predict(release: Release) -> dict[str, Any]:
    stream = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": "predict",
        "summary": f"Ask {release.endpoint} for predictions.",
        "parameters": [
            {
                "name": "explain",
                "in": "query",
                "required": False,
                "description": "`features` tells what each prediction was made of. Models of "
                "trees also tell `contributions`, where they can; models "
                "trained with an isolation forest also tell `anomaly`"
                f"{', which every answer here does' if tag_columns(release) else ''}.",
                "schema": {"type": "string", "enum": ["features"]},
                "example": "features",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _reference("Request")},
                _STREAM: stream,
            },
        },
        "responses": {
            "200": {
                "description": "The predictions, in the order of the rows.",
                "content": {
                    "application/json": {"schema": _reference("Answer")},
                    _STREAM: stream,
                    "text/event-stream": {"schema": _TEXT},
                },
            },
            **_refusals(MEDIA_TYPE, "Problem"),
        },
    }


# ── the Open Inference Protocol ──────────────────────────────────────────────────────


def _inference_paths(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = {
        "/v2": {"get": _inference("serverMetadata", "The server.", {"type": "object"})},
        "/v2/health/live": {"get": _open("live", "The worker lives.", "application/json")},
        "/v2/health/ready": {"get": _open("ready", "It can answer.", "application/json")},
    }
    version = str(release.variants[0].version)
    place = f"/v2/models/{release.endpoint}"
    for root, suffix in ((place, ""), (f"{place}/versions/{version}", "OfVersion")):
        found[root] = {
            "get": _inference(f"modelMetadata{suffix}", "The tensors.", _reference("Metadata"))
        }
        found[f"{root}/ready"] = {
            "get": _inference(f"modelReady{suffix}", "It can answer.", {"type": "object"})
        }
        infer = _inference(f"infer{suffix}", "The outputs.", _reference("InferenceAnswer"))
        infer["responses"]["200"]["content"][_RAW] = {
            "schema": {"type": "string", "format": "binary"}
        }
        infer["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference("InferenceRequest")}},
        }
        found[f"{root}/infer"] = {"post": infer}
    return found


_PARAMETERS = {"type": "object"}
_DESCRIBED = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "datatype": {"enum": list(DATATYPES)},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "datatype", "shape"],
}
_METADATA = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "versions": {"type": "array", "items": _TEXT},
        "platform": _TEXT,
        "inputs": {"type": "array", "items": _DESCRIBED},
        "outputs": {"type": "array", "items": _DESCRIBED},
    },
    "required": ["name", "versions", "platform", "inputs", "outputs"],
}
_INFERENCE_ERROR = {
    "type": "object",
    "properties": {"error": _TEXT},
    "required": ["error"],
    "additionalProperties": False,
}


def _tensor(name: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": name,
            "datatype": {"enum": list(DATATYPES)},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
                "minItems": 1,
                "maxItems": 2,
            },
            "parameters": _PARAMETERS,
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape"],
    }


def _answered_parameters(release: Release) -> dict[str, Any]:
    """What an answer says of itself; of several rows, with commas between them."""
    names = ("release", "model", "prediction_ids", *tag_columns(release))
    return {**_PARAMETERS, "properties": dict.fromkeys(names, _TEXT), "required": list(names)}


def _inference_schemas(release: Release) -> dict[str, Any]:
    outputs = {"enum": [*release.outputs, PREDICTION_ID, MODEL]}
    n_outputs = len(release.outputs) + 2
    asked = {
        "type": "object",
        "properties": {"name": outputs, "parameters": _PARAMETERS},
        "required": ["name"],
    }
    n_fields = max(len(release.fields), 1)
    inputs = {"type": "array", "items": _tensor(_TEXT), "minItems": 1, "maxItems": n_fields}
    return {
        "InferenceRequest": {
            "type": "object",
            "properties": {
                "id": _NULLABLE_ID,
                "parameters": _PARAMETERS,
                "inputs": inputs,
                "outputs": {"type": "array", "items": asked, "maxItems": n_outputs},
            },
            "required": ["inputs"],
        },
        "InferenceAnswer": {
            "type": "object",
            "properties": {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "id": _TEXT,
                "parameters": _answered_parameters(release),
                "outputs": {"type": "array", "items": _tensor(outputs)},
            },
            "required": ["model_name", "model_version", "outputs"],
        },
        "Metadata": _METADATA,
        "InferenceError": _INFERENCE_ERROR,
    }


# ── parts ────────────────────────────────────────────────────────────────────────────


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusals(media: str, name: str) -> dict[str, Any]:
    return {
        "default": {
            "description": "What is wrong, and what to do.",
            "content": {media: {"schema": _reference(name)}},
        }
    }


def _operation(name: str, told: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": told,
        "responses": {
            "200": {"description": told, "content": {"application/json": {"schema": schema}}},
            **_refusals(MEDIA_TYPE, "Problem"),
        },
    }


def _inference(name: str, told: str, schema: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(name, told, schema)
    operation["responses"].update(_refusals("application/json", "InferenceError"))
    return operation


def _open(name: str, told: str, media: str) -> dict[str, Any]:
    """An operation that needs no token."""
    operation = _operation(name, told, {"type": "object"})
    if media != MEDIA_TYPE:
        operation["responses"].update(_refusals(media, "InferenceError"))
    return {**operation, "security": []}


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": _TEXT,
        "detail": _TEXT,
        "hint": _TEXT,
        "details": {"type": "object"},
    },
    "required": ["type", "title", "status", "code", "detail"],
}
