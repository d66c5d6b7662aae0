"""The table of certificates that were issued to programs. No key is kept, nor ever seen."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, String, Table

from falaj.kernel.database import Instant, metadata

program_certificates = Table(
    "program_certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False, index=True),
    Column("identity", String(400), nullable=False),
    Column("thumbprint", String(43), nullable=False, unique=True),
    Column("issued_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("revoked_at", Instant, nullable=True),
    Column("revoked_because", String(200), nullable=True),
)
