"""The tables of passkeys, of browsers' sessions and of codes for devices."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
)

from falaj.kernel.database import Instant, metadata

passkeys = Table(
    "passkeys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False, index=True),
    # Credential ids have up to 1,023 bytes; their hash is what is looked for.
    Column("credential_hash", String(64), nullable=False, unique=True),
    Column("credential_id", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("user_handle", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("verifies", Boolean, nullable=False),
    Column("backed_up", Boolean, nullable=False),
    Column("name", String(100), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("last_used_at", Instant, nullable=True),
)

used_challenges = Table(
    "used_challenges",
    metadata,
    Column("challenge_hash", String(64), primary_key=True),
    Column("expires_at", Instant, nullable=False, index=True),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("secret_hash", String(64), primary_key=True),
    Column(
        "session",
        String(64),
        ForeignKey("sessions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("expires_at", Instant, nullable=False, index=True),
)

device_codes = Table(
    "device_codes",
    metadata,
    Column("device_hash", String(64), primary_key=True),
    Column("user_hash", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    # A code that steps up names its account and session from the beginning.
    Column("account", String(64), ForeignKey("accounts.id"), nullable=True),
    Column("session", String(64), nullable=True),
    Column("steps_up", Boolean, nullable=False),
    # The session in whose browser it was let in.
    Column("approved_in", String(64), nullable=True),
    Column("mfa_at", Instant, nullable=True),
    Column("client", String(100), nullable=False),
    Column("address", String(100), nullable=True, index=True),
    Column("interval_seconds", Integer, nullable=False),
    Column("polled_at", Instant, nullable=True),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
)
