"""The audit log: an append-only chain of records in the metadata database.

Record *n* is kept with ``hash(n) = SHA-256(hash(n-1) || canonical(n))``, where the
canonical form is the JSON array of its columns from ``seq`` to ``body`` (without spaces,
UTF-8; ``at`` in Unix microseconds) and ``hash(0)`` is 32 zero bytes. Sequence numbers
have no gaps: a record takes its number and its place in the chain when its transaction
holds the one lock that writers of the log pass through.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, cast

import msgspec
from sqlalchemy import Row, func, select
from sqlalchemy.engine import Connection

from falaj.kernel.clock import microseconds
from falaj.kernel.commitorder import TURN
from falaj.kernel.database import out_of_space
from falaj.kernel.errors import Corrupt, NotFound, Unavailable
from falaj.kernel.ports import AuditEntry, Outcome
from falaj.kernel.telemetry import logger
from falaj.trust.audit_model import AuditPage, AuditRecord
from falaj.trust.audit_tables import audit_records

GENESIS = bytes(32)
"""The hash before the first record."""
COLUMNS = tuple(column.name for column in audit_records.columns)[:-1]
"""What the canonical form of a record is made of, in order."""
LARGEST_PAGE = 1_000
_log = logger(__name__)
_HEAD = "SELECT seq, hash FROM audit_records ORDER BY seq DESC LIMIT 1"
_NAMES = ", ".join(column.name for column in audit_records.columns)
_INSERT_SQLITE = f"INSERT INTO audit_records ({_NAMES}) VALUES ({', '.join('?' * 12)})"
_INSERT_POSTGRESQL = f"INSERT INTO audit_records ({_NAMES}) VALUES ({', '.join(['%s'] * 12)})"
_COPY_POSTGRESQL = f"COPY audit_records ({_NAMES}) FROM STDIN"
_FEWEST_COPIED = 4
"""From so many rows on, COPY costs less than an insert for each."""

canonical = msgspec.json.Encoder().encode
"""The canonical bytes of a tuple of a record's columns."""
_body = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def chained(previous: bytes, record: bytes) -> bytes:
    """The hash of a record, from the hash before it and its canonical form."""
    return sha256(previous + record).digest()


