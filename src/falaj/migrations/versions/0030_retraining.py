"""The tables of scheduled checks of monitors, and of retraining."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "monitor_checks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("monitor", sa.String(length=64), nullable=False),
        sa.Column("tick", Instant(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("result", Json(), nullable=True),
        sa.Column("error", Json(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_monitor_checks")),
    )
    op.create_index(
        "ix_monitor_checks_monitor_tick", "monitor_checks", ["monitor", "tick"], unique=True
    )
    op.create_index("ix_monitor_checks_state", "monitor_checks", ["state"])
    op.create_table(
        "retrainings",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("retraining", sa.String(length=64), nullable=False),
        sa.Column("definition_version", sa.Integer(), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("open_key", sa.String(length=64), nullable=True),
        sa.Column("cause", Json(), nullable=False),
        sa.Column("begun_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("champion", sa.Integer(), nullable=True),
        sa.Column("job", sa.String(length=64), nullable=True),
        sa.Column("pipeline_run", sa.String(length=64), nullable=True),
        sa.Column("run", sa.String(length=64), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("gate_report", sa.String(length=64), nullable=True),
        sa.Column("change", sa.String(length=64), nullable=True),
        sa.Column("standard", sa.Boolean(), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=True),
        sa.Column("error", Json(), nullable=True),
        sa.Column("story", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrainings")),
        sa.UniqueConstraint("open_key", name=op.f("uq_retrainings_open_key")),
    )
    op.create_index("ix_retrainings_retraining_begun_at", "retrainings", ["retraining", "begun_at"])
    op.create_table(
        "retraining_causes",
        sa.Column("retraining", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("retraining", "key", name=op.f("pk_retraining_causes")),
    )
