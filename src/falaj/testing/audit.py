"""Audit entries for tests, and an owner of the database who edits the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection

from falaj.kernel.database import Database
from falaj.kernel.ports import AuditEntry, Outcome
from falaj.trust.audit import GENESIS, SqlAuditLog, chained
from falaj.trust.audit_proofs import record_bytes
from falaj.trust.audit_tables import PROTECTED, audit_records

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def make_entry(number: int = 1, **changes: Any) -> AuditEntry:
    """An entry that differs by its number; any of its fields may be given."""
    values: dict[str, Any] = {
        "call_id": f"call_{number:032x}",
        "parent": None,
        "at": START + timedelta(seconds=number),
        "principal": f"user:u{number % 3}",
        "via": "http",
        "address": "10.0.0.1",
        "action": ("models.promote", "models.get")[number % 2],
        "resource": f"model_version:flight/{number % 5}",
        "outcome": Outcome.DONE,
        "reasons": ("role-engineer",),
        "arguments": {"name": "flight", "version": number, "reason": "besser als üblich"},
        "details": {},
    }
    return AuditEntry(**{**values, **changes})


def fill(database: Database, count: int, *, first: int = 1) -> None:
    """Append entries numbered from ``first``, in one transaction."""
    with database.transaction() as connection:
        entries = [make_entry(number) for number in range(first, first + count)]
        SqlAuditLog().append_many(connection, entries)


class Tamperer:
    """Whoever owns the database: drops the triggers, then edits what stands there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            for table in PROTECTED:
                if database.is_sqlite:
                    for kind in ("update", "delete", "replace"):
                        connection.execute(text(f"DROP TRIGGER {table}_no_{kind}"))
                else:
                    connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))

    def run(self, sql: str, **values: Any) -> None:
        """Run one statement in a transaction of its own."""
        with self._database.transaction() as connection:
            connection.execute(text(sql), values)

    def move(self, low: int, by: int) -> None:
        """Renumber the records from ``low`` on, by a step."""
        far = 1_000_000
        self.run("UPDATE audit_records SET seq = seq + :far WHERE seq >= :low", far=far, low=low)
        self.run("UPDATE audit_records SET seq = seq - :by WHERE seq >= :far", by=far - by, far=far)

    def rechain(self, low: int = 1) -> None:
        """Make all hashes from ``low`` on right again, as the log itself would."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(audit_records).order_by(audit_records.c.seq)).all()
            previous = GENESIS
            for row in rows:
                if row.seq >= low:
                    previous = chained(previous, record_bytes(row))
                    _set_hash(connection, row.seq, previous)
                else:
                    previous = row.hash

    def insert_record(self, seq: int, **changes: Any) -> None:
        """Put a copy of the first record at a free place, changed, with its hash right."""
        with self._database.transaction() as connection:
            first = connection.execute(select(audit_records).where(audit_records.c.seq == 1)).one()
            connection.execute(
                insert(audit_records).values({**first._mapping, "seq": seq, **changes})
            )
            before = connection.execute(
                select(audit_records.c.hash).where(audit_records.c.seq == seq - 1)
            ).scalar_one()
            row = connection.execute(select(audit_records).where(audit_records.c.seq == seq)).one()
            _set_hash(connection, seq, chained(before, record_bytes(row)))


def _set_hash(connection: Connection, seq: int, value: bytes) -> None:
    connection.execute(audit_records.update().where(audit_records.c.seq == seq).values(hash=value))
