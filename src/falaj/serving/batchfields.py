"""Request fields by column: the checks of a live request, on a batch of rows at once.

A field that arrives in its natural type is checked by numpy. Anything else (a number where
a text is asked for, the text of a CSV file) is converted value by value, by the very rule
that decodes a live request, so that both accept the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from falaj.serving.decoding import TYPES
from falaj.serving.model import FieldType, RequestField

INSTANT = pa.timestamp("us", tz="UTC")
ARROW = {
    FieldType.FLOAT: pa.float64(),
    FieldType.INT: pa.int64(),
    FieldType.STRING: pa.string(),
    FieldType.BOOLEAN: pa.bool_(),
    FieldType.TIMESTAMP: INSTANT,
}
"""The type of each field's values, once they are checked."""
_LONGEST_TEXT = 4_096
_LARGEST = np.float64(TYPES[FieldType.FLOAT].__metadata__[0].le)
Mask = NDArray[np.bool_]
Natural = tuple[pa.Array, Mask | None] | None


@dataclass(frozen=True)
class Checked:
    """One field of n rows; ``wrong`` rows hold null, and ``reasons`` say why."""

    values: pa.Array
    wrong: Mask | None
    """(n,) True where the value is refused; None if none is."""
    reasons: dict[int, str]


class FieldCheck:
    """Checks one request field.

    Args:
        field: the field.
        as_text: the values are the text of a file (CSV), where an empty one is null.
    """

    def __init__(self, field: RequestField, *, as_text: bool = False) -> None:
        self.name = field.name
        self.required = field.required
        self._kind = field.type
        self._nullable = field.nullable or not field.required
        self._type = TYPES[field.type] | None if self._nullable else TYPES[field.type]
        self._as_text = as_text and field.type is not FieldType.STRING

    def checked(self, column: pa.Array | None, n: int) -> Checked:
        """The values of n rows; a column that is not there is null in each."""
        if column is None:
            return Checked(pa.nulls(n, ARROW[self._kind]), None, {})
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        found = None if self._as_text else self._natural(column)
        if found is None:
            return self._by_value(column)
        values, wrong = found
        if not self._nullable and column.null_count:
            nulls = pc.is_null(column).to_numpy(zero_copy_only=False)
            wrong = nulls if wrong is None else wrong | nulls
        if wrong is None or not wrong.any():
            return Checked(values, None, {})
        places = np.flatnonzero(wrong)
        reasons = {int(place): self._why(column[int(place)].as_py()) for place in places}
        return Checked(_nulled(values, wrong), wrong, reasons)

    def _natural(self, column: pa.Array) -> Natural:
        """The values and which are wrong, if the column has a type of which all may be right."""
        kind = column.type
        if pa.types.is_null(kind):
            return pa.nulls(len(column), ARROW[self._kind]), None
        rule = _NATURAL[self._kind]
        return rule(column, kind)

    def _by_value(self, column: pa.Array) -> Checked:
        """Each value by the rule of a live request; those that differ are converted once."""
        known: dict[Any, tuple[Any, str]] = {}
        values: list[Any] = []
        wrong = np.zeros(len(column), np.bool_)
        reasons: dict[int, str] = {}
        for place, value in enumerate(column.to_pylist()):
            key = (type(value), value) if isinstance(value, str | int | float) else None
            found = known.get(key) if key is not None else None
            if found is None:
                found = self._converted(value)
                if key is not None and len(known) < 100_000:
                    known[key] = found
            values.append(found[0])
            if found[1]:
                wrong[place] = True
                reasons[place] = found[1]
        return Checked(pa.array(values, ARROW[self._kind]), wrong if reasons else None, reasons)

    def _converted(self, value: Any) -> tuple[Any, str]:
        """The value, or None and why it is refused."""
        try:
            if self._as_text and isinstance(value, str):
                found = _from_text(value, self._kind, self._type)
            else:
                found = msgspec.convert(value, self._type)
            if isinstance(found, datetime):
                found = found.astimezone(UTC)  # at the edge of the calendar it overflows
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            return None, self._told(str(error), value)
        return found, ""

    def _why(self, value: Any) -> str:
        return self._converted(value)[1] or self._told("Refused", value)

    def _told(self, reason: str, value: Any) -> str:
        shown = value if isinstance(value, str) else repr(value)
        return f"{self.name}: {reason.rstrip('.')} ({shown[:60]})"


def _floats(column: pa.Array, kind: pa.DataType) -> Natural:
    if pa.types.is_integer(kind):
        return column.cast(pa.float64(), safe=False), None
    if not pa.types.is_floating(kind):
        return None
    numbers = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(numbers) <= _LARGEST)
    if column.null_count:
        wrong &= column.is_valid().to_numpy(zero_copy_only=False)
    return column, wrong


def _ints(column: pa.Array, kind: pa.DataType) -> Natural:
    exact = pa.types.is_integer(kind) and kind != pa.uint64()
    return (column.cast(pa.int64()), None) if exact else None


def _texts(column: pa.Array, kind: pa.DataType) -> Natural:
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    lengths = pc.fill_null(pc.utf8_length(column), 0).to_numpy(zero_copy_only=False)
    return column.cast(pa.string()), lengths > _LONGEST_TEXT


def _booleans(column: pa.Array, kind: pa.DataType) -> Natural:
    return (column, None) if pa.types.is_boolean(kind) else None


def _instants(column: pa.Array, kind: pa.DataType) -> Natural:
    known = pa.types.is_timestamp(kind) and kind.tz is not None
    return (column.cast(INSTANT, safe=False), None) if known else None


_NATURAL = {
    FieldType.FLOAT: _floats,
    FieldType.INT: _ints,
    FieldType.STRING: _texts,
    FieldType.BOOLEAN: _booleans,
    FieldType.TIMESTAMP: _instants,
}


def _from_text(text: str, kind: FieldType, wanted: Any) -> Any:
    """A value from the text of a file; raises ValueError or a msgspec error."""
    text = text.strip()
    if not text:
        return msgspec.convert(None, wanted)
    if kind is FieldType.BOOLEAN:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError("Expected `bool` (true or false)")
        return text.lower() in ("true", "1")
    if kind in (FieldType.FLOAT, FieldType.INT):
        try:
            return msgspec.convert(float(text) if kind is FieldType.FLOAT else int(text), wanted)
        except ValueError:
            if kind is FieldType.FLOAT and text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
                raise
            raise ValueError(f"Expected `{kind}`") from None
    return msgspec.convert(text, wanted)


def instants_of(column: pa.Array) -> tuple[NDArray[np.int64], Mask]:
    """A column of instants as Unix microseconds, and which of them are there."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return column.cast(pa.int64()).fill_null(0).to_numpy(), valid


def _nulled(values: pa.Array, wrong: Mask) -> pa.Array:
    return pc.if_else(pa.array(wrong), pa.scalar(None, values.type), values)
