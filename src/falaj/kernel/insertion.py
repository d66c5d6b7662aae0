"""Insert a row unless one with its key is there: the safe way to create from two sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection


def insert_if_absent(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert the row; False if a row with the same primary or unique key stands already.

    Another transaction that inserts the same key is waited for, so after False the other
    row can be read.
    """
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(dict(values)).on_conflict_do_nothing()
    # Asked for by RETURNING: drivers do not agree on the count of rows after a conflict.
    returned = connection.execute(statement.returning(*table.primary_key.columns))
    return returned.first() is not None
