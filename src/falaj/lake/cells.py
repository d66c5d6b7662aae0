"""Values of a row as bytes and back, exactly, for every type that a lake table can hold."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def packed(columns: Sequence[pa.ChunkedArray], indices: Sequence[int]) -> list[bytes]:
    """Each of these rows as one text of bytes: a MessagePack array of its values."""
    if not indices:
        return []
    chosen = pa.array(indices, pa.int64())
    lists = [_as_plain(column.take(chosen)) for column in columns]
    return [_encode(row) for row in zip(*lists, strict=True)]


def unpacked(rows: Sequence[bytes | None], width: int) -> list[list[Any]]:
    """The values by column; None for all of a row that is None."""
    nothing = (None,) * width
    opened = [nothing if row is None else _decode(row) for row in rows]
    return [list(column) for column in zip(*opened, strict=True)] if opened else [[]] * width


def restored(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values of ``unpacked`` as an array of the column's type (or one that it was widened to)."""
    if pa.types.is_nested(kind) and _has_decimals(kind):
        return pa.array([_decimals(value, kind) for value in values], kind)
    if pa.types.is_decimal(kind):
        return pa.array([_decimals(value, kind) for value in values], kind)
    return pa.array(values, _plain(kind)).cast(kind)


def _as_plain(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if _has_decimals(kind):
        return [_texts(value, kind) for value in _without_decimals(column).to_pylist()]
    plain = _plain(kind)
    return (column if plain.equals(kind) else column.cast(plain)).to_pylist()  # type: ignore[no-any-return]


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type whose Python values MessagePack holds exactly."""
    of = pa.types
    if of.is_timestamp(kind) or of.is_time(kind):
        return pa.int64()
    if of.is_date32(kind):
        return pa.int32()
    if of.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if of.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind


def _has_decimals(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _has_decimals(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_has_decimals(field.type) for field in kind)
    return bool(pa.types.is_decimal(kind))


def _without_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants and days as numbers, decimals left as they are."""
    return column.cast(_but_decimals(column.type))


def _but_decimals(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_but_decimals(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _but_decimals(field.type)) for field in kind])
    return kind if pa.types.is_decimal(kind) else _plain(kind)


def _texts(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_decimal(kind):
        return str(value)
    if pa.types.is_list(kind):
        return [_texts(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _texts(value[field.name], field.type) for field in kind}
    return value


def _decimals(value: Any, kind: pa.DataType) -> Any:
    """The value as pyarrow takes it for a type with decimals in it."""
    if value is None:
        return None
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_list(kind):
        return [_decimals(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _decimals(value[field.name], field.type) for field in kind}
    if _plain(kind).equals(kind):
        return value
    return pa.scalar(value, _plain(kind)).cast(kind)


__all__ = ["packed", "restored", "unpacked"]
