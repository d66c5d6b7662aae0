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
            if many and postgresql and len(values) == 1:
                cursor.execute(text, values[0])  # a pipeline for one is two round trips
            elif many:
                cursor.executemany(text, values)
            else:
                cursor.execute(text, values)
        except connection.dialect.loaded_dbapi.Error as error:
            cursor.close()
            raise _told(connection, text, error) from error
        return cursor


def all_together(
    connection: Connection, asked: Sequence[tuple[Statement, Sequence[Any]]]
) -> list[list[tuple[Any, ...]]]:
    """The rows that each of several statements gives, which do not depend on each other.

    On PostgreSQL they go out together and cost one round trip. Raises as ``Statement``.
    """
    if connection.dialect.name != "postgresql" or len(asked) < 2:
        return [statement.all(connection, values) for statement, values in asked]
    raw = cast("Any", connection.connection.driver_connection)
    cursors: list[Any] = []
    try:
        with raw.pipeline():
            for statement, values in asked:
                cursors.append(statement._done(connection, values, many=False))
        return [cursor.fetchall() for cursor in cursors]
    except connection.dialect.loaded_dbapi.Error as error:  # told when the pipeline ends
        raise _told(connection, "several statements", error) from error
    finally:
        for cursor in cursors:
            cursor.close()


def _told(connection: Connection, text: str, error: Any) -> DBAPIError:
    """The error as Core tells it; the values are left out: they may be secret."""
    kind = connection.dialect.loaded_dbapi.Error
    told = DBAPIError.instance(
        text, None, error, kind, hide_parameters=True, dialect=connection.dialect
    )
    return cast("DBAPIError", told)


def json_text(document: Any) -> str:
    """A document as a column of type ``Json`` keeps it; NaN and infinities as their names."""
    return _json(finite(document)).decode()


def marks(n: int) -> str:
    """``n`` question marks for a list of values: ``?, ?, ?``."""
    return ", ".join("?" * n)


__all__ = ["Statement", "all_together", "json_text", "marks"]
