"""The record of scaling decisions; a release that was replaced is not called retired any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and say of releases what became of them."""
    op.create_table(
        "serving_scaling",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("machine", sa.String(length=255), nullable=False),
        sa.Column("pool", sa.String(length=64), nullable=False),
        sa.Column("before", sa.Integer(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("document", Json(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_serving_scaling")),
    )
    op.execute("UPDATE serving_releases SET state = 'replaced' WHERE state = 'retired'")
