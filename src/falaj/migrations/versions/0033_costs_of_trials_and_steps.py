"""What an account of the ledger is of: a fit, a trial of a study, or a step of a pipeline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; all that was charged until now were fits."""
    with op.batch_alter_table("run_usages") as usages:
        usages.add_column(
            sa.Column("kind", sa.String(length=20), nullable=False, server_default="fit")
        )
        usages.add_column(
            sa.Column("part", sa.String(length=200), nullable=False, server_default="")
        )
