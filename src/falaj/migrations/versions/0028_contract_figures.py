"""The figures of contract checks, their bounds, and whether a load or a check measured them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("contract_results", sa.Column("value", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("low", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("high", sa.Float(), nullable=True))
    op.add_column("contract_results", sa.Column("via", sa.String(length=10), nullable=True))
