"""The table of certificates of erasures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0013"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "erasure_certificates",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("pseudonym", sa.String(length=16), nullable=False),
        sa.Column("erased_at", Instant(), nullable=False),
        sa.Column("erased_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("subject_hash", sa.String(length=64), nullable=False),
        sa.Column("looked_through", Json(), nullable=False),
        sa.Column("key_id", sa.String(length=100), nullable=False),
        sa.Column("algorithm", sa.String(length=40), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure_certificates")),
    )
    op.create_index("ix_erasure_certificates_sequence", "erasure_certificates", ["sequence"])
    op.create_index("ix_erasure_certificates_pseudonym", "erasure_certificates", ["pseudonym"])
