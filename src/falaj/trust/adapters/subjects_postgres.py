"""Subject keys in a PostgreSQL database of their own.

What PostgreSQL leaves of a deleted row: the dead tuple stays in its page until VACUUM, and
its bytes may stay in the page's free space after that; the write-ahead log holds the row as
it was inserted until the segment is recycled, and archives and standbys of the log hold it
for as long as they are kept. So after ``remove`` no one who asks the server finds the row,
but its files may hold the bytes for a while. They are a keyed hash, a random number and a
wrapped key: of use only to somebody who has the key service as well. Let the database be
vacuumed often (VACUUM FULL writes the table anew) and keep no archive of its log that is
older than an erasure may take.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Unavailable
from falaj.trust.subjectkeys import KeyRow
from falaj.trust.subjects import Destroyed

if TYPE_CHECKING:
    import psycopg

PAGE = 1000
_LOCK = 5_172_260_417_036_817_003
_ROW = "handle, pseudonym, data_key, wrapped, name"
_TABLES = """
CREATE TABLE IF NOT EXISTS subject_keys (
    handle BYTEA PRIMARY KEY, pseudonym BIGINT NOT NULL UNIQUE, data_key INTEGER NOT NULL,
    wrapped BYTEA NOT NULL, name BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS destructions (
    sequence BIGINT PRIMARY KEY, pseudonym BIGINT NOT NULL, destroyed_us BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS data_keys (number INTEGER PRIMARY KEY, wrapped TEXT NOT NULL);
"""


class PostgresKeyTable:
    """A ``KeyTable`` in the database that a libpq URL names; its tables are made if missing.

    Args:
        url: ``postgresql://user@host/database``.
        password: joined to it, if there is one.
        wait_seconds: for the server to answer.
    """

    def __init__(self, url: str, *, password: str = "", wait_seconds: float = 10.0) -> None:
        self._url = url
        self._password = password
        self._wait_seconds = wait_seconds
        self._guard = threading.RLock()
        self._open: psycopg.Connection[Any] | None = None

    def by_handle(self, handles: Sequence[bytes]) -> list[KeyRow]:
        """See ``KeyTable.by_handle``."""
        return self._rows("handle = ANY(%s::bytea[])", [list(handles)])

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[KeyRow]:
        """See ``KeyTable.by_pseudonym``."""
        return self._rows("pseudonym = ANY(%s::bigint[])", [list(pseudonyms)])

    def removed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``KeyTable.removed``."""
        rows = self._asked(
            "SELECT pseudonym, destroyed_us, sequence FROM destructions WHERE sequence > %s"
            " ORDER BY sequence",
            [after],
        )
        return [Destroyed(owner, from_microseconds(us), number) for owner, us, number in rows]

    def sequence(self) -> int:
        """See ``KeyTable.sequence``."""
        return int(self._asked("SELECT coalesce(max(sequence), 0) FROM destructions")[0][0])

    def data_keys(self) -> dict[int, str]:
        """See ``KeyTable.data_keys``."""
        return dict(self._asked("SELECT number, wrapped FROM data_keys"))

    def pages(self, *, data_key: int | None = None) -> Iterator[list[KeyRow]]:
        """See ``KeyTable.pages``."""
        only = "" if data_key is None else "AND data_key = %s"
        after = -1
        while True:
            given = [after] if data_key is None else [after, data_key]
            rows = self._rows(f"pseudonym > %s {only} ORDER BY pseudonym LIMIT {PAGE}", given)
            if not rows:
                return
            after = rows[-1].pseudonym
            yield rows

    def count(self) -> int:
        """See ``KeyTable.count``."""
        return int(self._asked("SELECT count(*) FROM subject_keys")[0][0])

    def flaw(self) -> str:
        """See ``KeyTable.flaw``: a row whose data key is gone; the rest the database sees to."""
        sql = (
            "SELECT count(*) FROM subject_keys WHERE data_key NOT IN (SELECT number FROM data_keys)"
        )
        n = self._asked(sql)[0][0]
        return f"{n} keys are under a data key that is gone" if n else ""

    def add(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.add``."""
        with self._writing() as cursor:
            cursor.executemany(
                f"INSERT INTO subject_keys ({_ROW}) SELECT %s, %s, %s, %s, %s"
                " WHERE EXISTS (SELECT 1 FROM data_keys WHERE number = %s) ON CONFLICT DO NOTHING",
                [(*_values(row), row.data_key) for row in rows],
            )

    def remove(self, handle: bytes, at: datetime) -> Destroyed | None:
        """See ``KeyTable.remove``; what PostgreSQL keeps of it is told above."""
        with self._writing() as cursor:
            cursor.execute(
                "DELETE FROM subject_keys WHERE handle = %s RETURNING pseudonym", [handle]
            )
            row = cursor.fetchone()
            if row is None:
                return None
            cursor.execute(
                "INSERT INTO destructions SELECT coalesce(max(sequence), 0) + 1, %s, %s"
                " FROM destructions RETURNING sequence",
                [row[0], microseconds(at)],
            )
            counted = cursor.fetchone()
            return Destroyed(row[0], at, int(counted[0]) if counted else 0)

    def add_data_key(self, number: int, wrapped: str) -> None:
        """See ``KeyTable.add_data_key``."""
        with self._writing() as cursor:
            cursor.execute(
                "INSERT INTO data_keys VALUES (%s, %s) ON CONFLICT DO NOTHING", [number, wrapped]
            )

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """See ``KeyTable.exchange_data_key``."""
        with self._writing() as cursor:
            cursor.execute(
                "UPDATE data_keys SET wrapped = %s WHERE number = %s AND wrapped = %s",
                [new, number, old],
            )
            return cursor.rowcount == 1

    def drop_data_key(self, number: int) -> bool:
        """See ``KeyTable.drop_data_key``."""
        with self._writing() as cursor:
            cursor.execute("SELECT 1 FROM subject_keys WHERE data_key = %s LIMIT 1", [number])
            if cursor.fetchone() is not None:
                return False
            cursor.execute("DELETE FROM data_keys WHERE number = %s", [number])
            return True

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.rewrapped``."""
        with self._writing() as cursor:
            cursor.executemany(
                "UPDATE subject_keys SET data_key = %s, wrapped = %s WHERE pseudonym = %s",
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
        with self._writing() as cursor:
            if data_keys is not None:
                cursor.execute("DELETE FROM data_keys")
                cursor.executemany("INSERT INTO data_keys VALUES (%s, %s)", list(data_keys.items()))
            cursor.executemany(
                "DELETE FROM subject_keys WHERE handle = %s OR pseudonym = %s",
                [(row.handle, row.pseudonym) for row in rows],
            )
            cursor.executemany(
                f"INSERT INTO subject_keys ({_ROW}) VALUES (%s, %s, %s, %s, %s)",
                [_values(row) for row in rows],
            )
            cursor.executemany(
                "DELETE FROM subject_keys WHERE pseudonym = %s", [(d.pseudonym,) for d in destroyed]
            )
            cursor.executemany(
                "INSERT INTO destructions VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [(d.sequence, d.pseudonym, microseconds(d.destroyed_at)) for d in destroyed],
            )

    def close(self) -> None:
        """See ``KeyTable.close``; it connects again when it is used again."""
        with self._guard:
            found, self._open = self._open, None
            if found is not None:
                found.close()

    # -- the server ---------------------------------------------------------------------

    def _rows(self, where: str, values: Sequence[Any]) -> list[KeyRow]:
        found = self._asked(f"SELECT {_ROW} FROM subject_keys WHERE {where}", values)
        return [KeyRow(*row) for row in found]

    def _asked(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._session() as connection, connection.cursor() as cursor:
            return cursor.execute(sql, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[psycopg.Cursor[Any]]:
        """One transaction, alone: destructions are counted without gaps."""
        with (
            self._session() as connection,
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            yield cursor

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        import psycopg

        with self._guard:
            try:
                if self._open is None or self._open.closed:
                    self._open = self._connected()
                yield self._open
            except psycopg.Error as error:
                if self._open is not None and self._open.closed:
                    self._open = None
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise Unavailable(
                    f"The store of subject keys does not answer: {told}.",
                    hint="Check privacy.subject_keys and privacy.replica, and that it runs.",
                ) from error

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        more: dict[str, Any] = {"password": self._password} if self._password else {}
        connection = psycopg.connect(
            self._url, autocommit=True, connect_timeout=int(self._wait_seconds), **more
        )
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute("SET LOCAL client_min_messages = warning")
            connection.execute(_TABLES)
        connection.execute("SET synchronous_commit = on")
        return connection


def _values(row: KeyRow) -> tuple[bytes, int, int, bytes, bytes]:
    return row.handle, row.pseudonym, row.data_key, row.wrapped, row.name


__all__ = ["PostgresKeyTable"]
