"""SQL text by the driver's own cursor, for the few statements of the hot paths.

SQLAlchemy Core costs a tenth of a millisecond for each statement, which is more than SQLite
needs to do it. A ``Statement`` goes to the driver as it stands, inside the transaction of a
SQLAlchemy connection. Values are always bound, never written into the text.

Instants are passed and read as Unix microseconds, JSON as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from falaj.kernel.numbers import finite

_json = msgspec.json.Encoder(enc_hook=str).encode


class Statement:
    """One SQL text with ``?`` for each value, run on SQLite or PostgreSQL.

    Raises in each method ``sqlalchemy.exc.DBAPIError``, as Core does, which the transaction
    turns into an error of Falaj.
    """

    __slots__ = ("_postgresql", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._postgresql = text.replace("%", "%%").replace("?", "%s")

    def run(self, connection: Connection, values: Sequence[Any] = ()) -> int:
        """Do it once; returns the number of rows that it touched."""
        cursor = self._done(connection, values, many=False)
        try:
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def many(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Do it once for each row of values."""
        if rows:
            self._done(connection, rows, many=True).close()

    def all(self, connection: Connection, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that it gives."""
        cursor = self._done(connection, values, many=False)
        try:
            return cast("list[tuple[Any, ...]]", cursor.fetchall())
        finally:
            cursor.close()

    def first(self, connection: Connection, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row that it gives, or None."""
        cursor = self._done(connection, values, many=False)
        try:
            return cast("tuple[Any, ...] | None", cursor.fetchone())
        finally:
            cursor.close()

    def _done(self, connection: Connection, values: Any, *, many: bool) -> Any:
        postgresql = connection.dialect.name == "postgresql"
        text = self._postgresql if postgresql else self.text
        cursor = cast("Any", connection.connection).cursor()
        try:
            if many:
                cursor.executemany(text, values)
            else:
                cursor.execute(text, values)
        except connection.dialect.loaded_dbapi.Error as error:
            cursor.close()
            raise DBAPIError.instance(  # the values are left out: they may be secret
                text, None, error, connection.dialect.loaded_dbapi.Error,
                hide_parameters=True, dialect=connection.dialect,
            ) from error  # fmt: skip
        return cursor


def json_text(document: Any) -> str:
    """A document as a column of type ``Json`` keeps it; NaN and infinities as their names."""
    return _json(finite(document)).decode()


def marks(n: int) -> str:
    """``n`` question marks for a list of values: ``?, ?, ?``."""
    return ", ".join("?" * n)


__all__ = ["Statement", "json_text", "marks"]
