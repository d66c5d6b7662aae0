"""Checks of the request fields that come with a read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from falaj.features.types import DType
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput

_NUMBERS_EXACT_TO = 1 << 53


def lacks(name: str, what: str) -> InvalidInput:
    """The refusal of a request in which something is not given."""
    return InvalidInput(
        f"The {what} {name!r} is not given.",
        hint="Give every key and request field; null (None) where it is not known.",
    )


def checker(name: str, dtype: DType) -> Callable[[Any], Any]:
    """Checks and converts one request field that is not null; raises InvalidInput."""

    def refused(value: Any) -> InvalidInput:
        told = "a time without a zone" if isinstance(value, datetime) else type(value).__name__
        return InvalidInput(
            f"The request field {name!r} is {told} ({str(value)[:60]!r}), not {dtype}.",
            hint="Give the declared type; times as UTC microseconds or ISO 8601 with a zone.",
        )

    def plain(value: Any) -> Any:
        if type(value) is not kind:
            raise refused(value)
        return value

    def number(value: Any) -> float:
        if type(value) is float:
            return value
        if type(value) is not int or abs(value) > _NUMBERS_EXACT_TO:
            raise refused(value)
        return float(value)

    def integer(value: Any) -> int:
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            raise refused(value)
        return value

    def instant(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise refused(value) from None
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise refused(value)
            return microseconds(value)
        return integer(value)

    kind = {DType.BOOL: bool, DType.BYTES: bytes}.get(dtype, str)
    checks: dict[DType, Callable[[Any], Any]] = {
        DType.FLOAT64: number,
        DType.INT64: integer,
        DType.TIMESTAMP: instant,
    }
    return checks.get(dtype, plain)
