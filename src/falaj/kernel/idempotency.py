"""The first answers of calls that carried an idempotency key, so that a repeat gets them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, String, Table, Text, insert, select
from sqlalchemy.engine import Connection

from falaj.kernel.database import Instant, metadata

kept_answers = Table(
    "kept_answers",
    metadata,
    Column("principal", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("call_id", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", Instant, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer of an earlier call, as JSON, and a hash of what was asked."""

    call_id: str
    fingerprint: str
    answer: str


class Answers:
    """Kept answers by (principal, key)."""

    def find(self, connection: Connection, principal: str, key: str) -> KeptAnswer | None:
        """The first answer for this key, or None."""
        row = connection.execute(
            select(kept_answers.c.call_id, kept_answers.c.fingerprint, kept_answers.c.answer).where(
                kept_answers.c.principal == principal, kept_answers.c.key == key
            )
        ).first()
        return None if row is None else KeptAnswer(row.call_id, row.fingerprint, row.answer)

    def keep(
        self,
        connection: Connection,
        *,
        principal: str,
        key: str,
        call_id: str,
        fingerprint: str,
        answer: str,
        at: datetime,
    ) -> None:
        """Keep an answer in the transaction of its call."""
        connection.execute(
            insert(kept_answers).values(
                principal=principal,
                key=key,
                call_id=call_id,
                fingerprint=fingerprint,
                answer=answer,
                at=at,
            )
        )
