"""What the lake says to DuckLake, statement by statement, inside somebody's transaction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.lake.adapters.ducklake_engine import name, text
from falaj.lake.model import Extent, Snapshot
from falaj.lake.readonly import tables_of
from falaj.lake.rows import creatable, fitted, sql_type

Cursor = duckdb.DuckDBPyConnection
WRITES = "_falaj_writes"
"""The lake's own table: which idempotency key was written with which snapshot."""


def append(cursor: Cursor, table: str, rows: pa.Table, *, add_columns: bool) -> None:
    """Add prepared rows to a table, which is made, or given columns, as needed."""
    schema = schema_of(cursor, table)
    target = f"lake.{name(table)}"
    if schema is None:
        rows = creatable(table, rows)
        columns = ", ".join(f"{name(f.name)} {sql_type(f.type)}" for f in rows.schema)
        cursor.execute(f"CREATE TABLE {target} ({columns})")
    else:
        rows, added = fitted(table, rows, schema, add_columns=add_columns)
        for field in added:
            cursor.execute(
                f"ALTER TABLE {target} ADD COLUMN {name(field.name)} {sql_type(field.type)}"
            )
    if rows.num_rows:
        cursor.register("_falaj_incoming", rows)
        try:
            cursor.execute(f"INSERT INTO {target} SELECT * FROM _falaj_incoming")
        finally:
            cursor.unregister("_falaj_incoming")


def empty(cursor: Cursor, table: str, schema: pa.Schema) -> None:
    """Take all rows from a table, and the table itself if its columns shall differ."""
    stands = schema_of(cursor, table)
    if stands is not None:
        same = stands.equals(schema)
        cursor.execute(f"{'DELETE FROM' if same else 'DROP TABLE'} lake.{name(table)}")


def select(
    table: str,
    columns: Sequence[str] | None,
    where: str | None,
    order_by: Sequence[str] | None,
    limit: int | None,
) -> str:
    """The SELECT of a scan."""
    chosen = "*" if columns is None else ", ".join(name(column) for column in columns)
    sql = f"SELECT {chosen} FROM {name(table)}"
    if where is not None:
        sql += f" WHERE ({where}\n)"
    if order_by:
        sql += " ORDER BY " + ", ".join(name(column) for column in order_by)
    return sql if limit is None else f"{sql} LIMIT {int(limit)}"


def schema_of(cursor: Cursor, table: str, snapshot: int | None = None) -> pa.Schema | None:
    """The Arrow schema of a table; None if there is none; raises NotFound of a snapshot."""
    at = "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"
    try:
        return (
            cursor.execute(f"SELECT * FROM lake.{name(table)}{at} LIMIT 0").to_arrow_table().schema
        )
    except duckdb.CatalogException:
        return None
    except duckdb.InvalidInputException as error:
        if "no snapshot" in str(error).lower():
            raise NotFound(
                f"The lake has no snapshot {snapshot}.",
                hint="It was never made, or has been expired; `falaj tables snapshots` shows all.",
            ) from None
        raise


def tables(cursor: Cursor) -> set[str]:
    """The names of all tables but the lake's own."""
    rows = cursor.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
    ).fetchall()
    return {row[0] for row in rows} - {WRITES}


def used(cursor: Cursor, sql: str, known: Collection[str]) -> set[str]:
    """The known tables that a query reads; raises QueryRefused if it is not to be run."""
    parsed = cursor.execute(
        "SELECT json_serialize_sql(?::VARCHAR, skip_default := true,"
        " skip_empty := true, skip_null := true)",
        [sql],
    ).fetchone()
    return tables_of(json.loads(parsed[0] if parsed else "{}"), known)


def latest(cursor: Cursor) -> int:
    """The id of the latest snapshot."""
    row = cursor.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
    return int(row[0]) if row else 0


