"""From rows as they stand in files to typed rows, and the reasons why some are not.

The work is done by a DuckDB of its own, in memory, that can reach no file and no network:
what a definition says in SQL can compute, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import duckdb
import pyarrow as pa

from falaj.ingest.expressions import HINT, objection
from falaj.ingest.files import Read
from falaj.ingest.model import TYPE, Format, Source, SourceBroken
from falaj.ingest.personal import is_secret
from falaj.kernel.errors import InvalidInput, LimitExceeded

Bench = duckdb.DuckDBPyConnection
RAW, TYPED, ROWS = "_raw", "_typed", "_rows"
"""Tables of a bench: as read; typed, with reasons; the usable rows with derived columns."""

_WHOLE = r"^\s*[+-]?[0-9]+\s*$"
_REAL = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_DAY = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}\s*$"
_ZONED = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?\s*([zZ]|[+-][0-9]{2}(:?[0-9]{2})?)\s*$"
_LOCAL = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?)?\s*$"
_ARTICLES = {"integer": "an integer", "instant": "an instant with a zone"}


@contextmanager
def bench(*, memory: str = "2GB", threads: int = 2) -> Iterator[Bench]:
    """A DuckDB in memory, closed to files, network and settings; errors told as ours."""
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": memory,
            "threads": str(threads),
            "temp_directory": "",  # it never spills: what it holds may not stand on disk
        }
    )
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    except duckdb.OutOfMemoryException:
        raise LimitExceeded(
            f"The rows need more than the {memory} of memory that a load may use.",
            hint="Load them in parts, or raise the limit.",
        ) from None
    finally:
        connection.close()


def name(column: str) -> str:
    """A column as a quoted SQL name."""
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A value as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def lay_out(
    bench: Bench, source: Source, read: Read, now: datetime, *, show_values: bool = True
) -> None:
    """Make the tables ``RAW``, ``TYPED`` and ``ROWS`` of what was read.

    ``TYPED`` has ``_row``, the typed columns and ``_reason`` (null if every value is of its
    type); ``ROWS`` has those without a reason, with derived columns. No error quotes a value
    of a source of persons, nor, without ``show_values``, of another.

    Raises:
        SourceBroken: a Parquet column has another type than declared; a derived column
            cannot be computed.
    """
    show_values = show_values and not is_secret(source)
    if source.format is Format.PARQUET:
        _same_types(source, read.rows.schema)
    if source.zone is not None:
        _known_zone(source)
    bench.register(RAW, read.rows)
    typed = [(column, _expression(source, column)) for column in source.columns]
    select = ", ".join(f"{expression} AS {name(column)}" for column, expression in typed)
    reasons = ", ".join(_reason(source, column, expression) for column, expression in typed)
    try:
        bench.execute(
            f"CREATE TEMP TABLE {TYPED} AS SELECT r._row, {select},"
            f" nullif(concat_ws('; ', {reasons}), '') AS _reason FROM {RAW} r"
        )
    except duckdb.ConversionException as error:  # of Parquet: an integer beyond 64 bits
        raise SourceBroken(
            f"A value of {source.name!r} does not fit the type of its column:"
            f" {plain(error, show_values=show_values)}.",
            hint="Declare a type that holds all values of the file.",
        ) from None
    derive(bench, source, now, show_values=show_values)


def derive(bench: Bench, source: Source, now: datetime, *, show_values: bool) -> None:
    """Make ``ROWS`` from ``TYPED``: the usable rows with their derived columns.

    Raises:
        SourceBroken: an expression is wrong, or fails for a value.
    """
    for column, said in source.derived.items():
        why = objection(said)  # plans ask, too; this one may have been applied before they did
        if why is not None:  # whatever else it holds would be run as well
            raise SourceBroken(
                f"The derived columns of {source.name!r} cannot be computed: of {column!r}, {why}.",
                hint=HINT,
            )
    derived = "".join(
        f", ({expression}\n) AS {name(column)}" for column, expression in source.derived.items()
    )
    if source.recorded_at and source.recorded_at not in [*source.columns, *source.derived]:
        derived += f", TIMESTAMPTZ {text(now.isoformat())} AS {name(source.recorded_at)}"
    try:
        bench.execute(
            f"CREATE TEMP TABLE {ROWS} AS SELECT * EXCLUDE (_reason){derived}"
            f" FROM {TYPED} WHERE _reason IS NULL"
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise SourceBroken(
            f"The derived columns of {source.name!r} cannot be computed:"
            f" {plain(error, show_values=show_values)}.",
            hint="Correct the expression; TRY_CAST and CASE help with odd values.",
        ) from None


def plain(error: Exception, *, show_values: bool) -> str:
    """What an error of the engine says: its first line, or its kind alone.

    The line may quote a value of a row (``Could not convert string 'amina@…'``).
    """
    if not show_values:
        return type(error).__name__
    return str(error).strip().splitlines()[0].rstrip(".")


def _expression(source: Source, column: str) -> str:
    kind, raw = source.columns[column], f"r.{name(column)}"
    if source.format is Format.PARQUET:
        return _cast(kind, raw, source.zone)
    return {
        "text": raw,
        "integer": _when(raw, _WHOLE, f"TRY_CAST({raw} AS BIGINT)"),
        "number": _when(raw, _REAL, _finite(raw)),
        "boolean": (
            f"CASE lower(trim({raw})) WHEN 'true' THEN true WHEN 't' THEN true"
            " WHEN 'yes' THEN true WHEN '1' THEN true WHEN 'false' THEN false"
            " WHEN 'f' THEN false WHEN 'no' THEN false WHEN '0' THEN false END"
        ),
        "date": _when(raw, _DAY, f"TRY_CAST({raw} AS DATE)"),
        "instant": _instant(raw, source.zone),
    }.get(kind) or _decimal(kind, raw)


def _when(raw: str, pattern: str, value: str) -> str:
    return f"CASE WHEN regexp_matches({raw}, {text(pattern)}) THEN {value} END"


def _finite(raw: str) -> str:
    value = f"TRY_CAST({raw} AS DOUBLE)"
    return f"CASE WHEN isfinite({value}) THEN {value} END"


def _instant(raw: str, zone: str | None) -> str:
    zoned = _when(raw, _ZONED, f"TRY_CAST(trim({raw}) AS TIMESTAMPTZ)")
    if zone is None:
        return zoned
    local = _when(raw, _LOCAL, f"TRY_CAST(trim({raw}) AS TIMESTAMP) AT TIME ZONE {text(zone)}")
    return f"coalesce({zoned}, {local})"


def _decimal(kind: str, raw: str) -> str:
    match = TYPE.match(kind)
    precision, scale = (match[2], match[3]) if match else ("18", "2")
    pattern = rf"^\s*[+-]?[0-9]+(\.[0-9]{{0,{scale}}}0*)?\s*$"
    return _when(raw, pattern, f"TRY_CAST({raw} AS DECIMAL({precision}, {scale}))")


def _cast(kind: str, raw: str, zone: str | None) -> str:
    if kind == "instant":
        at = f" AT TIME ZONE {text(zone)}" if zone else ""
        return f"({raw}{at})::TIMESTAMPTZ"
    types = {"text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN",
             "date": "DATE"}  # fmt: skip
    return f"CAST({raw} AS {types.get(kind, kind.upper())})"


def _reason(source: Source, column: str, expression: str) -> str:
    kind = source.columns[column]
    if kind == "text" or source.format is Format.PARQUET:
        return "NULL"
    wanted = _ARTICLES.get(kind, f"a {kind}")
    if kind == "instant" and source.zone is not None:
        wanted = "an instant"
    raw = f"r.{name(column)}"
    return (
        f"CASE WHEN {raw} IS NOT NULL AND ({expression}) IS NULL THEN"
        f" {text(column + ': ')} || '''' || left({raw}, 80) || ''' is not ' || {text(wanted)} END"
    )


def _known_zone(source: Source) -> None:
    try:
        ZoneInfo(source.zone or "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            f"The source {source.name!r} names the time zone {source.zone!r}, which there is not.",
            hint="Use an IANA name such as Asia/Dubai.",
        ) from None


def _same_types(source: Source, schema: pa.Schema) -> None:
    of = pa.types
    for column, kind in source.columns.items():
        given = schema.field(column).type
        if of.is_dictionary(given):
            given = given.value_type
        fits = {
            "text": of.is_string(given) or of.is_large_string(given) or of.is_string_view(given),
            "integer": of.is_integer(given),
            "number": of.is_integer(given) or of.is_floating(given) or of.is_decimal(given),
            "boolean": of.is_boolean(given),
            "date": of.is_date(given),
            "instant": of.is_timestamp(given)
            and (given.tz is not None) != (source.zone is not None),
        }.get(kind, of.is_decimal(given) or of.is_integer(given))
        if not fits:
            raise SourceBroken(
                f"The column {column!r} of {source.name!r} is {given} in the file, not {kind}.",
                hint="Declare the type that it has (and `zone` for instants without one).",
            )
