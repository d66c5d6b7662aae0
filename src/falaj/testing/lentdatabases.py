"""PostgreSQL databases that tests use in turn: emptied in between rather than made anew.

Copying and dropping a database costs more than most of the tests that ask for one. One that
is given back is used again if it is as its template was: the same tables, columns,
constraints, triggers and functions, and nobody connected. Any other is dropped.
"""

from __future__ import annotations

from typing import Any

from falaj.testing.servers import PostgresServer

_SCHEMA = """
SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
    SELECT concat_ws(' ', 'relation', oid, relname, relkind, relowner, relacl) AS line
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'column', attrelid, attnum, attname, atttypid, attnotnull)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname, convalidated) FROM pg_constraint
    UNION ALL SELECT concat_ws(' ', 'default', oid, pg_get_expr(adbin, adrelid)) FROM pg_attrdef
    UNION ALL SELECT concat_ws(' ', 'function', oid, proname, prosrc)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'schema', oid, nspname)
        FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT concat_ws(' ', 'setting', setdatabase, setconfig)
        FROM pg_db_role_setting WHERE setdatabase =
            (SELECT oid FROM pg_database WHERE datname = current_database())
) AS lines
"""
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
_BEGIN_AGAIN = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence
JOIN pg_class ON pg_class.oid = seqrelid WHERE relnamespace = 'public'::regnamespace
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class LentDatabases:
    """Copies of templates, lent to one test after the other.

    Args:
        server: where they are made.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._schemas: dict[str, str | None] = {}
        self._tables: dict[str, list[str]] = {}
        self._spare: dict[str, list[str]] = {}
        self._lent: dict[str, str] = {}

    def take(self, template: str) -> str:
        """The name of a database that is as its template is."""
        spare = self._spare.setdefault(template, [])
        name = spare.pop() if spare else self._copied(template)
        self._lent[name] = template
        return name

    def give_back(self, name: str) -> None:
        """Empty a database for the next test, or drop it where it is not as it was."""
        template = self._lent.pop(name)
        with self._server.connected(name) as connection:
            connection.execute(_END_OTHERS)
            as_it_was = _one(connection, _SCHEMA) == self._schemas[template]
            if as_it_was:
                _emptied(connection, self._tables[template])
        if as_it_was:
            self._spare[template].append(name)
        else:
            self._server.drop_database(name)

    def _copied(self, template: str) -> str:
        name = self._server.create_database(template=template)
        if template not in self._schemas:
            with self._server.connected(name) as connection:
                tables = [f'"{table}"' for (table,) in connection.execute(_TABLES)]
                # What a template holds would not be there again.
                holds = _filled(connection, tables)
                self._schemas[template] = None if holds else _one(connection, _SCHEMA)
                self._tables[template] = tables
        return name


def _emptied(connection: Any, tables: list[str]) -> None:
    connection.execute("SET session_replication_role = replica")  # triggers guard some tables
    filled = _filled(connection, tables)
    if filled:
        connection.execute(f"TRUNCATE {', '.join(filled)} CASCADE")
    connection.execute(_BEGIN_AGAIN)


def _filled(connection: Any, tables: list[str]) -> list[str]:
    """Those of the tables that have rows."""
    if not tables:
        return []
    each = [f"SELECT {n} WHERE EXISTS (SELECT FROM {table})" for n, table in enumerate(tables)]
    return [tables[n] for (n,) in connection.execute(" UNION ALL ".join(each))]


def _one(connection: Any, query: str) -> Any:
    return connection.execute(query).fetchone()[0]
