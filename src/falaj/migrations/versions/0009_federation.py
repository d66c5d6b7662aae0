"""Identities elsewhere, the sessions that hang on them, and in which a device was let in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "external_identities",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("issuer", sa.String(length=300), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("made_account", sa.Boolean(), nullable=False),
        sa.Column("linked_at", Instant(), nullable=False),
        sa.Column("last_login_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.id"], name=op.f("fk_external_identities_account_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_external_identities")),
    )
    op.create_index(op.f("ix_external_identities_account"), "external_identities", ["account"])
    op.create_table(
        "external_sessions",
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("sid", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["session"],
            ["sessions.id"],
            name=op.f("fk_external_sessions_session_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_external_sessions")),
    )
    op.create_index(op.f("ix_external_sessions_identity"), "external_sessions", ["identity"])
    op.create_index(op.f("ix_external_sessions_sid"), "external_sessions", ["sid"])
    op.add_column("device_codes", sa.Column("approved_in", sa.String(length=64), nullable=True))
