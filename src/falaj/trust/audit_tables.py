"""The tables of the audit log, and the triggers that refuse to change what stands in them.

The triggers are made with the tables (``metadata.create_all``); a migration runs
``append_only_ddl`` after it has made the tables. They stop mistakes and injected SQL, not
whoever owns the database: against that one stand the chain and the signed checkpoints.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    event,
)

from falaj.kernel.database import Instant, metadata

_Seq = BigInteger().with_variant(Integer, "sqlite")

audit_records = Table(
    "audit_records",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("call_id", Text, nullable=False),
    Column("parent", Text),
    Column("principal", Text, nullable=False),
    Column("via", Text, nullable=False),
    Column("address", Text),
    Column("action", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("body", Text, nullable=False, comment="JSON: reasons, arguments, details"),
    Column("hash", LargeBinary(32), nullable=False),
)
Index(None, audit_records.c.at)
Index(None, audit_records.c.principal, audit_records.c.seq)
Index(None, audit_records.c.action, audit_records.c.seq)
Index(None, audit_records.c.resource, audit_records.c.seq)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", _Seq, primary_key=True, autoincrement=False),
    Column("statement", Text, nullable=False, comment="the signed text"),
    Column("key_id", String(64), nullable=False),
    Column("algorithm", String(32), nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
)

audit_horizons = Table(
    "audit_horizons",
    metadata,
    Column("size", _Seq, primary_key=True, autoincrement=False),
    Column("statement", Text, nullable=False, comment="the signed text"),
    Column("key_id", String(64), nullable=False),
    Column("algorithm", String(32), nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

PROTECTED = ("audit_records", "audit_checkpoints")
"""The tables that only grow; ``behind_horizon_ddl`` lets records go that a horizon covers."""

_SQLITE = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
WHEN NEW.{key} <= (SELECT max({key}) FROM {table})
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
# Without the third one, INSERT OR REPLACE deletes the old row and fires no trigger.
_SQLITE_SPLIT = "END;\n"

_POSTGRESQL = """
CREATE OR REPLACE FUNCTION falaj_append_only() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN RAISE EXCEPTION ''% is append-only'', TG_TABLE_NAME; END'
;;
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION falaj_append_only()
"""


def append_only_ddl(dialect: str, table: str) -> list[str]:
    """The statements that make a table of ``PROTECTED`` refuse all but new rows.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        table: its name.
    """
    key = next(iter(metadata.tables[table].primary_key)).name
    if dialect == "sqlite":
        text = _SQLITE.format(table=table, key=key)
        pieces = text.split(_SQLITE_SPLIT)
        return [piece.strip() + "\nEND" for piece in pieces[:-1]] + [pieces[-1].strip()]
    if dialect == "postgresql":
        return [piece.strip() for piece in _POSTGRESQL.format(table=table).split(";;")]
    raise ValueError(f"no append-only triggers are known for {dialect}")


def behind_horizon_ddl(dialect: str) -> list[str]:
    """The statements that let records go from the start up to a horizon, and no others.

    Run them after ``append_only_ddl`` of the records, when ``audit_horizons`` is there.
    """
    horizon = "coalesce((SELECT max(size) FROM audit_horizons), 0)"
    if dialect == "sqlite":
        return [
            "DROP TRIGGER audit_records_no_delete",
            "CREATE TRIGGER audit_records_no_delete BEFORE DELETE ON audit_records "
            f"WHEN OLD.seq > {horizon} "
            "BEGIN SELECT RAISE(ABORT, 'audit_records is append-only'); END",
        ]
    if dialect == "postgresql":
        return [
            "DROP TRIGGER audit_records_append_only ON audit_records",
            "CREATE TRIGGER audit_records_append_only BEFORE UPDATE OR TRUNCATE ON audit_records "
            "FOR EACH STATEMENT EXECUTE FUNCTION falaj_append_only()",
            "CREATE OR REPLACE FUNCTION falaj_behind_horizon() RETURNS trigger LANGUAGE plpgsql "
            f"AS 'BEGIN IF OLD.seq > {horizon} THEN "
            "RAISE EXCEPTION ''audit_records is append-only''; END IF; RETURN OLD; END'",
            "CREATE TRIGGER audit_records_kept BEFORE DELETE ON audit_records "
            "FOR EACH ROW EXECUTE FUNCTION falaj_behind_horizon()",
        ]
    raise ValueError(f"no append-only triggers are known for {dialect}")


def _ddl(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]


def _protect(table: Table) -> None:
    for dialect in ("sqlite", "postgresql"):
        for statement in append_only_ddl(dialect, table.name):
            event.listen(table, "after_create", _ddl(statement).execute_if(dialect=dialect))


for _table in (audit_records, audit_checkpoints, audit_horizons):
    _protect(_table)
for _dialect in ("sqlite", "postgresql"):
    for _statement in behind_horizon_ddl(_dialect):
        # After the last of the three: its own table must be there.
        event.listen(audit_horizons, "after_create", _ddl(_statement).execute_if(dialect=_dialect))
audit_horizons.add_is_dependent_on(audit_records)
