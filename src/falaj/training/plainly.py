"""What a fit is given and gives, as plain data and back: so that it can be done elsewhere.

Only classes of this package are rebuilt, by their names; no code and no pickle is sent.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from falaj.kernel.compute import Plain
from falaj.kernel.errors import InvalidInput

_KIND = "$"
_SCALARS = (bool, int, float, str)
_OURS = "falaj."
_CHUNK = 2**30
"""MessagePack holds no more than four gigabytes in one piece."""


def plainly(value: Any) -> Plain:
    """The value as plain data.

    Taken are numbers, text, bytes, lists, tuples, mappings, arrays of numpy, and enums,
    dataclasses and pydantic models of this package.

    Raises:
        InvalidInput: something in it is of another kind.
    """
    if value is None or type(value) in _SCALARS:  # numpy's float64 is a float too, and is not plain
        return value
    if isinstance(value, list):
        return [plainly(one) for one in value]
    tagged = _tagged_value(value) or _array_value(value)
    if tagged is None:
        raise InvalidInput(
            f"A {type(value).__name__} cannot be sent to another process.",
            hint="Send numbers, text, bytes, arrays, and lists and dicts of them.",
        )
    return tagged["value"] if tagged[_KIND] == "number" else tagged


def _tagged_value(value: Any) -> dict[str, Any] | None:
    tagged: dict[str, Any] | None = None
    if isinstance(value, Enum):
        tagged = _tagged("enum", of=_class_name(type(value)), value=value.value)
    elif isinstance(value, bytes):
        tagged = _tagged("bytes", parts=_parts(value))
    elif isinstance(value, tuple):
        tagged = _tagged("tuple", items=[plainly(one) for one in value])
    elif isinstance(value, Mapping):
        items = [[plainly(key), plainly(one)] for key, one in value.items()]
        tagged = _tagged("map", items=items)
    elif isinstance(value, BaseModel):
        tagged = _tagged("model", of=_class_name(type(value)), json=value.model_dump_json())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {one.name: plainly(getattr(value, one.name)) for one in dataclasses.fields(value)}
        tagged = _tagged("data", of=_class_name(type(value)), fields=named)
    return tagged


def _array_value(value: Any) -> dict[str, Any] | None:
    import numpy as np

    if isinstance(value, np.generic):
        return _tagged("number", value=value.item())
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        return None
    whole = np.ascontiguousarray(value)
    data = _parts(whole.reshape(-1).view(np.uint8).data)
    return _tagged("array", dtype=whole.dtype.str, shape=list(value.shape), parts=data)


def rebuilt_from(plain: Plain) -> Any:
    """The value that ``plainly`` was given; mappings come back as dicts.

    Raises:
        InvalidInput: it names a class that is not of this package.
    """
    if isinstance(plain, list):
        return [rebuilt_from(one) for one in plain]
    if isinstance(plain, dict):
        return _BACK[plain[_KIND]](plain)
    return plain


def _array(plain: dict[str, Any]) -> Any:
    import numpy as np

    joined = _joined(plain["parts"])
    flat = np.frombuffer(joined, dtype=np.dtype(plain["dtype"]))
    return flat.reshape(plain["shape"]).copy()  # one's own, to be written into


def _map(plain: dict[str, Any]) -> Any:
    return {rebuilt_from(key): rebuilt_from(one) for key, one in plain["items"]}


def _data(plain: dict[str, Any]) -> Any:
    found = _class_of(plain["of"])
    if not dataclasses.is_dataclass(found):
        raise _no_class(plain["of"])
    return found(**{name: rebuilt_from(one) for name, one in plain["fields"].items()})


def _model(plain: dict[str, Any]) -> Any:
    found = _class_of(plain["of"])
    if not issubclass(found, BaseModel):
        raise _no_class(plain["of"])
    return found.model_validate_json(plain["json"])


def _enum(plain: dict[str, Any]) -> Any:
    found = _class_of(plain["of"])
    if not issubclass(found, Enum):
        raise _no_class(plain["of"])
    return found(plain["value"])


_BACK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "bytes": lambda plain: _joined(plain["parts"]),
    "array": _array,
    "tuple": lambda plain: tuple(rebuilt_from(one) for one in plain["items"]),
    "map": _map,
    "data": _data,
    "model": _model,
    "enum": _enum,
}


def _tagged(kind: str, **more: Any) -> dict[str, Any]:
    return {_KIND: kind, **more}


def _parts(data: Any) -> list[Any]:
    view = memoryview(data)
    return [view[at : at + _CHUNK] for at in range(0, len(view), _CHUNK)] or [b""]


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _class_name(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not name.startswith(_OURS) or not kind.__qualname__.isidentifier():
        raise InvalidInput(
            f"An object of {name} cannot be sent to another process.",
            hint="Send numbers, text, bytes, arrays, and lists and dicts of them.",
        )
    return name


def _class_of(name: str) -> type[Any]:
    module, _, qualname = name.partition(":")
    if not module.startswith(_OURS):
        raise _no_class(name)
    found = getattr(importlib.import_module(module), qualname, None)
    if not isinstance(found, type):
        raise _no_class(name)
    return found


def _no_class(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name} is no class that a fit may send.", hint="Both sides need the same version."
    )
