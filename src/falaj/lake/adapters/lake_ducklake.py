"""The lake on DuckDB with DuckLake: encrypted Parquet, a catalogue in SQLite or PostgreSQL.

What is protected: every data file is encrypted (AES-GCM, a key for each file), and so is
what DuckDB spills to disk. What is not: the catalogue holds those keys, the names, and the
least and greatest value of each column of each file, in clear. It has the mode 0600 in a
folder of mode 0700 and needs the care of a key: keep it on an encrypted volume.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from falaj.kernel.errors import Conflict, FalajError, InvalidInput, NotFound, Unavailable
from falaj.lake.adapters import ducklake_engine as engine
from falaj.lake.adapters.ducklake_engine import Place, name, text
from falaj.lake.adapters.writer_lock import FileLock, PostgresLock
from falaj.lake.disk import disk_error, sync_file
from falaj.lake.model import Column, Compaction, Snapshot, TableInfo, table_name
from falaj.lake.readonly import tables_of
from falaj.lake.rows import creatable, fitted, prepared, sql_type

T = TypeVar("T")
Cursor = duckdb.DuckDBPyConnection
WRITES = "_falaj_writes"
"""The lake's own table: which idempotency key was written with which snapshot."""
KEYS_KEPT = timedelta(days=90)
"""How long an idempotency key is remembered, counted from the grace of an ``expire``."""
_ATTEMPTS = 8


