"""Types of changes and the reviews of emergency changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns."""
    with op.batch_alter_table("operations_changes") as changes:
        changes.add_column(
            sa.Column("type", sa.String(length=20), nullable=False, server_default="normal")
        )
        changes.add_column(sa.Column("template", sa.String(length=100), nullable=True))
        changes.add_column(sa.Column("review_due_at", Instant(), nullable=True))
        changes.add_column(sa.Column("verdict", sa.String(length=20), nullable=True))
        changes.create_index(op.f("ix_operations_changes_template"), ["template"])