class SqlAuditLog:
    """Keeps audit records in the caller's transaction (SQLite or PostgreSQL).

    Fulfils ``falaj.kernel.ports.AuditLog``. On PostgreSQL an append takes a lock that the
    transaction holds until it ends: append last.
    """

    def append(self, connection: Connection, entry: AuditEntry) -> None:
        """Keep one entry; raises Unavailable when it cannot be kept."""
        self.append_many(connection, (entry,))

    def append_many(self, connection: Connection, entries: Sequence[AuditEntry]) -> None:
        """Keep entries, in order, in one go; raises Unavailable when they cannot be kept."""
        if not entries:
            return
        postgresql = connection.dialect.name == "postgresql"
        # By the driver's own cursor: through SQLAlchemy this cost a third of a millisecond.
        raw = cast("Any", connection.connection)
        try:
            cursor = raw.cursor()
            try:
                if postgresql:
                    with raw.driver_connection.pipeline():  # one round trip for both
                        raw.driver_connection.execute(TURN)
                        cursor.execute(_HEAD)
                else:
                    cursor.execute(_HEAD)
                seq, previous = cursor.fetchone() or (0, GENESIS)
                previous = bytes(previous)
                rows: list[tuple[Any, ...]] = []
                for entry in entries:
                    seq += 1
                    row = _columns(seq, entry)
                    previous = chained(previous, canonical(row))
                    rows.append((*row, previous))
                _insert(cursor, rows, postgresql=postgresql)
            finally:
                cursor.close()
        except connection.dialect.loaded_dbapi.Error as error:
            # The driver's words name files and hosts: they are for the operator's log alone.
            reason = (str(error).strip().splitlines() or ["no answer"])[0]
            _log.error("an audit record cannot be kept", error=reason)
            why = ": its disk is full or failing" if out_of_space(reason) else ""
            raise Unavailable(
                f"The audit record cannot be kept, so nothing was done{why}.",
                hint="Free some space or mend the database (`falaj doctor`), then repeat the call.",
            ) from error

    def search(
        self,
        connection: Connection,
        *,
        principal: str | None = None,
        action: str | None = None,
        resource: str | None = None,
        outcome: Outcome | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> AuditPage:
        """Records that fit all the given filters, newest first.

        Args:
            principal: the exact id.
            action, resource: exact, or a beginning that ends in ``*``.
            since, until: ``since <= at < until``.
            before: only records with a smaller number (the ``next`` of a page).
            limit: 1 to 1,000.
        """
        table = audit_records.c
        limit = max(1, min(limit, LARGEST_PAGE))
        query = select(audit_records).order_by(table.seq.desc()).limit(limit + 1)
        for column, wanted in (
            (table.principal, principal),
            (table.action, action),
            (table.resource, resource),
        ):
            if wanted is None:
                continue
            exact = cleaned(wanted)
            if exact.endswith("*"):
                query = query.where(column.startswith(exact[:-1], autoescape=True))
            else:
                query = query.where(column == exact)
        if outcome is not None:
            query = query.where(table.outcome == outcome.value)
        if since is not None:
            query = query.where(table.at >= since)
        if until is not None:
            query = query.where(table.at < until)
        if before is not None:
            query = query.where(table.seq < before)
        rows = connection.execute(query).all()
        records = [_record(row) for row in rows[:limit]]
        return AuditPage(records=records, next=records[-1].seq if len(rows) > limit else None)

    def following(
        self,
        connection: Connection,
        *,
        after: int,
        upto: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = LARGEST_PAGE,
    ) -> list[AuditRecord]:
        """Records behind a number, oldest first.

        Args:
            upto: the last number that is wanted.
            since, until: ``since <= at < until``.
            limit: 1 to 1,000.
        """
        table = audit_records.c
        query = select(audit_records).where(table.seq > after).order_by(table.seq)
        if upto is not None:
            query = query.where(table.seq <= upto)
        if since is not None:
            query = query.where(table.at >= since)
        if until is not None:
            query = query.where(table.at < until)
        rows = connection.execute(query.limit(max(1, min(limit, LARGEST_PAGE)))).all()
        return [_record(row) for row in rows]

    def get(self, connection: Connection, seq: int) -> AuditRecord:
        """One record; raises NotFound."""
        row = connection.execute(select(audit_records).where(audit_records.c.seq == seq)).first()
        if row is None:
            raise NotFound(f"The audit log has no record {seq}.", hint="See `falaj audit search`.")
        return _record(row)

    def size(self, connection: Connection) -> int:
        """The number of the last record."""
        return connection.execute(select(func.max(audit_records.c.seq))).scalar() or 0


def cleaned(value: str) -> str:
    """The text as both engines can store it: NUL and lone surrogates become U+FFFD."""
    if value.isascii() and "\0" not in value:
        return value
    return (
        value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _insert(cursor: Any, rows: list[tuple[Any, ...]], *, postgresql: bool) -> None:
    """Write rows as they were hashed, by the driver's own way for many."""
    if not postgresql:
        cursor.executemany(_INSERT_SQLITE, rows)
    elif len(rows) == 1:
        cursor.execute(_INSERT_POSTGRESQL, rows[0])
    elif len(rows) < _FEWEST_COPIED:
        cursor.executemany(_INSERT_POSTGRESQL, rows)
    else:
        with cursor.copy(_COPY_POSTGRESQL) as copy:
            for row in rows:
                copy.write_row(row)


def _columns(seq: int, entry: AuditEntry) -> tuple[Any, ...]:
    """The values of ``COLUMNS``, ``at`` in Unix microseconds."""
    return (
        seq,
        microseconds(entry.at),
        cleaned(entry.call_id),
        None if entry.parent is None else cleaned(entry.parent),
        cleaned(entry.principal),
        cleaned(entry.via),
        None if entry.address is None else cleaned(entry.address),
        cleaned(entry.action),
        cleaned(entry.resource),
        entry.outcome.value,
        _body_text(
            {
                "reasons": list(entry.reasons),
                "arguments": entry.arguments,
                "details": entry.details,
            }
        ),
    )


def _body_text(body: dict[str, Any]) -> str:
    try:
        return _body(body).decode()
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        # Lone surrogates, keys that are no text, huge integers: kept as well as can be.
        return _body(_plain(body, 20)).decode()


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        return "(deeper)"
    if isinstance(value, dict):
        return {cleaned(str(key)): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return cleaned(str(value))


def _record(row: Row[Any]) -> AuditRecord:
    try:
        body = json.loads(row.body)
        values = {name: getattr(row, name) for name in COLUMNS if name != "body"}
        return AuditRecord(**values, **body, hash=row.hash.hex())
    except (ValueError, TypeError, AttributeError):
        raise Corrupt(
            f"The audit record {row.seq} cannot be read: it was changed.",
            hint="Run `falaj audit verify`.",
        ) from None
