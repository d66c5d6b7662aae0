"""The lake on DuckDB with DuckLake: encrypted Parquet, a catalogue in SQLite or PostgreSQL.

What is protected: every data file is encrypted (AES-GCM, a key for each file), and so is
what DuckDB spills to disk. What is not: the catalogue holds those keys, the names, and the
least and greatest value of each column of each file, in clear. It has the mode 0600 in a
folder of mode 0700 and needs the care of a key: keep it on an encrypted volume.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from falaj.kernel.errors import FalajError, InvalidInput, NotFound, Unavailable
from falaj.lake.adapters import ducklake_engine as engine
from falaj.lake.adapters import ducklake_statements as statements
from falaj.lake.adapters.ducklake_engine import Place, name, text
from falaj.lake.adapters.writer_lock import FileLock, PostgresLock
from falaj.lake.deadline import bounded
from falaj.lake.disk import disk_error, sync_file
from falaj.lake.model import Column, Compaction, Extent, Snapshot, TableInfo, table_name
from falaj.lake.rows import creatable, prepared

T = TypeVar("T")
Cursor = duckdb.DuckDBPyConnection
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
        self,
        table: str,
        rows: pa.Table,
        *,
        key: str | None = None,
        add_columns: bool = False,
        since: int | None = None,
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
        since: int | None = None,
    ) -> Snapshot:
        """See ``Lake.append_many``; nothing is sealed here, so ``since`` says nothing."""
        ready = {table_name(table): prepared(table, given) for table, given in rows.items()}

        def work(cursor: Cursor) -> None:
            for table, given in ready.items():
                if table in replace:
                    statements.empty(cursor, table, creatable(table, given).schema)
                statements.append(cursor, table, given, add_columns=add_columns)

        return self._write(work, sorted(ready), key)

    def replace(self, table: str, rows: pa.Table, *, key: str | None = None) -> Snapshot:
        """See ``Lake.replace``."""
        return self.append_many({table: rows}, key=key, replace=[table])

    def replace_in_batches(self, table: str, batches: Callable[[], Iterable[pa.Table]]) -> Snapshot:
        """See ``Lake.replace_in_batches``."""

        def work(cursor: Cursor) -> None:
            for place, rows in enumerate(batches()):
                ready = prepared(table, rows)
                if place == 0:
                    statements.empty(cursor, table, creatable(table, ready).schema)
                statements.append(cursor, table, ready, add_columns=False)

        return self._write(work, [table_name(table)], None)

    def written(self, key: str) -> Snapshot | None:
        """See ``Lake.written``."""
        with self._reading() as cursor:
            return statements.first_write(cursor, key, None)

    def compact(self) -> Compaction:
        """See ``Lake.compact``."""

        def work(cursor: Cursor) -> Compaction:
            before = statements.n_files(cursor)
            cursor.execute("CALL ducklake_merge_adjacent_files('lake')")
            return Compaction(n_files_before=before, n_files_after=statements.n_files(cursor))

        return self._maintained(work)

    def expire(self, *, older_than: datetime, grace_seconds: float = 3600.0) -> Compaction:
        """See ``Lake.expire``."""
        if older_than.tzinfo is None:
            raise InvalidInput("`older_than` has no time zone.", hint="Give an aware instant.")
        unused = datetime.now(UTC) - timedelta(seconds=grace_seconds)

        def work(cursor: Cursor) -> Compaction:
            before = statements.n_files(cursor)
            forgotten = statements.instant(unused - KEYS_KEPT)
            cursor.execute(f"DELETE FROM lake.{statements.WRITES} WHERE written_at < {forgotten}")
            limit = statements.instant(older_than)
            expired = cursor.execute(
                f"CALL ducklake_expire_snapshots('lake', older_than => {limit})"
            ).to_arrow_table()
            n_deleted = 0
            for call in ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files"):
                deleted = cursor.execute(
                    f"CALL {call}('lake', older_than => {statements.instant(unused)})"
                ).to_arrow_table()
                n_deleted += deleted.num_rows
            return Compaction(
                n_files_before=before,
                n_files_after=statements.n_files(cursor),
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
        sql = statements.select(table_name(table), columns, where, order_by, limit)
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
        sql = statements.select(table_name(table), columns, where, order_by, None)

        def answer(cursor: Cursor) -> Cursor:
            self._found(cursor, table, snapshot)
            return self._answered(cursor, sql, {}, snapshot, None)

        return self._flowing(answer, rows_per_batch)

    def extent(
        self, table: str, snapshot: int | None = None, *, before: int | None = None
    ) -> Extent:
        """See ``Lake.extent``."""
        with self._reading() as cursor:
            at = statements.latest(cursor) if snapshot is None else snapshot
            statements.with_positions(table, self._found(cursor, table_name(table), at))
            return statements.extent(cursor, table, at, before)

    def log(
        self,
        table: str,
        *,
        columns: Sequence[str],
        snapshot: int | None = None,
        since: int = 0,
        until: int | None = None,
        in_order: bool = False,
        rows_per_batch: int = 65_536,
    ) -> pa.RecordBatchReader:
        """See ``Lake.log``."""

        def answer(cursor: Cursor) -> Cursor:
            at = statements.latest(cursor) if snapshot is None else snapshot
            statements.with_positions(table, self._found(cursor, table_name(table), at))
            return cursor.execute(
                statements.log(table, columns, at, since, until, in_order=in_order)
            )

        return self._flowing(answer, rows_per_batch)

    def query(
        self,
        sql: str,
        *,
        inputs: Mapping[str, pa.Table] | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        stand_ins: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """See ``Lake.query`` and ``StandInLake.query``."""
        with self._reading() as cursor, bounded(cursor.interrupt):
            return self._answered(
                cursor, sql, inputs or {}, snapshot, parameters, stand_ins or {}
            ).to_arrow_table()

    def reads(self, sql: str, *, inputs: Collection[str] = ()) -> set[str]:
        """See ``StandInLake.reads``."""
        with self._reading() as cursor:
            tables = statements.tables(cursor)
            return statements.used(cursor, sql, {*tables, *inputs}) & tables

    def schema(self, table: str, snapshot: int | None = None) -> pa.Schema:
        """See ``Lake.schema``."""
        with self._reading() as cursor:
            return self._found(cursor, table_name(table), snapshot)

    def info(self, table: str, snapshot: int | None = None) -> TableInfo:
        """See ``Lake.info``."""
        with self._reading() as cursor:
            schema = self._found(cursor, table_name(table), snapshot)
            at = snapshot if snapshot is not None else statements.latest(cursor)
            files = cursor.execute(
                "SELECT count(*), coalesce(sum(data_file_size_bytes), 0)::BIGINT"
                f" FROM ducklake_list_files('lake', {text(table)}, snapshot_version => {at})"
            ).fetchone()
            n_files, n_bytes = files or (0, 0)
            return TableInfo(
                name=table,
                columns=tuple(Column(name=field.name, type=str(field.type)) for field in schema),
                n_rows=statements.count(cursor, table, at),
                n_files=n_files,
                n_bytes=n_bytes,
                snapshot=at,
            )

    def count(self, table: str, snapshot: int | None = None) -> int:
        """See ``Lake.count``."""
        with self._reading() as cursor:
            self._found(cursor, table_name(table), snapshot)
            return statements.count(cursor, table, snapshot)

    def tables(self, snapshot: int | None = None) -> list[str]:
        """See ``Lake.tables``."""
        with self._reading() as cursor:
            found = statements.tables(cursor)
            if snapshot is None:
                return sorted(found)
            return sorted(t for t in found if statements.schema_of(cursor, t, snapshot) is not None)

    def exists(self, table: str) -> bool:
        """See ``Lake.exists``."""
        with self._reading() as cursor:
            return table in statements.tables(cursor)

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
                statements.as_snapshot(row)
                for row in rows.to_pylist()
                if wanted is None or any(wanted & set(what) for _, what in row["changes"] or [])
            ]

    def latest(self) -> int:
        """See ``Lake.latest``."""
        with self._reading() as cursor:
            return statements.latest(cursor)

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
            if statements.schema_of(instance, statements.WRITES) is None:
                instance.execute("BEGIN")
                instance.execute(
                    f"CREATE TABLE lake.{statements.WRITES}"
                    "(key_hash VARCHAR, tables VARCHAR, written_at TIMESTAMPTZ)"
                )
                instance.execute("COMMIT")
                # These rows hold hashes only: they may stand in the catalogue in clear.
                instance.execute(
                    "CALL lake.set_option('data_inlining_row_limit', 100,"
                    f" table_name => '{statements.WRITES}')"
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
                if (
                    key is not None
                    and (first := statements.first_write(cursor, key, tables)) is not None
                ):
                    cursor.execute("ROLLBACK")
                    return first
                known = self._files(tables)
                work(cursor)
                if key is not None:
                    cursor.execute(
                        f"INSERT INTO lake.{statements.WRITES} VALUES (?, ?, now())",
                        [statements.hashed(key), " ".join(tables)],
                    )
                self._sync(tables, known)
                cursor.execute("COMMIT")
            except BaseException:
                _rolled_back(cursor)
                raise
            return statements.snapshot_at(cursor, statements.latest(cursor))
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
        schema = statements.schema_of(cursor, table, snapshot)
        if schema is None:
            when = "" if snapshot is None else f" at snapshot {snapshot}"
            raise NotFound(
                f"The lake has no table {table!r}{when}.", hint="`falaj tables list` shows all."
            )
        return schema

    def _flowing(
        self, answer: Callable[[Cursor], Cursor], rows_per_batch: int
    ) -> pa.RecordBatchReader:
        """An answer in batches; its cursor is given back when the last one has been read."""
        reading = self._reading()
        cursor = reading.__enter__()
        try:
            reader = answer(cursor).to_arrow_reader(rows_per_batch)
        except BaseException as error:
            if not reading.__exit__(type(error), error, error.__traceback__):
                raise
            raise AssertionError from error

        def flow() -> Iterator[pa.RecordBatch]:
            with _entered(reading):
                yield from reader

        return pa.RecordBatchReader.from_batches(reader.schema, flow())

    def _answered(
        self,
        cursor: Cursor,
        sql: str,
        inputs: Mapping[str, pa.Table],
        snapshot: int | None,
        parameters: Mapping[str, Any] | None,
        stand_ins: Mapping[str, pa.Table] = MappingProxyType({}),
    ) -> Cursor:
        tables = statements.tables(cursor)
        for given, rows in inputs.items():
            if table_name(given) in tables:
                raise InvalidInput(
                    f"The input {given!r} has the name of a lake table.", hint="Give it another."
                )
            cursor.register(given, prepared(given, rows))
        for table, rows in stand_ins.items():
            cursor.register(table, rows)
        used = statements.used(cursor, sql, {*tables, *inputs})
        if snapshot is not None:
            for table in sorted((used & tables) - stand_ins.keys()):
                self._found(cursor, table, snapshot)
                cursor.execute(
                    f"CREATE TEMP VIEW {name(table)} AS"
                    f" SELECT * FROM lake.{name(table)} AT (VERSION => {int(snapshot)})"
                )
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        return cursor.execute(sql, dict(parameters)) if parameters else cursor.execute(sql)


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
