"""The types of keys, features and request fields.

Scalars are ``DType``. A list has an element type and, if it is fixed, a length:
``list[int64]`` (variable), ``list[float64, 3]`` (fixed), ``embedding[384]`` (a fixed list
of float32).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

LONGEST_LIST = 65_536
_LIST = re.compile(r"list\[ *([a-z0-9]+) *(?:, *([0-9]{1,6}) *)?\]|embedding\[ *([0-9]{1,6}) *\]")


class DType(StrEnum):
    """The scalar types."""

    BOOL = "bool"
    INT64 = "int64"
    FLOAT64 = "float64"
    STRING = "string"
    TIMESTAMP = "timestamp"
    """An instant; as a number it is UTC microseconds since 1970."""
    BYTES = "bytes"


class Element(StrEnum):
    """What a list is made of."""

    BOOL = "bool"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class ListType:
    """A list of elements that are never null; ``length`` is None where it varies."""

    element: Element
    length: int | None = None

    @property
    def value(self) -> str:
        """The type as it is written in a definition."""
        if self.length is None:
            return f"list[{self.element}]"
        if self.element is Element.FLOAT32:
            return f"embedding[{self.length}]"
        return f"list[{self.element}, {self.length}]"

    def __str__(self) -> str:
        return self.value


Type = DType | ListType
"""The type of a feature."""


def is_fixed_width(dtype: Type) -> bool:
    """True if a value takes eight bytes in a row: numbers, bools and instants."""
    return isinstance(dtype, DType) and dtype not in (DType.STRING, DType.BYTES)


def type_of(value: Any) -> Type:
    """The type that a text names; a type is returned as it is.

    Raises:
        ValueError: the text names no type.
    """
    if isinstance(value, DType | ListType):
        return value
    if isinstance(value, str):
        found = _LIST.fullmatch(value)
        if found is None:
            if value in list(DType):
                return DType(value)
        elif found[1] in {*Element, None}:
            length = found[2] or found[3]
            if length is None or 0 < int(length) <= LONGEST_LIST:
                element = Element(found[1]) if found[1] else Element.FLOAT32
                return ListType(element, int(length) if length else None)
    raise ValueError(
        f"{str(value)[:60]!r} is no type: use {', '.join(DType)}, list[element], "
        f"list[element, length] or embedding[length] (length at most {LONGEST_LIST})"
    )


FeatureType = Annotated[
    Type, BeforeValidator(type_of), PlainSerializer(lambda dtype: dtype.value, return_type=str)
]
"""A type as a field of a definition, written as text."""
