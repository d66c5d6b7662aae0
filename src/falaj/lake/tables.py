"""The SQL tables of the lake: certificates of erasures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, Text, func, select

from falaj.kernel.database import Instant, Json, metadata

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

certificate_rows = Table(
    "erasure_certificates",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("sequence", Integer, nullable=False),
    Column("pseudonym", String(16), nullable=False),
    Column("erased_at", Instant, nullable=False),
    Column("erased_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("subject_hash", String(64), nullable=False),
    Column("looked_through", Json, nullable=False),
    Column("key_id", String(100), nullable=False),
    Column("algorithm", String(40), nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Index("ix_erasure_certificates_sequence", "sequence"),
    Index("ix_erasure_certificates_pseudonym", "pseudonym"),
)


def newest_sequence(connection: Connection) -> int:
    """The greatest sequence of a certificate, 0 if there is none."""
    query = select(func.coalesce(func.max(certificate_rows.c.sequence), 0))
    return int(connection.execute(query).scalar_one())
