"""Arrow columns as numpy arrays of the platform's types, checked strictly.

bool, int64, float64 and timestamp (UTC microseconds, as int64) have a numpy form; strings,
bytes and lists stay in Arrow. Nothing is converted that could lose or change a value.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.types import DType, Element, ListType, Type
from falaj.kernel.errors import InvalidInput

FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last microsecond of the calendar, years 1 to 9999."""
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
        return _in_calendar(column, name) if dtype is DType.TIMESTAMP else column
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
        cast = column.cast(target)
    except pa.ArrowInvalid as error:
        raise InvalidInput(
            f"The column {name!r} holds values that {dtype} cannot keep: {error}.",
            hint="Round or clean them before they come here.",
        ) from None
    return _in_calendar(cast, name) if dtype is DType.TIMESTAMP else cast


def _in_calendar(column: pa.Array, name: str) -> pa.Array:
    """A column of instants; raises InvalidInput if one has no date, or sums would overflow."""
    ends = pc.min_max(column.cast(pa.int64()))
    if (
        ends["min"].is_valid
        and not FIRST_US <= ends["min"].as_py() <= ends["max"].as_py() <= LAST_US
    ):
        raise InvalidInput(
            f"The column {name!r} holds an instant that is not within the years 1 to 9999.",
            hint="Look for a wrong unit: instants are counted in microseconds since 1970.",
        )
    return column


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
    if dtype.element is Element.FLOAT32:
        numbers = flat if kinds.is_floating(flat.type) else typed(flat, DType.FLOAT64, name)
        elements = numbers.cast(pa.float32())
        if pc.any(pc.xor(pc.is_inf(elements), pc.is_inf(numbers))).as_py():
            raise InvalidInput(
                f"The column {name!r} has a number that is too large for {dtype}.",
                hint="Scale the values, or declare a list of float64.",
            )
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
    place = table.schema.get_field_index(name)
    if place < 0:
        names = table.column_names
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise InvalidInput(
            f"{of} has {'two columns' if name in names else 'no column'} {name!r}.",
            hint=f"It has: {', '.join(names[:20]) or 'no columns'}{more}.",
        )
    return table.column(place)


def table_of(rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows as JSON gives them, as an Arrow table.

    Args:
        rows: by column name; instants as ISO 8601 text with a zone or as datetimes, bytes
            as base64 text or as bytes.
        types: of the columns that are known; of others the values tell.

    Raises:
        InvalidInput: names the column whose values do not have its type.
    """
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(
                f"Row {number} is {type(row).__name__}, not values by column name.",
                hint='Send each row as an object: {"column": value, …}.',
            )
    names = list(dict.fromkeys([*types, *(name for row in rows for name in row)]))
    given = {name for row in rows for name in row}
    columns = {}
    for name in names:
        if name not in given and rows:
            continue  # the view that needs it says so
        values = [row.get(name) for row in rows]
        wanted = types.get(name)
        try:
            if wanted is not None:
                values = _of_type(values, wanted, name)
            columns[name] = pa.array(values, wanted)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
            raise InvalidInput(
                f"The column {name!r} holds a value that is not {wanted or 'of one type'}: "
                f"{error}.",
                hint="Send every value with the type of its column; null where there is none.",
            ) from None
    return pa.table(columns)


def _of_type(values: list[Any], wanted: pa.DataType, name: str) -> list[Any]:
    """The values as Arrow takes them; raises ValueError for a type that it would convert."""
    kinds = pa.types
    if kinds.is_timestamp(wanted):
        return [_instant(value, name) for value in values]
    if kinds.is_list(wanted) or kinds.is_fixed_size_list(wanted):
        return [None if value is None else _elements(value, wanted, name) for value in values]
    if kinds.is_binary(wanted) or kinds.is_large_binary(wanted):
        return [b64decode(v, validate=True) if isinstance(v, str) else v for v in values]
    for one in {type(value) for value in values} - {type(None)}:
        whole, boolean = issubclass(one, Integral), issubclass(one, bool | np.bool_)
        if (
            (kinds.is_integer(wanted) and (boolean or not whole))
            or (kinds.is_floating(wanted) and (boolean or not issubclass(one, Real)))
            or (kinds.is_string(wanted) and not issubclass(one, str))
        ):
            raise ValueError(f"there is one of the type {one.__name__}")
    return values


def _elements(value: Any, wanted: pa.DataType, name: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{type(value).__name__} is no list")  # noqa: TRY004 (as Arrow says it)
    return _of_type(list(value), wanted.value_type, name)


def _instant(value: Any, name: str) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
        raise InvalidInput(
            f"The column {name!r} holds {str(value)[:60]!r}, which is no instant with a zone.",
            hint="Write times as 2026-01-31T12:00:00Z.",
        )
    return value
