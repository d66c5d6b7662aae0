"""Arguments as text: how a command line, a path or a query string writes a typed value.

A value of a text-like type (text, instant, choice) is written as it is; every other one
as JSON, where a bare word that is not JSON stands for itself, and where words are listed
they may stand between commas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, SecretStr, TypeAdapter

from falaj.kernel.actions import Action
from falaj.kernel.binary import base64_of
from falaj.kernel.numbers import written


@lru_cache(maxsize=4096)
def _is_text(action: Action, name: str) -> bool:
    schema = _schema(action, name)
    return _only_strings(schema, schema.get("$defs", {}))


@lru_cache(maxsize=4096)
def _is_words(action: Action, name: str) -> bool:
    schema = _schema(action, name)
    items: Mapping[str, Any] | None = schema.get("items")
    return items is not None and _only_strings(items, schema.get("$defs", {}))


def _schema(action: Action, name: str) -> dict[str, Any]:
    annotation = action.signature.parameters[name].annotation
    return TypeAdapter(annotation).json_schema(mode="validation")


def _only_strings(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    if "$ref" in schema:
        return _only_strings(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    choices = schema.get("anyOf")
    if choices:
        return all(
            item.get("type") == "null" or _only_strings(item, definitions) for item in choices
        )
    return schema.get("type") == "string"


def from_text(action: Action, name: str, text: str) -> Any:
    """The value that a text stands for, not yet checked against the signature."""
    if name not in action.signature.parameters or _is_text(action, name):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [word.strip() for word in text.split(",")] if _is_words(action, name) else text


def to_text(action: Action, name: str, value: Any) -> str:
    """The text of a JSON-ready value; the inverse of ``from_text``."""
    if isinstance(value, str) and _is_text(action, name):
        return value
    return json.dumps(value)


def jsonable(value: Any) -> Any:
    """A value as JSON for the wire, secrets included: only for a call's own arguments."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: jsonable(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return written(value) if isinstance(value, float) else value
    if isinstance(value, bytes):
        value = base64_of(value)
    return TypeAdapter(type(value)).dump_python(value, mode="json")
