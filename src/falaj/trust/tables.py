"""The tables of accounts, credentials, sessions and revocations. No secret is kept in clear."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from falaj.kernel.database import Instant, Json, metadata

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("roles", Json, nullable=False),
    Column("password_hash", Text, nullable=True),
    Column("totp_sealed", LargeBinary, nullable=True),
    Column("totp_pending_sealed", LargeBinary, nullable=True),
    Column("totp_last_step", BigInteger, nullable=False, default=0),
    Column("secret_hash", String(64), nullable=True),
    Column("public_key", LargeBinary, nullable=True, unique=True),
    Column("epoch", Integer, nullable=False, default=0),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("deactivated_at", Instant, nullable=True),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("code_hash", String(64), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False, index=True),
    Column("used_at", Instant, nullable=True),
)

invitations = Table(
    "invitations",
    metadata,
    Column("secret_hash", String(64), primary_key=True),
    # A link for the first administrator has no account yet: the name is chosen with it.
    Column("account", String(64), ForeignKey("accounts.id"), nullable=True, index=True),
    Column("purpose", String(16), nullable=False),
    Column("roles", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("used_at", Instant, nullable=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False, index=True),
    Column("client", String(100), nullable=False),
    Column("address", String(100), nullable=True),
    Column("created_at", Instant, nullable=False),
    Column("last_used_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("mfa_at", Instant, nullable=True),
    Column("revoked_at", Instant, nullable=True),
    Column("revoked_because", String(100), nullable=True),
    # The key that must be proven with each token of it (``trust.bindings``).
    Column("binding", String(100), nullable=True),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column(
        "session",
        String(64),
        ForeignKey("sessions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("issued_at", Instant, nullable=False),
    Column("used_at", Instant, nullable=True),
)

revocation_epoch = Table(
    "revocation_epoch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("session", String(64), nullable=True),
    Column("principal", String(200), nullable=True),
    Column("account_epoch", Integer, nullable=True),
    Column("at", Instant, nullable=False, index=True),
)

attempts = Table(
    "attempts",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("refused", Integer, nullable=False, default=0),
    Column("last_at", Instant, nullable=False, index=True),
    Column("locked_until", Instant, nullable=True),
)
