"""The content of a table as one hash: the same rows in the same order, whoever holds them.

How the table is cut into chunks or batches, whether words are dictionary-encoded, and what
lies under a null play no part. A table that does not fit into memory is hashed in batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
        InvalidInput: a column has a type that no table of features holds.
    """
    return content_hash_of([table])


def content_hash_of(batches: Iterable[pa.Table]) -> str:
    """``content_hash`` of a table that comes in batches, one at least."""
    hashed = ContentHash()
    for batch in batches:
        hashed.update(batch)
    return hashed.digest()


class ContentHash:
    """The hash of a table that comes in batches of any size, all with the same columns."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] | None = None
        self.n_rows = 0

    def update(self, batch: pa.Table) -> None:
        """Add the next rows; raises InvalidInput as ``content_hash`` does."""
        if self._columns is None:
            self._columns = {
                field.name: _Column(_kept_type(field.type), field.name) for field in batch.schema
            }
        if list(self._columns) != batch.column_names:
            raise InvalidInput("The batches of a table have different columns.")
        self.n_rows += batch.num_rows
        for name, column in self._columns.items():
            for chunk in batch.column(name).chunks:
                column.update(chunk)

    def digest(self) -> str:
        """``sha256:…`` of all rows so far."""
        whole = hashlib.sha256(f"rows={self.n_rows}\n".encode())
        for name, column in (self._columns or {}).items():
            whole.update(f"{name}\0{column.kind}\n".encode())
            whole.update(column.digest())
        return "sha256:" + whole.hexdigest()


class _Column:
    """One column, in parts that can each be hashed as they come: which values are there,
    how long they are, and what they are."""

    def __init__(self, kind: pa.DataType, name: str) -> None:
        self.kind = _told(kind)
        self._type = kind
        self._name = name
        self._valid, self._lengths, self._data = (hashlib.sha256() for _ in range(3))
        nested = pa.types.is_list(kind)
        self._inner = _Column(kind.value_type, name) if nested else None

    def update(self, array: pa.Array) -> None:
        if array.type != self._type:
            array = array.cast(self._type, safe=False)
        self._valid.update(np.ascontiguousarray(_known(array)).tobytes())
        if self._inner is not None:
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            self._lengths.update(lengths.astype(np.int64).tobytes())
            self._inner.update(array.flatten())  # without what lies under nulls
            return
        if pa.types.is_string(self._type) or pa.types.is_binary(self._type):
            lengths, data = _texts(array, pa.types.is_string(self._type))
            self._lengths.update(lengths)
            self._data.update(data)
            return
        self._data.update(_values(array, self._type, self._name))

    def digest(self) -> bytes:
        inner = self._inner.digest() if self._inner is not None else b""
        return self._valid.digest() + self._lengths.digest() + self._data.digest() + inner


def _told(kind: pa.DataType) -> str:
    """A type in words that do not depend on how the items of a list are called."""
    return f"list<{_told(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _kept_type(kind: pa.DataType) -> pa.DataType:
    of = pa.types
    if of.is_dictionary(kind):
        return _kept_type(kind.value_type)
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return pa.list_(_kept_type(kind.value_type))
    plainer = (
        (of.is_timestamp(kind), pa.timestamp("us", "UTC")),
        (of.is_large_string(kind) or of.is_string_view(kind), pa.string()),
        (of.is_large_binary(kind) or of.is_binary_view(kind), pa.binary()),
        (of.is_null(kind), pa.float64()),
    )
    return next((plain for applies, plain in plainer if applies), kind)


def _known(array: pa.Array) -> Any:
    return array.is_valid().to_numpy(zero_copy_only=False)


def _values(array: pa.Array, kind: pa.DataType, name: str) -> bytes:
    """The values as bytes, zero where a value is missing."""
    if pa.types.is_boolean(kind):
        filled = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
        return bytes(np.ascontiguousarray(filled).tobytes())
    if pa.types.is_timestamp(kind):
        return bytes(pc.fill_null(array.cast(pa.int64()), 0).to_numpy().tobytes())
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return bytes(pc.fill_null(array.cast(pa.int32()), 0).to_numpy().tobytes())
    if pa.types.is_decimal(kind):
        return "".join(f"{value}\n" for value in array.to_pylist()).encode()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        if pa.types.is_floating(kind):
            values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
        return bytes(np.ascontiguousarray(values).tobytes())
    raise InvalidInput(
        f"The column {name!r} has the type {kind}, which a training set cannot hold.",
        hint="Use numbers, booleans, text, bytes, instants or lists of them.",
    )


def _texts(array: pa.Array, is_text: bool) -> tuple[bytes, bytes]:
    """The lengths of texts (0 for null) and their bytes one after the other."""
    filled = pc.fill_null(array, "" if is_text else b"")
    lengths = pc.binary_length(filled).to_numpy().astype(np.int64).tobytes()
    offsets = np.frombuffer(filled.buffers()[1] or b"\0" * 4, dtype=np.int32)
    first, last = int(offsets[filled.offset]), int(offsets[filled.offset + len(filled)])
    data = filled.buffers()[2]
    return lengths, data[first:last].to_pybytes() if data is not None else b""
