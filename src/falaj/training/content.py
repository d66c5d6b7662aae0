"""The content of a table as one hash: the same rows in the same order, whoever holds them.

How the table is cut into chunks, whether words are dictionary-encoded, and what lies
under a null play no part.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.kernel.errors import InvalidInput


def canonical(table: pa.Table) -> pa.Table:
    """The table with the types that the lake keeps: no dictionaries, microseconds in UTC."""
    fields, columns = [], []
    for name in table.column_names:
        column = table.column(name)
        kind = _kept_type(column.type)
        if kind != column.type:
            column = column.cast(kind, safe=False)
        fields.append(pa.field(name, kind))
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


def content_hash(table: pa.Table) -> str:
    """``sha256:…`` over names, types and values, in the order of columns and rows.

    Raises:
        InvalidInput: a column has a nested type.
    """
    digest = hashlib.sha256(f"rows={table.num_rows}\n".encode())
    for name in table.column_names:
        array = table.column(name).combine_chunks()
        kind = _kept_type(array.type)
        array = array.cast(kind, safe=False)
        if isinstance(array, pa.ChunkedArray):  # an empty one, or text beyond 2 GB
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], kind)
        digest.update(f"{name}\0{kind}\n".encode())
        digest.update(np.packbits(_known(array)).tobytes())
        for part in _values(array, kind, name):
            digest.update(part)
    return "sha256:" + digest.hexdigest()


def _kept_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _kept_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_null(kind):
        return pa.float64()
    return kind


def _known(array: pa.Array) -> Any:
    return array.is_valid().to_numpy(zero_copy_only=False)


def _values(array: pa.Array, kind: pa.DataType, name: str) -> list[bytes]:
    """The values as bytes, zero where a value is missing."""
    if pa.types.is_boolean(kind):
        filled = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
        return [np.packbits(filled).tobytes()]
    if pa.types.is_timestamp(kind):
        return [pc.fill_null(array.cast(pa.int64()), 0).to_numpy().tobytes()]
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return [pc.fill_null(array.cast(pa.int32()), 0).to_numpy().tobytes()]
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = pc.fill_null(array, "" if pa.types.is_string(kind) else b"")
        lengths = pc.binary_length(filled).to_numpy().astype(np.int64).tobytes()
        compact = filled.take(pa.array(np.arange(len(filled)))) if filled.offset else filled
        data = compact.buffers()[2]
        first, last = _offsets(compact)
        return [lengths, data.to_pybytes()[first:last] if data is not None else b""]
    if pa.types.is_decimal(kind):
        return ["\n".join(map(str, array.to_pylist())).encode()]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        if pa.types.is_floating(kind):
            values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
        return [np.ascontiguousarray(values).tobytes()]
    raise InvalidInput(
        f"The column {name!r} has the type {kind}, which a training set cannot hold.",
        hint="Use numbers, booleans, text or instants.",
    )


def _offsets(array: pa.Array) -> tuple[int, int]:
    """Where the text of a string array without an offset begins and ends in its buffer."""
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return 0, 0
    offsets = np.frombuffer(buffer, dtype=np.int32, count=len(array) + 1)
    return int(offsets[0]), int(offsets[-1])
