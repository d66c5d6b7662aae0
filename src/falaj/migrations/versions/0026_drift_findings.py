"""What each check of a monitor found, so that persistence over windows is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0026"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "monitoring_checks",
        sa.Column("monitor", sa.String(length=64), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("bundle", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("monitor", "until", name=op.f("pk_monitoring_checks")),
    )
    op.create_table(
        "monitoring_findings",
        sa.Column("monitor", sa.String(length=64), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("numbers", Json(), nullable=False),
        sa.PrimaryKeyConstraint("monitor", "until", "key", name=op.f("pk_monitoring_findings")),
    )
    op.create_table(
        "monitoring_detectors",
        sa.Column("monitor", sa.String(length=64), nullable=False),
        sa.Column("series", sa.String(length=200), nullable=False),
        sa.Column("detector", sa.String(length=20), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint(
            "monitor", "series", "detector", name=op.f("pk_monitoring_detectors")
        ),
    )
