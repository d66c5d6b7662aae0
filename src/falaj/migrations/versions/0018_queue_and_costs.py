"""Jobs of teams in a fair queue, and the ledger of what runs used and cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the queue's columns and the tables."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("team", sa.String(length=63), nullable=True))
        jobs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="50"))
        jobs.add_column(
            sa.Column("cpu_thousandths", sa.Integer(), nullable=False, server_default="0")
        )
        jobs.add_column(
            sa.Column("gpu_thousandths", sa.Integer(), nullable=False, server_default="0")
        )
        jobs.add_column(sa.Column("spot", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("begun_at", Instant(), nullable=True))
        jobs.add_column(
            sa.Column("reclaim_asked", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.create_table(
        "job_shares",
        sa.Column("team", sa.String(length=63), nullable=False),
        sa.Column("used", sa.Float(precision=53), nullable=False),
        sa.Column("as_of", Instant(), nullable=False),
        sa.Column("last_begun", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("team", name=op.f("pk_job_shares")),
    )
    op.create_table(
        "prices",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("valid_from", Instant(), nullable=False),
        sa.Column("prices", Json(), nullable=False),
        sa.Column("set_by", sa.String(length=200), nullable=False),
        sa.Column("set_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_prices")),
    )
    op.create_index("ix_prices_valid_from", "prices", ["valid_from"])
    op.create_table(
        "run_usages",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("team", sa.String(length=63), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("begun_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=False),
        sa.Column("core_time", sa.BigInteger(), nullable=False),
        sa.Column("gpu_time", sa.BigInteger(), nullable=False),
        sa.Column("cpu_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("outcome", sa.String(length=100), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_usages")),
    )
    for column in ("run_id", "model", "outcome"):
        op.create_index(f"ix_run_usages_{column}", "run_usages", [column])
    op.create_index("ix_run_usages_team_begun_at", "run_usages", ["team", "begun_at"])
    op.create_table(
        "run_charges",
        sa.Column("usage_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("begins_at", Instant(), nullable=False),
        sa.Column("ends_at", Instant(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("millionths", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["usage_id"],
            ["run_usages.id"],
            name=op.f("fk_run_charges_usage_id_run_usages"),
        ),
        sa.PrimaryKeyConstraint("usage_id", "version", name=op.f("pk_run_charges")),
    )
