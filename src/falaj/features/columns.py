"""Arrow columns as numpy arrays of the platform's types, checked strictly.

bool, int64, float64 and timestamp (UTC microseconds, as int64) have a numpy form; strings,
bytes and lists stay in Arrow. Nothing is converted that could lose or change a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.types import DType, Element, ListType, Type
from falaj.kernel.errors import InvalidInput

Ints = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, Any]

_ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "bytes": pa.binary(),
}


def arrow_type(dtype: Type) -> pa.DataType:
    """The Arrow type in which values of a type stand."""
    if isinstance(dtype, DType):
        return _ARROW[dtype]
    element = _ARROW[dtype.element]
    return pa.list_(element) if dtype.length is None else pa.list_(element, dtype.length)


NUMPY: dict[DType, Any] = {
    DType.BOOL: np.bool_,
    DType.INT64: np.int64,
    DType.FLOAT64: np.float64,
    DType.STRING: np.object_,
    DType.TIMESTAMP: np.int64,
    DType.BYTES: np.object_,
}


def typed(column: Any, dtype: Type, name: str) -> pa.Array:
    """A column as one Arrow array of exactly the type that ``dtype`` names.

    Widening that keeps every value (int32 to int64, float32 to float64, int to float64
    where exact, dictionary to string, any zone to UTC) is done.

    Raises:
        InvalidInput: another type, a value that would change, or a time without a zone.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # combining no chunks gives no array
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0)
    target = arrow_type(dtype)
    source = column.type
    if source == target and isinstance(dtype, DType):
        return column
    if pa.types.is_null(source):
        return column.cast(target)
    if pa.types.is_dictionary(source):
        return typed(column.dictionary_decode(), dtype, name)
    if isinstance(dtype, ListType):
        return _list(column, dtype, name)
    if not _widens(source, dtype):
        told = "no time zone" if pa.types.is_timestamp(source) else f"the type {source}"
        raise InvalidInput(
            f"The column {name!r} has {told}, where {dtype} is declared.",
            hint="Give timestamps with a zone (UTC); convert other columns explicitly, "
            "or declare the type that the data has.",
        )
    try:
        return column.cast(target)
    except pa.ArrowInvalid as error:
        raise InvalidInput(
            f"The column {name!r} holds values that {dtype} cannot keep: {error}.",
            hint="Round or clean them before they come here.",
        ) from None


def _list(column: pa.Array, dtype: ListType, name: str) -> pa.Array:
    """A list column; raises InvalidInput for another length, another element, or a null in it."""
    source, kinds = column.type, pa.types
    listed = kinds.is_list(source) or kinds.is_large_list(source)
    if not (listed or kinds.is_fixed_size_list(source)):
        raise InvalidInput(
            f"The column {name!r} has the type {source}, where {dtype} is declared.",
            hint="Give a list in each row.",
        )
    flat = column.flatten()
    if dtype.element is Element.FLOAT32 and kinds.is_floating(flat.type):
        elements = flat.cast(pa.float32())
    elif dtype.element is Element.FLOAT32:
        elements = typed(flat, DType.FLOAT64, name).cast(pa.float32())
    else:
        elements = typed(flat, DType(dtype.element.value), name)
    if elements.null_count:
        raise InvalidInput(
            f"The column {name!r} has a null within a list.",
            hint="Leave the element out, or make the whole list null.",
        )
    lengths = pc.list_value_length(column)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    sizes = np.where(missing, 0, lengths.fill_null(0).to_numpy(zero_copy_only=False))
    if dtype.length is not None:
        wrong = np.flatnonzero(~missing & (sizes != dtype.length))
        if len(wrong):
            raise InvalidInput(
                f"The column {name!r} has a list of {int(sizes[wrong[0]])} elements, where "
                f"{dtype} is declared.",
                hint=f"Give exactly {dtype.length} elements in each row, or null.",
            )
        whole = np.zeros((len(column), dtype.length), np.int64)
        whole[~missing] = np.arange(len(elements)).reshape(-1, dtype.length)
        filled = elements.take(pa.array(whole.ravel())) if len(elements) else None
        if filled is None:
            return pa.nulls(len(column), arrow_type(dtype))
        mask = pa.array(missing)
        return pa.FixedSizeListArray.from_arrays(filled, dtype.length, mask=mask)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), elements, mask=pa.array(missing))


def _widens(source: pa.DataType, dtype: DType) -> bool:
    kinds = pa.types
    if dtype is DType.INT64:
        return bool(kinds.is_integer(source))
    if dtype is DType.FLOAT64:
        return bool(kinds.is_integer(source) or kinds.is_floating(source))
    if dtype is DType.STRING:
        return bool(kinds.is_large_string(source) or source == pa.string_view())
    if dtype is DType.TIMESTAMP:
        return bool(kinds.is_timestamp(source) and source.tz is not None)
    if dtype is DType.BYTES:
        return bool(kinds.is_large_binary(source) or kinds.is_fixed_size_binary(source))
    return False


