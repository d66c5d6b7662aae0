"""Insert a row unless one with its key is there: the safe way to create from two sides."""

from __future__ import annotations

from collections.abc import Mapping
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


def _insert(connection: Connection, table: Table) -> Any:
    """The dialect's own INSERT; only the one that is used is imported."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)
