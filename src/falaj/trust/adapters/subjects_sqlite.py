"""Subject keys in a SQLite file of their own, which keeps nothing of what was destroyed.

SQLite overwrites what is deleted, but where its trees split or join pages they leave copies
of what they moved. So nothing is ever moved or deleted here: records are appended and, when
they are destroyed, overwritten by zeros of the same length; they are found through two hash
tables of buckets of a fixed size, which are changed in place. The images of changed pages
stand in a rollback journal that stays in place, and is overwritten and synced before
``remove`` returns. A process that was killed in between leaves a journal, which the next
one that opens the file overwrites. What a file system or a disk keeps of blocks that were
overwritten in place (copy-on-write, wear levelling) is beyond a program's reach.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
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
_JOURNAL_KEPT = 64 * 1024
"""Bytes of the journal that stay, as zeros: a destruction changes five pages or so."""
_RECORD = struct.Struct(">32sQI60s")
"""Handle, pseudonym, data key, wrapped secret; the sealed name follows."""
_ENTRY = struct.Struct(">8sq")
_ENTRIES = 64
"""Entries of a bucket; half of them are taken when the buckets are doubled."""
_EMPTY = bytes(_ENTRY.size)
_TABLES = """
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS handles (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pseudonyms (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (one INTEGER PRIMARY KEY, n_keys INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES (1, 0);
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
        wanted = set(handles)
        with self._guard, _told():
            found = self._named(_Buckets(self._connection()[0], "handles"), list(wanted))
        return [row for _, row in found if row.handle in wanted]

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[KeyRow]:
        """See ``KeyTable.by_pseudonym``."""
        wanted = set(pseudonyms)
        names = [_bytes(pseudonym) for pseudonym in wanted]
        with self._guard, _told():
            found = self._named(_Buckets(self._connection()[0], "pseudonyms"), names)
        return [row for _, row in found if row.pseudonym in wanted]

    def removed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``KeyTable.removed``."""
        rows = self._asked(
            "SELECT pseudonym, destroyed_us, sequence FROM destructions WHERE sequence > ?"
            " ORDER BY sequence",
            [after],
        )
        return [
            Destroyed(pseudonym, from_microseconds(us), number) for pseudonym, us, number in rows
        ]

    def sequence(self) -> int:
        """See ``KeyTable.sequence``."""
        return int(self._asked("SELECT coalesce(max(sequence), 0) FROM destructions")[0][0])

    def data_keys(self) -> dict[int, str]:
        """See ``KeyTable.data_keys``."""
        return dict(self._asked("SELECT number, wrapped FROM data_keys"))

    def pages(self, *, data_key: int | None = None) -> Iterator[list[KeyRow]]:
        """See ``KeyTable.pages``."""
        after = 0
        sql = f"SELECT id, body FROM records WHERE id > ? ORDER BY id LIMIT {PAGE}"
        while found := self._asked(sql, [after]):
            after = found[-1][0]
            rows = [row for _, body in found if (row := _row(body)) is not None]
            rows = [row for row in rows if data_key in (None, row.data_key)]
            if rows:
                yield rows

    def count(self) -> int:
        """See ``KeyTable.count``."""
        return int(self._asked("SELECT n_keys FROM counts")[0][0])

    def flaw(self) -> str:
        """See ``KeyTable.flaw``: each record is counted and found through both hash tables."""
        with self._guard, _told():
            connection = self._connection()[0]
            connection.execute("BEGIN")  # all that is compared is of one instant
            try:
                rows = [row.data_key for page in self.pages() for row in page]
                tables = [_Buckets(connection, name) for name in ("handles", "pseudonyms")]
                found = [len(rows), self.count(), *(table.n_reached() for table in tables)]
                data_keys = self.data_keys()
                orphans = sum(number not in data_keys for number in rows)
            finally:
                connection.execute("ROLLBACK")
        if len(set(found)) > 1:
            return (
                f"of {found[0]} keys {found[1]} are counted, {found[2]} are found by name and"
                f" {found[3]} by pseudonym"
            )
        return f"{orphans} keys are under a data key that is gone" if orphans else ""

    # -- writing ------------------------------------------------------------------------

    def add(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.add``."""
        with self._writing() as connection:
            held = {number for (number,) in connection.execute("SELECT number FROM data_keys")}
            self._put(connection, [row for row in rows if row.data_key in held])

    def remove(self, handle: bytes, at: datetime) -> Destroyed | None:
        """See ``KeyTable.remove``; record and journal are overwritten when this returns."""
        with self._writing() as connection:
            found = self._named(_Buckets(connection, "handles"), [handle])
            for place, row in found:
                if row.handle == handle:
                    self._erased(connection, place, row)
                    done = connection.execute(
                        "INSERT INTO destructions (pseudonym, destroyed_us) VALUES (?, ?)",
                        [row.pseudonym, microseconds(at)],
                    )
                    return Destroyed(row.pseudonym, at, int(done.lastrowid or 0))
        return None

    def add_data_key(self, number: int, wrapped: str) -> None:
        """See ``KeyTable.add_data_key``."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO data_keys VALUES (?, ?)", [number, wrapped])

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """See ``KeyTable.exchange_data_key``."""
        with self._writing() as connection:
            done = connection.execute(
                "UPDATE data_keys SET wrapped = ? WHERE number = ? AND wrapped = ?",
                [new, number, old],
            )
            return done.rowcount == 1

    def drop_data_key(self, number: int) -> bool:
        """See ``KeyTable.drop_data_key``."""
        with self._writing() as connection:
            if next(self.pages(data_key=number), None) is not None:
                return False
            connection.execute("DELETE FROM data_keys WHERE number = ?", [number])
            return True

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.rewrapped``."""
        with self._writing() as connection:
            new = {row.handle: row for row in rows}
            for place, row in self._named(_Buckets(connection, "handles"), list(new)):
                change = new.get(row.handle)
                # A subject who was erased and named again since has the same handle.
                if change is not None and change.pseudonym == row.pseudonym:
                    body = _body(replace(row, data_key=change.data_key, wrapped=change.wrapped))
                    connection.execute("UPDATE records SET body = ? WHERE id = ?", [body, place])

    def copy(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """See ``KeyTable.copy``."""
        with self._writing() as connection:
            if data_keys is not None:
                connection.execute("DELETE FROM data_keys")
                connection.executemany("INSERT INTO data_keys VALUES (?, ?)", data_keys.items())
            gone = [_bytes(d.pseudonym) for d in destroyed]
            gone += [_bytes(row.pseudonym) for row in rows]
            taken = {row.handle for row in rows}
            for place, row in self._named(_Buckets(connection, "pseudonyms"), gone):
                self._erased(connection, place, row)
            for place, row in self._named(_Buckets(connection, "handles"), list(taken)):
                if row.handle in taken:
                    self._erased(connection, place, row)
            self._put(connection, rows)
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

    def _named(self, buckets: _Buckets, names: Sequence[bytes]) -> list[tuple[int, KeyRow]]:
        """Records, with their ids, whose names begin as these do."""
        places = buckets.places(names)
        found = []
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            sql = f"SELECT id, body FROM records WHERE id IN ({_marks(part)})"
            for place, body in buckets.connection.execute(sql, part):
                if (row := _row(body)) is not None:
                    found.append((place, row))
        return found

    def _put(self, connection: sqlite3.Connection, rows: Sequence[KeyRow]) -> None:
        """Append the rows whose handle and pseudonym are free."""
        handles, pseudonyms = _Buckets(connection, "handles"), _Buckets(connection, "pseudonyms")
        taken = {row.handle for _, row in self._named(handles, [row.handle for row in rows])}
        names = [_bytes(row.pseudonym) for row in rows]
        used = {row.pseudonym for _, row in self._named(pseudonyms, names)}
        new = []
        for row in rows:
            if row.handle not in taken and row.pseudonym not in used:
                taken.add(row.handle)
                used.add(row.pseudonym)
                new.append(row)
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()
        (n,) = connection.execute("SELECT n_keys FROM counts").fetchone()
        numbered = list(enumerate(new, start=last + 1))
        connection.executemany(
            "INSERT INTO records VALUES (?, ?)", [(place, _body(row)) for place, row in numbered]
        )
        handles.add([(row.handle, place) for place, row in numbered], n + len(new))
        pseudonyms.add([(_bytes(row.pseudonym), place) for place, row in numbered], n + len(new))
        connection.execute("UPDATE counts SET n_keys = n_keys + ?", [len(new)])

    def _erased(self, connection: sqlite3.Connection, place: int, row: KeyRow) -> None:
        """Overwrite a record and what finds it by zeros, where they are."""
        nothing = bytes(len(_body(row)))
        connection.execute("UPDATE records SET body = ? WHERE id = ?", [nothing, place])
        _Buckets(connection, "handles").remove(row.handle, place)
        _Buckets(connection, "pseudonyms").remove(_bytes(row.pseudonym), place)
        connection.execute("UPDATE counts SET n_keys = n_keys - 1")

    def _asked(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._guard, _told():
            return self._connection()[0].execute(sql, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
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
            if size > _JOURNAL_KEPT:  # a large transaction must not make each later one slow
                os.ftruncate(handle, _JOURNAL_KEPT)
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


class _Buckets:
    """A hash table of entries ``(first eight bytes of a name, id of a record)``, in rows of one
    size whose number is a power of two. Which record is meant shows in the record.
    """

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self.connection = connection
        self._table = table
        row = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()
        self._n = int(row[0])

    def places(self, names: Sequence[bytes]) -> list[int]:
        """The ids of records whose names may be these."""
        if not self._n:
            return []
        wanted: dict[int, set[bytes]] = {}
        for name in names:
            wanted.setdefault(self._bucket(name), set()).add(name[:8])
        found = []
        for bucket, body in self._bodies(list(wanted)):
            heads = wanted[bucket]
            found += [place for head, place in _ENTRY.iter_unpack(body) if place and head in heads]
        return found

    def n_reached(self) -> int:
        """How many entries stand in the bucket where they are looked for."""
        n = 0
        for start in range(1, self._n + 1, PAGE):
            for bucket, body in self._bodies(range(start, min(start + PAGE, self._n + 1))):
                n += sum(self._bucket(entry) == bucket for entry in _filled(body))
        return n

    def add(self, entries: Sequence[tuple[bytes, int]], n_after: int) -> None:
        """Put entries in; the buckets are doubled before half of the places are taken."""
        if not entries:
            return
        if not self._n:
            self._n = 1
            self._store([(1, bytes(_ENTRIES * _ENTRY.size))])
        while n_after > self._n * _ENTRIES // 2:
            self._double()
        while True:
            wanted: dict[int, list[bytes]] = {}
            for name, place in entries:
                wanted.setdefault(self._bucket(name), []).append(_ENTRY.pack(name[:8], place))
            bodies = self._bodies(list(wanted))
            kept = [(bucket, [*_filled(body), *wanted[bucket]]) for bucket, body in bodies]
            if all(len(of_one) <= _ENTRIES for _, of_one in kept):
                break
            self._double()  # rare; then each entry's bucket, and what is in it, is another
        self._store([(bucket, _bucket(of_one)) for bucket, of_one in kept])

    def remove(self, name: bytes, place: int) -> None:
        """Overwrite an entry by zeros, where it is."""
        gone = _ENTRY.pack(name[:8], place)
        for bucket, body in self._bodies([self._bucket(name)]):
            entries = [body[at : at + _ENTRY.size] for at in range(0, len(body), _ENTRY.size)]
            left = b"".join(_EMPTY if entry == gone else entry for entry in entries)
            self._store([(bucket, left)])

    def _bodies(self, buckets: Sequence[int]) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for start in range(0, len(buckets), _AT_ONCE):
            part = buckets[start : start + _AT_ONCE]
            sql = f"SELECT id, body FROM {self._table} WHERE id IN ({_marks(part)})"
            found += self.connection.execute(sql, part).fetchall()
        return found

    def _double(self) -> None:
        """Twice as many buckets: each gives a half to a new one, which is appended."""
        before, self._n = self._n, 2 * self._n
        for start in range(1, before + 1, PAGE):
            part = list(range(start, min(start + PAGE, before + 1)))
            new = []
            for bucket, body in self._bodies(part):
                halves: tuple[list[bytes], list[bytes]] = ([], [])
                for entry in _filled(body):
                    halves[self._upper(entry, before)].append(entry)
                self._store([(bucket, _bucket(halves[0]))])
                new.append((bucket + before, _bucket(halves[1])))
            self._store(sorted(new))

    def _store(self, bodies: Sequence[tuple[int, bytes]]) -> None:
        self.connection.executemany(
            f"INSERT INTO {self._table} VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            bodies,
        )

    def _bucket(self, name: bytes) -> int:
        return 1 + int.from_bytes(name[:8], "big") % self._n

    @staticmethod
    def _upper(entry: bytes, before: int) -> bool:
        return bool(int.from_bytes(entry[:8], "big") & before)


def _filled(body: bytes) -> list[bytes]:
    """The entries of a bucket that are taken."""
    size = _ENTRY.size
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return [entry for entry in parts if entry != _EMPTY]


def _bucket(entries: Sequence[bytes]) -> bytes:
    return b"".join(entries).ljust(_ENTRIES * _ENTRY.size, b"\0")


def _body(row: KeyRow) -> bytes:
    return _RECORD.pack(row.handle, row.pseudonym, row.data_key, row.wrapped) + row.name


def _row(body: bytes) -> KeyRow | None:
    """What a record says; None if it was destroyed."""
    handle, pseudonym, data_key, wrapped = _RECORD.unpack_from(body)
    if not data_key:
        return None
    return KeyRow(handle, pseudonym, data_key, wrapped, body[_RECORD.size :])


def _bytes(pseudonym: int) -> bytes:
    return pseudonym.to_bytes(8, "big")


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


__all__ = ["SqliteKeyTable"]
