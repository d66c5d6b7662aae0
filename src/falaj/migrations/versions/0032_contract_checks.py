"""The table of scheduled checks of contracts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "contract_checks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("contract", sa.String(length=64), nullable=False),
        sa.Column("tick", Instant(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("result", Json(), nullable=True),
        sa.Column("error", Json(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contract_checks")),
    )
    op.create_index(
        "ix_contract_checks_contract_tick", "contract_checks", ["contract", "tick"], unique=True
    )
    op.create_index("ix_contract_checks_state", "contract_checks", ["state"])