def snapshot_at(cursor: Cursor, snapshot: int) -> Snapshot:
    """The snapshot of that id."""
    rows = cursor.execute(
        "SELECT snapshot_id, snapshot_time, changes FROM ducklake_snapshots('lake')"
        " WHERE snapshot_id = ?",
        [snapshot],
    ).to_arrow_table()
    return as_snapshot(rows.to_pylist()[0])


def as_snapshot(row: Mapping[str, Any]) -> Snapshot:
    """A row of ``ducklake_snapshots`` as a snapshot."""
    changes = tuple(sorted(kind for kind, _ in row["changes"] or []))
    return Snapshot(id=row["snapshot_id"], at=row["snapshot_time"], changes=changes)


def first_write(cursor: Cursor, key: str, tables: list[str] | None) -> Snapshot | None:
    """The snapshot of the write with that key; raises Conflict if it was to other tables."""
    rows = cursor.execute(
        f"SELECT snapshot_id, tables, written_at FROM lake.{WRITES} WHERE key_hash = ?",
        [hashed(key)],
    ).to_arrow_table()
    if not rows.num_rows:
        return None
    row = rows.to_pylist()[0]
    if tables is not None and row["tables"].split() != tables:
        raise Conflict(
            f"The idempotency key {key!r} was used for a write to {row['tables']}.",
            hint="Use a new key for a new write.",
        )
    return Snapshot(id=row["snapshot_id"], at=row["written_at"])


def count(cursor: Cursor, table: str, snapshot: int | None) -> int:
    """The number of rows."""
    at = "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"
    row = cursor.execute(f"SELECT count(*) FROM lake.{name(table)}{at}").fetchone()
    return int(row[0]) if row else 0


def with_positions(table: str, schema: pa.Schema) -> None:
    """Raises InvalidInput if a column of the table hides the positions of its rows."""
    if "rowid" in (column.lower() for column in schema.names):
        raise InvalidInput(
            f"The table {table!r} has a column named 'rowid', which hides the order of its rows.",
            hint="Write it with another name for that column.",
        )


def log(
    table: str,
    columns: Sequence[str],
    snapshot: int,
    since: int,
    until: int | None = None,
    *,
    in_order: bool = False,
) -> str:
    """The SELECT of the rows from a position on, and before another."""
    chosen = ", ".join(["rowid", *(name(column) for column in columns)])
    bounds = [f"rowid >= {int(since)}"] if since > 0 else []
    bounds += [] if until is None else [f"rowid < {int(until)}"]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    order = " ORDER BY rowid" if in_order else ""
    return f"SELECT {chosen} FROM lake.{name(table)} AT (VERSION => {int(snapshot)}){where}{order}"


def extent(cursor: Cursor, table: str, snapshot: int, before: int | None) -> Extent:
    """The identity of a table that is there, its number of rows, and the end of its log."""
    identity = cursor.execute(
        "SELECT table_uuid FROM __ducklake_metadata_lake.ducklake_table WHERE table_name = ?"
        " AND begin_snapshot <= ? AND (end_snapshot IS NULL OR end_snapshot > ?)",
        [table, snapshot, snapshot],
    ).fetchone()
    where = "" if before is None else f" WHERE rowid < {int(before)}"
    found = cursor.execute(
        "SELECT count(*), coalesce(max(rowid) + 1, 0)"
        f" FROM lake.{name(table)} AT (VERSION => {int(snapshot)}){where}"
    ).fetchone()
    n_rows, end = found or (0, 0)
    return Extent(identity=str(identity[0]) if identity else "", n_rows=n_rows, end=end)


def n_files(cursor: Cursor) -> int:
    """The number of data files."""
    row = cursor.execute(
        "SELECT coalesce(sum(file_count), 0)::BIGINT FROM ducklake_table_info('lake')"
    ).fetchone()
    return int(row[0]) if row else 0


def hashed(key: str) -> str:
    """A key as it is kept: SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def instant(at: datetime) -> str:
    """An instant as an SQL constant."""
    return f"TIMESTAMPTZ {text(at.astimezone(UTC).isoformat())}"