@dataclass(frozen=True)
class Values:
    """The values of a column in numpy; ``valid`` is False where the value is null.

    Shapes (n,); where invalid the value is 0 and means nothing.
    """

    values: Array
    valid: Array

    @classmethod
    def of(cls, column: Any, dtype: DType, name: str) -> Values:
        """From an Arrow column of that type (no string); raises InvalidInput."""
        array = typed(column, dtype, name)
        if dtype is DType.TIMESTAMP:
            array = array.cast(pa.int64())
        if not array.null_count:
            valid = np.ones(len(array), np.bool_)
        else:
            valid = array.is_valid().to_numpy(zero_copy_only=False)
            array = array.fill_null(False if dtype is DType.BOOL else 0)
        return cls(array.to_numpy(zero_copy_only=False), valid)

    def to_arrow(self, dtype: DType) -> pa.Array:
        """Back as Arrow, nulls in place."""
        kept = None if bool(self.valid.all()) else ~self.valid
        if dtype is DType.TIMESTAMP:
            return pa.array(self.values, pa.int64(), mask=kept).cast(arrow_type(dtype))
        return pa.array(self.values, arrow_type(dtype), mask=kept)


def instants(column: Any, name: str) -> Values:
    """A timestamp column as UTC microseconds; raises InvalidInput without a zone."""
    return Values.of(column, DType.TIMESTAMP, name)


def column_of(table: pa.Table, name: str, *, of: str) -> Any:
    """A table's column; raises InvalidInput naming what there is."""
    if name not in table.column_names:
        raise InvalidInput(
            f"{of} has no column {name!r}.",
            hint=f"It has: {', '.join(table.column_names) or 'no columns'}.",
        )
    return table.column(name)


def table_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows as JSON gives them, as an Arrow table.

    Args:
        rows: by column name; instants as ISO 8601 text with a zone or as datetimes.
        types: of the columns that are known; of others the values tell.

    Raises:
        InvalidInput: names the column whose values do not have its type.
    """
    names = list(dict.fromkeys([*types, *(name for row in rows for name in row)]))
    given = {name for row in rows for name in row}
    columns = {}
    for name in names:
        if name not in given and rows:
            continue  # the view that needs it says so
        values = [row.get(name) for row in rows]
        wanted = types.get(name)
        try:
            if wanted is not None and pa.types.is_timestamp(wanted):
                values = [_instant(value, name) for value in values]
            columns[name] = pa.array(values, wanted)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
            raise InvalidInput(
                f"The column {name!r} holds a value that is not {wanted or 'of one type'}: "
                f"{error}.",
                hint="Send every value with the type of its column; null where there is none.",
            ) from None
    return pa.table(columns)


def _instant(value: Any, name: str) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
        raise InvalidInput(
            f"The column {name!r} holds {str(value)[:60]!r}, which is no instant with a zone.",
            hint="Write times as 2026-01-31T12:00:00Z.",
        )
    return value


def entity_codes(events: Sequence[pa.Array], asked: Sequence[pa.Array]) -> tuple[Ints, Ints]:
    """Dense numbers for the entities of events and the same numbers for asked rows.

    Args:
        events: the key columns of the events, one Arrow array each.
        asked: the key columns of the spine, same order and types.

    Returns:
        (n_events,) and (n_asked,) int64; -1 where a key is null or, in ``asked``,
        belongs to no event.
    """
    mine = np.zeros(len(events[0]), np.int64)
    theirs = np.zeros(len(asked[0]), np.int64)
    size = 1
    for of_events, of_asked in zip(events, asked, strict=True):
        known = pc.unique(of_events).drop_null()
        here, there = _positions(of_events, known), _positions(of_asked, known)
        if size * max(len(known), 1) > 2**31:  # keep the product small: number anew
            present, mine = np.unique(mine, return_inverse=True)
            at = np.minimum(np.searchsorted(present, theirs), len(present) - 1)
            theirs = np.where(present[at] == theirs, at, -1)
            size = len(present)
        mine = np.where((mine < 0) | (here < 0), -1, mine * len(known) + here)
        theirs = np.where((theirs < 0) | (there < 0), -1, theirs * len(known) + there)
        size *= max(len(known), 1)
    return mine, theirs


def _positions(column: pa.Array, known: pa.Array) -> Ints:
    found = pc.index_in(column, value_set=known, skip_nulls=True).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
