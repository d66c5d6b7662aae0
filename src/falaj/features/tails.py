"""Values without a fixed width: how they stand behind a row, and how they come back.

Strings stand as UTF-8, bytes as they are, lists of numbers as their little-endian elements
(bools as one byte each), lists of strings as the count, the lengths (four bytes each) and
the texts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints
from falaj.features.types import DType, Element, ListType, Type

ELEMENTS: dict[Element, Any] = {
    Element.BOOL: np.dtype(np.bool_),
    Element.INT64: np.dtype("<i8"),
    Element.FLOAT32: np.dtype("<f4"),
    Element.FLOAT64: np.dtype("<f8"),
    Element.TIMESTAMP: np.dtype("<i8"),
}
"""The form of a list's elements; strings have none."""


@dataclass(frozen=True)
class Ragged:
    """n values of bytes within one buffer: (n,) starts and lengths."""

    data: Array
    starts: Ints
    lengths: Ints


def ragged(column: pa.Array, dtype: Type) -> Ragged:
    """The bytes of the values of a typed column; a null has none."""
    if not isinstance(dtype, ListType):
        return _ragged(column.cast(pa.binary()))
    if dtype.element is Element.STRING:
        lists = column.to_pylist()
        return _ragged(pa.array([None if one is None else _texts(one) for one in lists]))
    if len(column) == 0:
        return Ragged(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    data = elements(column.values, dtype.element)
    size = data.dtype.itemsize
    offsets = column.offsets.to_numpy().astype(np.int64) * size
    return _without_nulls(column, Ragged(data.view(np.uint8), offsets[:-1], np.diff(offsets)))


def _ragged(column: pa.Array) -> Ragged:
    n = len(column)
    if n == 0 or pa.types.is_null(column.type):
        return Ragged(np.zeros(0, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64))
    _, offsets, data = column.buffers()
    at = np.frombuffer(offsets, np.int32)[column.offset : column.offset + n + 1].astype(np.int64)
    texts = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return _without_nulls(column, Ragged(texts, at[:-1], np.diff(at)))


def _without_nulls(column: pa.Array, found: Ragged) -> Ragged:
    if not column.null_count:
        return found
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return Ragged(found.data, found.starts, np.where(there, found.lengths, 0))


def elements(flat: pa.Array, element: Element) -> Array:
    """The elements of lists in their numpy form, contiguous."""
    if element is Element.TIMESTAMP:
        flat = flat.cast(pa.int64())
    found = flat.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(found.astype(ELEMENTS[element], copy=False))


def copied(into: Array, starts: Ints, values: Ragged) -> None:
    """Copy values into a buffer of bytes, each to its start."""
    total = int(values.lengths.sum())
    if not total:
        return
    before = np.cumsum(values.lengths) - values.lengths
    step = np.arange(total)
    into[step + np.repeat(starts - before, values.lengths)] = values.data[
        step + np.repeat(values.starts - before, values.lengths)
    ]


def reader(dtype: Type) -> Callable[[bytes], Any]:
    """Turns the bytes of one value into the value: text, bytes, or an array or list."""
    if dtype is DType.STRING:
        return bytes.decode
    if not isinstance(dtype, ListType):
        return bytes
    if dtype.element is Element.STRING:
        return _texts_of
    form = ELEMENTS[dtype.element]
    return lambda raw: np.frombuffer(raw, form)


def _texts(texts: list[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    lengths = struct.pack(f"<{len(encoded) + 1}I", len(encoded), *map(len, encoded))
    return lengths + b"".join(encoded)


def _texts_of(raw: bytes) -> list[str]:
    if not raw:  # a null has no bytes
        return []
    (n,) = struct.unpack_from("<I", raw)
    at, found = 4 + 4 * n, []
    for length in struct.unpack_from(f"<{n}I", raw, 4):
        found.append(raw[at : at + length].decode())
        at += length
    return found