class DuckLake:
    """A ``Lake`` on DuckDB with DuckLake. Safe from many threads and processes.

    Args:
        place: where its catalogue and its data are.
        threads: of DuckDB, in this process.
        memory: DuckDB's memory limit, such as ``2GB``; beyond it work spills, encrypted.
        wait_seconds: how long a writer waits for others.

    Opening is lazy: the first use takes about 0.3 s (loading the engine's extensions).
    """

    def __init__(
        self,
        place: Place,
        *,
        threads: int = 2,
        memory: str = "2GB",
        wait_seconds: float = 60.0,
    ) -> None:
        self.place = place
        self._threads = threads
        self._memory = memory
        self._wait_seconds = wait_seconds
        self._opening = threading.Lock()
        self._instance: Cursor | None = None
        self._pid = 0
        sqlite = place.sqlite
        self._lock: FileLock | PostgresLock = (
            FileLock(sqlite.with_name(sqlite.name + ".lock"), wait_seconds=wait_seconds)
            if sqlite is not None
            else PostgresLock(place.dsn, place.data_path, wait_seconds=wait_seconds)
        )

    @classmethod
    def in_folder(cls, folder: Path, **options: Any) -> DuckLake:
        """A lake with its SQLite catalogue and its data in one folder."""
        return cls(Place.of("ducklake:", folder), **options)

    # -- writing ---------------------------------------------------------------------

    def append(
        self, table: str, rows: pa.Table, *, key: str | None = None, add_columns: bool = False
    ) -> Snapshot:
        """See ``Lake.append``."""
        return self.append_many({table: rows}, key=key, add_columns=add_columns)

    def append_many(
        self,
        rows: Mapping[str, pa.Table],
        *,
        key: str | None = None,
        add_columns: bool = False,
        replace: Collection[str] = (),
    ) -> Snapshot:
        """See ``Lake.append_many``."""
        ready = {table_name(table): prepared(table, given) for table, given in rows.items()}

        def work(cursor: Cursor) -> None:
            for table, given in ready.items():
                if table in replace:
                    _emptied(cursor, table, creatable(table, given).schema)
                _append(cursor, table, given, add_columns=add_columns)

        return self._write(work, sorted(ready), key)

    def replace(self, table: str, rows: pa.Table, *, key: str | None = None) -> Snapshot:
        """See ``Lake.replace``."""
        return self.append_many({table: rows}, key=key, replace=[table])

    def written(self, key: str) -> Snapshot | None:
        """See ``Lake.written``."""
        with self._reading() as cursor:
            return _first_write(cursor, key, None)

    def compact(self) -> Compaction:
        """See ``Lake.compact``."""

        def work(cursor: Cursor) -> Compaction:
            before = _n_files(cursor)
            cursor.execute("CALL ducklake_merge_adjacent_files('lake')")
            return Compaction(n_files_before=before, n_files_after=_n_files(cursor))

        return self._maintained(work)

    def expire(self, *, older_than: datetime, grace_seconds: float = 3600.0) -> Compaction:
        """See ``Lake.expire``."""
        if older_than.tzinfo is None:
            raise InvalidInput("`older_than` has no time zone.", hint="Give an aware instant.")
        unused = datetime.now(UTC) - timedelta(seconds=grace_seconds)

        def work(cursor: Cursor) -> Compaction:
            before = _n_files(cursor)
            cursor.execute(
                f"DELETE FROM lake.{WRITES} WHERE written_at < {_instant(unused - KEYS_KEPT)}"
            )
            expired = cursor.execute(
                f"CALL ducklake_expire_snapshots('lake', older_than => {_instant(older_than)})"
            ).to_arrow_table()
            n_deleted = 0
            for call in ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files"):
                deleted = cursor.execute(
                    f"CALL {call}('lake', older_than => {_instant(unused)})"
                ).to_arrow_table()
                n_deleted += deleted.num_rows
            return Compaction(
                n_files_before=before,
                n_files_after=_n_files(cursor),
                n_files_deleted=n_deleted,
                n_snapshots_expired=expired.num_rows,
            )

        return self._maintained(work)

    # -- reading ---------------------------------------------------------------------

    def scan(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """See ``Lake.scan``."""
        sql = _select(table_name(table), columns, where, order_by, limit)
        with self._reading() as cursor:
            self._found(cursor, table, snapshot)
            return self._answered(cursor, sql, {}, snapshot, parameters).to_arrow_table()

    def batches(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        snapshot: int | None = None,
        order_by: Sequence[str] | None = None,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """See ``Lake.batches``."""
        sql = _select(table_name(table), columns, where, order_by, None)
        reading = self._reading()
        cursor = reading.__enter__()
        try:
            self._found(cursor, table, snapshot)
            answer = self._answered(cursor, sql, {}, snapshot, None)
            reader = answer.to_arrow_reader(rows_per_batch)
        except BaseException as error:
            if not reading.__exit__(type(error), error, error.__traceback__):
                raise
            raise AssertionError from error

        def flow() -> Iterator[pa.RecordBatch]:
            with _entered(reading):
                yield from reader

        return pa.RecordBatchReader.from_batches(reader.schema, flow())

    def query(
        self,
        sql: str,
        *,
        inputs: Mapping[str, pa.Table] | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """See ``Lake.query``."""
        with self._reading() as cursor:
            return self._answered(cursor, sql, inputs or {}, snapshot, parameters).to_arrow_table()

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """See ``Lake.schema``."""
        with self._reading() as cursor:
            return self._found(cursor, table_name(table), snapshot)

    def info(self, table: str, snapshot: int | None = None) -> TableInfo:
        """See ``Lake.info``."""
        with self._reading() as cursor:
            schema = self._found(cursor, table_name(table), snapshot)
            at = snapshot if snapshot is not None else _latest(cursor)
            files = cursor.execute(
                "SELECT count(*), coalesce(sum(data_file_size_bytes), 0)::BIGINT"
                f" FROM ducklake_list_files('lake', {text(table)}, snapshot_version => {at})"
            ).fetchone()
            n_files, n_bytes = files or (0, 0)
            return TableInfo(
                name=table,
                columns=tuple(Column(name=field.name, type=str(field.type)) for field in schema),
                n_rows=_count(cursor, table, at),
                n_files=n_files,
                n_bytes=n_bytes,
                snapshot=at,
            )

    def count(self, table: str, snapshot: int | None = None) -> int:
        """See ``Lake.count``."""
        with self._reading() as cursor:
            self._found(cursor, table_name(table), snapshot)
            return _count(cursor, table, snapshot)

    def tables(self, snapshot: int | None = None) -> list[str]:
        """See ``Lake.tables``."""
        with self._reading() as cursor:
            found = _tables(cursor)
            if snapshot is None:
                return sorted(found)
            return sorted(t for t in found if _schema(cursor, t, snapshot) is not None)

    def exists(self, table: str) -> bool:
        """See ``Lake.exists``."""
        with self._reading() as cursor:
            return table in _tables(cursor)

    def snapshots(self, table: str | None = None) -> list[Snapshot]:
        """See ``Lake.snapshots``."""
        with self._reading() as cursor:
            wanted: set[str] | None = None
            if table is not None:
                self._found(cursor, table_name(table), None)
                ids = cursor.execute(
                    "SELECT table_id FROM __ducklake_metadata_lake.ducklake_table"
                    " WHERE table_name = ?",
                    [table],
                ).fetchall()
                wanted = {str(row[0]) for row in ids} | {f"main.{table}"}
            rows = cursor.execute(
                "SELECT snapshot_id, snapshot_time, changes FROM ducklake_snapshots('lake')"
                " ORDER BY snapshot_id"
            ).to_arrow_table()
            return [
                _snapshot(row)
                for row in rows.to_pylist()
                if wanted is None or any(wanted & set(what) for _, what in row["changes"] or [])
            ]

    def latest(self) -> int:
        """See ``Lake.latest``."""
        with self._reading() as cursor:
            return _latest(cursor)

    def close(self) -> None:
        """See ``Lake.close``."""
        with self._opening:
            instance, self._instance = self._instance, None
        if instance is not None:
            instance.close()

    # -- the machinery ---------------------------------------------------------------

    def _cursor(self) -> Cursor:
        with self._opening:
            if self._instance is None or self._pid != os.getpid():
                self._instance = self._opened()
                self._pid = os.getpid()
            return self._instance.cursor()

    def _opened(self) -> Cursor:
        if not self._is_made():
            engine.private_folders(self.place)
            with self._lock.held():
                return self._made()
        return self._attached(create=False)

    def _is_made(self) -> bool:
        sqlite = self.place.sqlite
        if sqlite is None:
            return False  # asking costs as much as making sure
        return sqlite.with_name(sqlite.name + ".made").exists()

    def _made(self) -> Cursor:
        instance = self._attached(create=True)
        try:
            if _schema(instance, WRITES) is None:
                instance.execute("BEGIN")
                instance.execute(
                    f"CREATE TABLE lake.{WRITES}"
                    "(key_hash VARCHAR, tables VARCHAR, written_at TIMESTAMPTZ)"
                )
                instance.execute("COMMIT")
                # These rows hold hashes only: they may stand in the catalogue in clear.
                instance.execute(
                    "CALL lake.set_option('data_inlining_row_limit', 100,"
                    f" table_name => '{WRITES}')"
                )
        except duckdb.Error as error:
            instance.close()
            raise engine.told(error) from error
        sqlite = self.place.sqlite
        if sqlite is not None:
            sqlite.with_name(sqlite.name + ".made").touch(mode=0o600)
        return instance

    def _attached(self, *, create: bool) -> Cursor:
        return self._retried(
            lambda: engine.opened(
                self.place,
                threads=self._threads,
                memory=self._memory,
                wait_seconds=self._wait_seconds,
                create=create,
            )
        )

    def _write(
        self, work: Callable[[Cursor], None], tables: list[str], key: str | None
    ) -> Snapshot:
        cursor = self._cursor()
        try:
            with self._lock.held():
                return self._retried(lambda: self._commit(cursor, work, tables, key))
        finally:
            cursor.close()

    def _commit(
        self, cursor: Cursor, work: Callable[[Cursor], None], tables: list[str], key: str | None
    ) -> Snapshot:
        try:
            cursor.execute("BEGIN")
            try:
                if key is not None and (first := _first_write(cursor, key, tables)) is not None:
                    cursor.execute("ROLLBACK")
                    return first
                known = self._files(tables)
                work(cursor)
                if key is not None:
                    cursor.execute(
                        f"INSERT INTO lake.{WRITES} VALUES (?, ?, now())",
                        [_hash(key), " ".join(tables)],
                    )
                self._sync(tables, known)
                cursor.execute("COMMIT")
            except BaseException:
                _rolled_back(cursor)
                raise
            return _at(cursor, _latest(cursor))
        except duckdb.Error as error:
            raise engine.told(error) from error
        except OSError as error:
            raise disk_error(error, "the lake") from error

    def _maintained(self, work: Callable[[Cursor], T]) -> T:
        cursor = self._cursor()
        try:
            with self._lock.held():
                return self._retried(lambda: work(cursor))
        except duckdb.Error as error:
            raise engine.told(error) from error
        finally:
            cursor.close()

    def _retried(self, work: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return work()
            except Unavailable as error:
                if not error.details.get("busy") or attempt == _ATTEMPTS - 1:
                    raise
            except duckdb.Error as error:
                if not engine.is_busy(error) or attempt == _ATTEMPTS - 1:
                    raise engine.told(error) from error
            time.sleep(0.01 * 2**attempt * (0.5 + random.random()))  # noqa: S311 - jitter
        raise AssertionError

    def _files(self, tables: list[str]) -> set[Path]:
        folder = self.place.folder
        if folder is None:
            return set()
        return {file for table in tables for file in (folder / "main" / table).glob("*.parquet")}

    def _sync(self, tables: list[str], known: set[Path]) -> None:
        """Bring new data files and their folders to stable storage before the commit."""
        new = self._files(tables) - known
        for path in [*new, *{file.parent for file in new}]:
            sync_file(path)

    @contextmanager
    def _reading(self) -> Iterator[Cursor]:
        cursor = self._cursor()
        try:
            cursor.execute("USE lake")
            yield cursor
        except duckdb.Error as error:
            raise engine.told(error) from error
        finally:
            cursor.close()

    def _found(self, cursor: Cursor, table: str, snapshot: int | None) -> pa.Schema:
        schema = _schema(cursor, table, snapshot)
        if schema is None:
            when = "" if snapshot is None else f" at snapshot {snapshot}"
            raise NotFound(
                f"The lake has no table {table!r}{when}.", hint="`falaj tables list` shows all."
            )
        return schema

    def _answered(
        self,
        cursor: Cursor,
        sql: str,
        inputs: Mapping[str, pa.Table],
        snapshot: int | None,
        parameters: Mapping[str, Any] | None,
    ) -> Cursor:
        tables = _tables(cursor)
        for given, rows in inputs.items():
            if table_name(given) in tables:
                raise InvalidInput(
                    f"The input {given!r} has the name of a lake table.", hint="Give it another."
                )
            cursor.register(given, prepared(given, rows))
        parsed = cursor.execute(
            "SELECT json_serialize_sql(?::VARCHAR, skip_default := true,"
            " skip_empty := true, skip_null := true)",
            [sql],
        ).fetchone()
        used = tables_of(json.loads(parsed[0] if parsed else "{}"), {*tables, *inputs})
        if snapshot is not None:
            for table in sorted(used & tables):
                self._found(cursor, table, snapshot)
                cursor.execute(
                    f"CREATE TEMP VIEW {name(table)} AS"
                    f" SELECT * FROM lake.{name(table)} AT (VERSION => {int(snapshot)})"
                )
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        return cursor.execute(sql, dict(parameters)) if parameters else cursor.execute(sql)


def _append(cursor: Cursor, table: str, rows: pa.Table, *, add_columns: bool) -> None:
    schema = _schema(cursor, table)
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


def _emptied(cursor: Cursor, table: str, schema: pa.Schema) -> None:
    """Take all rows from a table, and the table itself if its columns shall differ."""
    stands = _schema(cursor, table)
    if stands is not None:
        same = stands.equals(schema)
        cursor.execute(f"{'DELETE FROM' if same else 'DROP TABLE'} lake.{name(table)}")


def _select(
    table: str,
    columns: Sequence[str] | None,
    where: str | None,
    order_by: Sequence[str] | None,
    limit: int | None,
) -> str:
    chosen = "*" if columns is None else ", ".join(name(column) for column in columns)
    sql = f"SELECT {chosen} FROM {name(table)}"
    if where is not None:
        sql += f" WHERE ({where}\n)"
    if order_by:
        sql += " ORDER BY " + ", ".join(name(column) for column in order_by)
    return sql if limit is None else f"{sql} LIMIT {int(limit)}"


def _schema(cursor: Cursor, table: str, snapshot: int | None = None) -> pa.Schema | None:
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


def _tables(cursor: Cursor) -> set[str]:
    rows = cursor.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
    ).fetchall()
    return {row[0] for row in rows} - {WRITES}


def _latest(cursor: Cursor) -> int:
    row = cursor.execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
    return int(row[0]) if row else 0


def _at(cursor: Cursor, snapshot: int) -> Snapshot:
    rows = cursor.execute(
        "SELECT snapshot_id, snapshot_time, changes FROM ducklake_snapshots('lake')"
        " WHERE snapshot_id = ?",
        [snapshot],
    ).to_arrow_table()
    return _snapshot(rows.to_pylist()[0])


def _snapshot(row: Mapping[str, Any]) -> Snapshot:
    changes = tuple(sorted(kind for kind, _ in row["changes"] or []))
    return Snapshot(id=row["snapshot_id"], at=row["snapshot_time"], changes=changes)


def _first_write(cursor: Cursor, key: str, tables: list[str] | None) -> Snapshot | None:
    rows = cursor.execute(
        f"SELECT snapshot_id, tables, written_at FROM lake.{WRITES} WHERE key_hash = ?",
        [_hash(key)],
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


def _count(cursor: Cursor, table: str, snapshot: int | None) -> int:
    at = "" if snapshot is None else f" AT (VERSION => {int(snapshot)})"
    row = cursor.execute(f"SELECT count(*) FROM lake.{name(table)}{at}").fetchone()
    return int(row[0]) if row else 0


def _n_files(cursor: Cursor) -> int:
    row = cursor.execute(
        "SELECT coalesce(sum(file_count), 0)::BIGINT FROM ducklake_table_info('lake')"
    ).fetchone()
    return int(row[0]) if row else 0


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _instant(at: datetime) -> str:
    return f"TIMESTAMPTZ {text(at.astimezone(UTC).isoformat())}"


def _rolled_back(cursor: Cursor) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:
        return  # the engine had rolled back by itself: no transaction is open


@contextmanager
def _entered(reading: Any) -> Iterator[None]:
    """Leave a context that was entered by hand when this one ends."""
    try:
        yield
    except BaseException as error:
        if not reading.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        reading.__exit__(None, None, None)


__all__ = ["DuckLake", "FalajError", "Place"]
