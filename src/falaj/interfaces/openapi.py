"""The OpenAPI document of the control plane, made from the actions themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, create_model
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from falaj.kernel.actions import Action
from falaj.kernel.binary import ARROW
from falaj.kernel.problems import MEDIA_TYPE

_REFERENCE = "#/components/schemas/{model}"


def document(actions: Iterable[Action], *, title: str, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document with one operation for each action."""
    listed = list(actions)
    results = {action.name: _result_model(action) for action in listed}
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for action in listed:
        wanted.append((action.arguments_model, "validation"))
        wanted.append((results[action.name], "serialization"))
    schemas, components = models_json_schema(wanted, ref_template=_REFERENCE)
    definitions: dict[str, Any] = dict(components.get("$defs", {}))

    def resolved(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
        schema = schemas[(model, mode)]
        reference = schema.get("$ref", "")
        found: dict[str, Any] = definitions.get(reference.rsplit("/", 1)[-1], schema)
        return found

    paths: dict[str, Any] = {}
    for action in listed:
        arguments = resolved(action.arguments_model, "validation")
        result = resolved(results[action.name], "serialization")["properties"]["result"]
        path = "/api" + action.path.replace(":path}", "}")
        paths.setdefault(path, {})[action.method.lower()] = _operation(action, arguments, result)
    definitions["Problem"] = _PROBLEM
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _result_model(action: Action) -> type[BaseModel]:
    name = "".join(part.title() for part in action.name.replace("_", ".").split(".")) + "Result"
    return create_model(name, result=(action.signature.return_annotation, ...))


def _operation(action: Action, arguments: dict[str, Any], result: Any) -> dict[str, Any]:
    properties: dict[str, Any] = arguments.get("properties", {})
    required = set(arguments.get("required", ()))
    in_path = set(action.path_arguments)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": properties[name]}
        for name in action.path_arguments
    ]
    rest = {name: schema for name, schema in properties.items() if name not in in_path}
    operation: dict[str, Any] = {
        "operationId": action.name,
        "tags": [action.service],
        "summary": action.summary,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The result.",
                "content": {action.binary_answer or "application/json": {"schema": result}},
            },
            "default": {
                "description": "What is wrong, and what to do.",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
        "x-permission": action.name,
        "x-step-up": action.step_up,
    }
    if action.method == "POST":
        operation["requestBody"] = {
            "required": bool(required - in_path),
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": rest,
                        "required": sorted(required - in_path),
                        "additionalProperties": False,
                    }
                }
            },
        }
        if action.binary_argument is not None:
            operation["requestBody"]["content"][ARROW] = {
                "schema": {"type": "string", "format": "binary"}
            }
            parameters.extend(
                {"name": name, "in": "query", "required": False, "schema": schema}
                for name, schema in rest.items()
                if name != action.binary_argument
            )
    else:
        parameters.extend(
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in rest.items()
        )
    return operation


_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "details": {"type": "object"},
        "instance": {"type": "string"},
    },
}
