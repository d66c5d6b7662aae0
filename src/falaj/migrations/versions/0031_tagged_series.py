"""The share of unusual requests in the series of endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what was counted before is 0 of 0."""
    for name in ("tagged", "anomalous"):
        op.add_column(
            "meter_series", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        )
