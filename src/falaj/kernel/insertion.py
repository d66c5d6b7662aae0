"""Insert a row unless one with its key is there: the safe way to create from two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table
from sqlalchemy.engine import Connection


def insert_if_absent(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert the row; False if a row with the same primary or unique key stands already.

    Another transaction that inserts the same key is waited for, so after False the other
    row can be read.
    """
    statement = _insert(connection, table).values(dict(values)).on_conflict_do_nothing()
    # Asked for by RETURNING: drivers do not agree on the count of rows after a conflict.
    returned = connection.execute(statement.returning(*table.primary_key.columns))
    return returned.first() is not None


def insert_all_absent(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert those of the rows whose primary or unique key is not there yet."""
    if rows:
        statement = _insert(connection, table).on_conflict_do_nothing()
        connection.execute(statement, [dict(row) for row in rows])


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, each in the place of the one that has its primary key."""
    if rows:
        connection.execute(_upserting(connection.dialect.name, table), [dict(row) for row in rows])


@cache
def _upserting(dialect: str, table: Table) -> Any:
    """Made once: to put the statement together takes longer than to run it."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        statement: Any = sqlite.insert(table)
    else:
        from sqlalchemy.dialects import postgresql

        statement = postgresql.insert(table)
    keys = list(table.primary_key.columns)
    values = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if column not in keys
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=values)


def _insert(connection: Connection, table: Table) -> Any:
    """The dialect's own INSERT; only the one that is used is imported."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)
