"""The figures of contract checks and their bounds, and the series of endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant

revision = "0028"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and tables."""
    op.add_column("contract_results", sa.Column("value", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("low", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("high", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("via", sa.String(length=10), nullable=True))
    op.create_table(
        "meter_series",
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("starts_at", Instant(), nullable=False),
        sa.Column("seconds", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("latencies", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "starts_at", "seconds", name=op.f("pk_meter_series")),
    )
    op.create_index("ix_meter_series_seconds_starts_at", "meter_series", ["seconds", "starts_at"])
    op.create_table(
        "meter_marks",
        sa.Column("place", sa.String(length=64), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_meter_marks")),
    )
