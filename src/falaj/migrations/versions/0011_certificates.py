"""Certificates of programs, and the key that a session is bound to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the column."""
    op.create_table(
        "program_certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("identity", sa.String(length=400), nullable=False),
        sa.Column("thumbprint", sa.String(length=43), nullable=False),
        sa.Column("issued_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.Column("revoked_because", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.id"], name=op.f("fk_program_certificates_account_accounts")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_program_certificates")),
        sa.UniqueConstraint("thumbprint", name=op.f("uq_program_certificates_thumbprint")),
    )
    for column in ("account", "expires_at"):
        op.create_index(op.f(f"ix_program_certificates_{column}"), "program_certificates", [column])
    op.add_column("sessions", sa.Column("binding", sa.String(length=100), nullable=True))
