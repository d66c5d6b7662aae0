"""The tables of splits between champions and challengers, and of quarantined versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "serving_splits",
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("shares", Json(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", name=op.f("pk_serving_splits")),
    )
    op.create_table(
        "serving_layers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_serving_layers")),
    )
    op.create_table(
        "quarantined_versions",
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_quarantined_versions")),
    )
