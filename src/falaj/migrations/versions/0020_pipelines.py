"""The tables of pipelines and of webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "pipeline_runs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("parameters", Json(), nullable=False),
        sa.Column("trigger", sa.String(length=20), nullable=False),
        sa.Column("backfill", sa.String(length=64)),
        sa.Column("place", sa.Integer()),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("purpose", sa.String(length=200)),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("snapshot", sa.Integer()),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant()),
        sa.Column("error", Json()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_runs")),
    )
    op.create_index("ix_pipeline_runs_state", "pipeline_runs", ["state"])
    op.create_index("ix_pipeline_runs_backfill", "pipeline_runs", ["backfill"])
    op.create_index(
        "ix_pipeline_runs_pipeline_created_at", "pipeline_runs", ["pipeline", "created_at"]
    )
    op.create_table(
        "pipeline_steps",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("started_at", Instant()),
        sa.Column("ended_at", Instant()),
        sa.Column("seconds", sa.Float()),
        sa.Column("outputs", Json(), nullable=False),
        sa.Column("from_run", sa.String(length=64)),
        sa.Column("tests", Json(), nullable=False),
        sa.Column("snapshot", sa.Integer()),
        sa.Column("jobs", Json(), nullable=False),
        sa.Column("error", Json()),
        sa.PrimaryKeyConstraint("run", "step", name=op.f("pk_pipeline_steps")),
    )
    op.create_table(
        "pipeline_cache",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("outputs", Json(), nullable=False),
        sa.Column("used_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_pipeline_cache")),
    )
    op.create_index("ix_pipeline_cache_used_at", "pipeline_cache", ["used_at"])
    op.create_table(
        "pipeline_schedules",
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("seen", Json(), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", name=op.f("pk_pipeline_schedules")),
    )
    op.create_table(
        "pipeline_backfills",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("since", Instant(), nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.Column("every_seconds", sa.Float(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("parameters", Json(), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("purpose", sa.String(length=200)),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("n_runs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_backfills")),
    )
    op.create_index("ix_pipeline_backfills_pipeline", "pipeline_backfills", ["pipeline"])
    op.create_table(
        "operations_webhooks",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("topics", Json(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operations_webhooks")),
    )
    op.create_table(
        "operations_webhook_deliveries",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("webhook", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("next_at", Instant()),
        sa.Column("ended_at", Instant()),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations_webhook_deliveries")),
    )
    op.create_index(
        "ix_operations_webhook_deliveries_webhook", "operations_webhook_deliveries", ["webhook"]
    )
    op.create_index(
        "ix_operations_webhook_deliveries_state_next_at",
        "operations_webhook_deliveries",
        ["state", "next_at"],
    )
