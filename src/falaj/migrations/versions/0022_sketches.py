"""The tables of sketches of the prediction log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sketches",
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("starts_at", Instant(), nullable=False),
        sa.Column("seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "endpoint", "model", "version", "variant", "starts_at", "seconds",
            name=op.f("pk_sketches"),
        ),
    )  # fmt: skip
    op.create_index("ix_sketches_seconds_starts_at", "sketches", ["seconds", "starts_at"])
    op.create_table(
        "sketched_segments",
        sa.Column("segment", sa.String(length=200), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("segment", name=op.f("pk_sketched_segments")),
    )
    op.create_index("ix_sketched_segments_at", "sketched_segments", ["at"])
