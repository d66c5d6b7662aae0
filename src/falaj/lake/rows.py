"""Rows on their way into a table: one form for each type, and a schema that must fit."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from falaj.lake.model import COLUMN_NAME, SchemaMismatch

INSTANT = pa.timestamp("us", tz="UTC")
_WIDTHS = {
    pa.int8(): 8,
    pa.int16(): 16,
    pa.int32(): 32,
    pa.int64(): 64,
}
_UNSIGNED = {pa.uint8(): 8, pa.uint16(): 16, pa.uint32(): 32, pa.uint64(): 64}


def prepared(table: str, rows: pa.Table) -> pa.Table:
    """The rows in the types that a lake table can hold.

    Instants become microseconds in UTC (exactly, or it is an error), dictionaries their
    values, large and view types plain ones.

    Raises:
        SchemaMismatch: a column name is not usable or repeated, a timestamp has no zone or
            is finer than a microsecond, or a type has no place in a table.
    """
    seen: set[str] = set()
    if not rows.num_columns:
        raise SchemaMismatch(f"The rows for {table!r} have no columns.", hint="Give at least one.")
    columns: dict[str, pa.ChunkedArray] = {}
    for name in rows.column_names:
        if not COLUMN_NAME.match(name):
            raise SchemaMismatch(
                f"The column {name!r} of {table!r} has a name that a table cannot have.",
                hint="Use letters, digits and underscores, not beginning with a digit.",
            )
        if name.lower() in seen:
            raise SchemaMismatch(
                f"The column {name!r} of {table!r} occurs twice (names differ by case at most).",
                hint="Rename one of them.",
            )
        seen.add(name.lower())
        columns[name] = _column(table, name, rows.column(name))
    return pa.table(columns)


def fitted(
    table: str, rows: pa.Table, schema: pa.Schema, *, add_columns: bool
) -> tuple[pa.Table, list[pa.Field]]:
    """Prepared rows in the order and types of an existing table, and the columns to add to it.

    Raises:
        SchemaMismatch: a missing, unexpected or differently typed column, by name.
    """
    there, known = set(rows.column_names), set(schema.names)
    missing = [name for name in schema.names if name not in there]
    added = [field for field in rows.schema if field.name not in known]
    if missing:
        raise SchemaMismatch(
            f"The rows for {table!r} lack the column{_s(missing)} {_told(missing)}.",
            hint="Give every column of the table; null where there is no value.",
            missing=missing,
        )
    if added and not add_columns:
        names = [field.name for field in added]
        raise SchemaMismatch(
            f"The table {table!r} has no column{_s(names)} {_told(names)}.",
            hint=f"It has {_told(schema.names)}; new ones must be asked for (add_columns).",
            unexpected=names,
        )
    ordered: dict[str, pa.ChunkedArray] = {}
    for field in schema:
        given = rows.column(field.name)
        if not _fits(given.type, field.type):
            raise SchemaMismatch(
                f"The column {field.name!r} of {table!r} is {field.type}, not {given.type}.",
                hint="Convert the values first; nothing was written.",
                column=field.name,
                expected=str(field.type),
                given=str(given.type),
            )
        ordered[field.name] = given if given.type.equals(field.type) else given.cast(field.type)
    for field in added:
        _typed(table, field)
        ordered[field.name] = rows.column(field.name)
    return pa.table(ordered), added


def creatable(table: str, rows: pa.Table) -> pa.Table:
    """Prepared rows that may found a table; raises SchemaMismatch for a column without a type."""
    for field in rows.schema:
        _typed(table, field)
    return rows


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type of an Arrow type that ``prepared`` lets through.

    Raises:
        KeyError: a type that it does not let through.
    """
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        inner = ", ".join(f'"{field.name}" {sql_type(field.type)}' for field in kind)
        return f"STRUCT({inner})"
    return _SQL_TYPES[kind]


_SQL_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    INSTANT: "TIMESTAMPTZ",
    pa.null(): "NULL",
}


def _typed(table: str, field: pa.Field) -> None:
    if pa.types.is_null(field.type):
        raise SchemaMismatch(
            f"The new column {field.name!r} of {table!r} has no type: all its values are null.",
            hint="Cast it to the type that it shall have.",
        )


def _column(table: str, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _column(table, name, values.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        return _instants(table, name, values)
    plain = _plain(kind)
    try:
        sql_type(plain)
    except KeyError:
        raise SchemaMismatch(
            f"The column {name!r} of {table!r} has the type {kind}, which no table can hold.",
            hint="Use booleans, numbers, decimals, text, bytes, dates, instants, lists or structs.",
        ) from None
    return values if plain.equals(kind) else values.cast(plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    of = pa.types
    if of.is_large_list(kind) or of.is_fixed_size_list(kind) or of.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    plainer = (
        (of.is_large_string(kind) or of.is_string_view(kind), pa.string()),
        (
            of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind),
            pa.binary(),
        ),
        (of.is_date64(kind), pa.date32()),
        (of.is_time(kind), pa.time64("us")),
        (of.is_float16(kind), pa.float32()),
    )
    return next((plain for applies, plain in plainer if applies), kind)


def _instants(table: str, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if values.type.tz is None:
        raise SchemaMismatch(
            f"The column {name!r} of {table!r} holds timestamps without a time zone.",
            hint="Say which zone they are in: an instant is kept in UTC.",
        )
    try:
        return pc.cast(values, INSTANT)
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(
            f"The column {name!r} of {table!r} cannot be kept in microseconds: {error}.",
            hint="Round it to microseconds first.",
        ) from None


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    if given.equals(wanted) or pa.types.is_null(given):
        return True
    if pa.types.is_list(given) and pa.types.is_list(wanted):
        return _fits(given.value_type, wanted.value_type)
    if pa.types.is_struct(given) and pa.types.is_struct(wanted):
        return [f.name for f in given] == [f.name for f in wanted] and all(
            _fits(a.type, b.type) for a, b in zip(given, wanted, strict=True)
        )
    if wanted in _WIDTHS:
        return (given in _WIDTHS and _WIDTHS[given] < _WIDTHS[wanted]) or (
            given in _UNSIGNED and _UNSIGNED[given] < _WIDTHS[wanted]
        )
    if wanted in _UNSIGNED:
        return given in _UNSIGNED and _UNSIGNED[given] < _UNSIGNED[wanted]
    return bool(wanted == pa.float64() and given == pa.float32())


def _s(names: list[str]) -> str:
    return "" if len(names) == 1 else "s"


def _told(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
