"""Arrow columns as numpy arrays of the platform's five types, checked strictly.

bool, int64, float64 and timestamp (UTC microseconds, as int64) have a numpy form; a
string stays in Arrow. Nothing is converted that could lose or change a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.model import DType
from falaj.kernel.errors import InvalidInput

Ints = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, Any]

ARROW: dict[DType, pa.DataType] = {
    DType.BOOL: pa.bool_(),
    DType.INT64: pa.int64(),
    DType.FLOAT64: pa.float64(),
    DType.STRING: pa.string(),
    DType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}
NUMPY: dict[DType, Any] = {
    DType.BOOL: np.bool_,
    DType.INT64: np.int64,
    DType.FLOAT64: np.float64,
    DType.STRING: np.object_,
    DType.TIMESTAMP: np.int64,
}


def typed(column: Any, dtype: DType, name: str) -> pa.Array:
    """A column as one Arrow array of exactly the type that ``dtype`` names.

    Widening that keeps every value (int32 to int64, float32 to float64, int to float64
    where exact, dictionary to string, any zone to UTC) is done.

    Raises:
        InvalidInput: another type, a value that would change, or a time without a zone.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # combining no chunks gives no array
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0)
    target = ARROW[dtype]
    source = column.type
    if source == target:
        return column
    if pa.types.is_null(source):
        return column.cast(target)
    if pa.types.is_dictionary(source):
        return typed(column.dictionary_decode(), dtype, name)
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
            return pa.array(self.values, pa.int64(), mask=kept).cast(ARROW[dtype])
        return pa.array(self.values, ARROW[dtype], mask=kept)


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
