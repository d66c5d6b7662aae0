"""The record of parity checks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "feature_parity",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("service", sa.String(length=200), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("n_rows", sa.Integer(), nullable=False),
        sa.Column("n_values", sa.BigInteger(), nullable=False),
        sa.Column("n_mismatches", sa.BigInteger(), nullable=False),
        sa.Column("document", Json(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feature_parity")),
    )
    op.create_index("ix_feature_parity_service_id", "feature_parity", ["service", "id"])
