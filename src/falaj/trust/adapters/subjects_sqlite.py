"""Subject keys in a SQLite file of their own, which keeps nothing of what was destroyed.

SQLite overwrites deleted rows with zeros (``secure_delete``); the images of changed pages
stand in a rollback journal that stays in place, and is overwritten and synced before
``remove`` returns. A process that was killed in between leaves a journal, which the next
one that opens the file overwrites. What a file system or a disk keeps of blocks that were
overwritten in place (copy-on-write, wear levelling) is beyond a program's reach.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Corrupt, FalajError, StorageFull, Unavailable
from falaj.kernel.settings import private_folder
from falaj.trust.subjectkeys import KeyRow
from falaj.trust.subjects import Destroyed

FILE = "keys.sqlite"
PAGE = 1000
_AT_ONCE = 20_000
_ROW = "handle, pseudonym, data_key, wrapped, name"
_TABLES = """
CREATE TABLE IF NOT EXISTS subject_keys (
    id INTEGER PRIMARY KEY, handle BLOB NOT NULL UNIQUE, pseudonym INTEGER NOT NULL UNIQUE,
    data_key INTEGER NOT NULL, wrapped BLOB NOT NULL, name BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS destructions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, pseudonym INTEGER NOT NULL,
    destroyed_us INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS data_keys (number INTEGER PRIMARY KEY, wrapped TEXT NOT NULL);
"""


class SqliteKeyTable:
    """A ``KeyTable`` in a folder of its own.

    Args:
        folder: made with mode 0700 if it is not there.
        wait_seconds: how long to wait for other processes.
    """

    def __init__(self, folder: Path, *, wait_seconds: float = 30.0) -> None:
        self.path = folder / FILE
        self._journal = self.path.with_name(f"{FILE}-journal")
        self._wait_seconds = wait_seconds
        self._guard = threading.RLock()
        self._open: tuple[int, sqlite3.Connection, int] | None = None

    # -- reading ------------------------------------------------------------------------

    def by_handle(self, handles: Sequence[bytes]) -> list[KeyRow]:
        """See ``KeyTable.by_handle``."""
        return self._found("handle", handles)

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[KeyRow]:
        """See ``KeyTable.by_pseudonym``."""
        return self._found("pseudonym", pseudonyms)

    def removed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``KeyTable.removed``."""
        rows = self._asked(
            "SELECT pseudonym, destroyed_us, sequence FROM destructions WHERE sequence > ?"
            " ORDER BY sequence",
            [after],
        )
        return [Destroyed(pseudonym, from_microseconds(us), number) for pseudonym, us, number in rows]

    def sequence(self) -> int:
        """See ``KeyTable.sequence``."""
        return int(self._asked("SELECT coalesce(max(sequence), 0) FROM destructions")[0][0])

    def data_keys(self) -> dict[int, str]:
        """See ``KeyTable.data_keys``."""
        return dict(self._asked("SELECT number, wrapped FROM data_keys"))

    def page(self, *, after: int = -1, data_key: int | None = None) -> list[KeyRow]:
        """See ``KeyTable.page``."""
        where, given = "pseudonym > ?", [after]
        if data_key is not None:
            where, given = f"{where} AND data_key = ?", [after, data_key]
        rows = self._asked(
            f"SELECT {_ROW} FROM subject_keys WHERE {where} ORDER BY pseudonym LIMIT {PAGE}", given
        )
        return [KeyRow(*row) for row in rows]

    def count(self) -> int:
        """See ``KeyTable.count``."""
        return int(self._asked("SELECT count(*) FROM subject_keys")[0][0])

    # -- writing ------------------------------------------------------------------------

    def add(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.add``."""
        with self._writing() as connection:
            connection.executemany(
                f"INSERT OR IGNORE INTO subject_keys ({_ROW}) SELECT ?1, ?2, ?3, ?4, ?5"
                " WHERE EXISTS (SELECT 1 FROM data_keys WHERE number = ?3)",
                [_values(row) for row in rows],
            )

    def remove(self, handle: bytes, at: datetime) -> Destroyed | None:
        """See ``KeyTable.remove``; the journal is overwritten when this returns."""
        with self._writing(wiped=True) as connection:
            row = connection.execute(
                "SELECT pseudonym FROM subject_keys WHERE handle = ?", [handle]
            ).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM subject_keys WHERE handle = ?", [handle])
            done = connection.execute(
                "INSERT INTO destructions (pseudonym, destroyed_us) VALUES (?, ?)",
                [row[0], microseconds(at)],
            )
            return Destroyed(row[0], at, int(done.lastrowid or 0))

    def add_data_key(self, number: int, wrapped: str) -> None:
        """See ``KeyTable.add_data_key``."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO data_keys VALUES (?, ?)", [number, wrapped])

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """See ``KeyTable.exchange_data_key``."""
        with self._writing(wiped=True) as connection:
            done = connection.execute(
                "UPDATE data_keys SET wrapped = ? WHERE number = ? AND wrapped = ?",
                [new, number, old],
            )
            return done.rowcount == 1

    def drop_data_key(self, number: int) -> bool:
        """See ``KeyTable.drop_data_key``."""
        with self._writing(wiped=True) as connection:
            used = "SELECT 1 FROM subject_keys WHERE data_key = ? LIMIT 1"
            if connection.execute(used, [number]).fetchone() is not None:
                return False
            connection.execute("DELETE FROM data_keys WHERE number = ?", [number])
            return True

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.rewrapped``."""
        with self._writing(wiped=True) as connection:
            connection.executemany(
                "UPDATE subject_keys SET data_key = ?, wrapped = ? WHERE pseudonym = ?",
                [(row.data_key, row.wrapped, row.pseudonym) for row in rows],
            )

    def copy(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """See ``KeyTable.copy``."""
        with self._writing(wiped=bool(destroyed) or data_keys is not None) as connection:
            if data_keys is not None:
                connection.execute("DELETE FROM data_keys")
                connection.executemany("INSERT INTO data_keys VALUES (?, ?)", data_keys.items())
            connection.executemany(
                f"INSERT OR REPLACE INTO subject_keys ({_ROW}) VALUES (?, ?, ?, ?, ?)",
                [_values(row) for row in rows],
            )
            connection.executemany(
                "DELETE FROM subject_keys WHERE pseudonym = ?", [(d.pseudonym,) for d in destroyed]
            )
            connection.executemany(
                "INSERT OR REPLACE INTO destructions VALUES (?, ?, ?)",
                [(d.sequence, d.pseudonym, microseconds(d.destroyed_at)) for d in destroyed],
            )

    def close(self) -> None:
        """See ``KeyTable.close``; it opens again when it is used again."""
        with self._guard:
            found, self._open = self._open, None
            if found is not None and found[0] == os.getpid():
                found[1].close()
                os.close(found[2])

    # -- the file -----------------------------------------------------------------------

    def _found(self, column: str, values: Sequence[Any]) -> list[KeyRow]:
        found: list[KeyRow] = []
        for start in range(0, len(values), _AT_ONCE):
            part = list(values[start : start + _AT_ONCE])
            marks = ", ".join("?" * len(part))
            sql = f"SELECT {_ROW} FROM subject_keys WHERE {column} IN ({marks})"
            found += (KeyRow(*row) for row in self._asked(sql, part))
        return found

    def _asked(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._guard, _told():
            return self._connection()[0].execute(sql, values).fetchall()

    @contextmanager
    def _writing(self, *, wiped: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, alone in all processes until its journal is overwritten."""
        with self._guard, _told():
            connection, lock = self._connection()
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
                if wiped:
                    self._wipe()
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _connection(self) -> tuple[sqlite3.Connection, int]:
        if self._open is None or self._open[0] != os.getpid():
            self._open = self._opened()
        return self._open[1], self._open[2]

    def _opened(self) -> tuple[int, sqlite3.Connection, int]:
        private_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(self.path.with_name(f"{FILE}.lock"), flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            os.close(os.open(self.path, flags, 0o600))
            connection = sqlite3.connect(
                self.path,
                timeout=self._wait_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_mode = PERSIST")
            connection.executescript(_TABLES)  # rolls a transaction back that was killed
            self._wipe()
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        return os.getpid(), connection, lock

    def _wipe(self) -> None:
        """Overwrite the journal of a finished transaction, which stays as a file of zeros."""
        try:
            handle = os.open(self._journal, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(handle).st_size
            if os.pread(handle, 8, 0).strip(b"\0"):
                return  # not finished: what is in it is needed
            zeros = bytes(min(size, 1 << 20))
            for place in range(0, size, 1 << 20):
                os.pwrite(handle, zeros[: size - place], place)
            os.fdatasync(handle)
        finally:
            os.close(handle)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of SQLite and of the disk as our own."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error) from error
    except OSError as error:
        raise Unavailable(
            f"The store of subject keys cannot be used: {error.strerror}.",
            hint="Check its folder and the disk.",
        ) from error


def _as_ours(error: sqlite3.Error) -> FalajError:
    code = ""
    with suppress(AttributeError):
        code = error.sqlite_errorname
    if code == "SQLITE_FULL":
        return StorageFull(
            "The disk of the store of subject keys is full.",
            hint="Free some space; nothing was written.",
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupt(
            "The store of subject keys is damaged.",
            hint="Bring the store's own replica back (privacy.replica).",
        )
    return Unavailable(
        f"The store of subject keys cannot be used: {error}.",
        hint="Check its folder and the disk, then repeat the call.",
    )


def _values(row: KeyRow) -> tuple[bytes, int, int, bytes, bytes]:
    return row.handle, row.pseudonym, row.data_key, row.wrapped, row.name


__all__ = ["SqliteKeyTable"]
