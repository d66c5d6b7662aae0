"""The tables of studies and their trials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "studies",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("spec", Json(), nullable=False),
        sa.Column("attrs", Json(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("tuner", sa.String(length=200), nullable=True),
        sa.Column("tuner_until", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_studies")),
        sa.UniqueConstraint("name", name=op.f("uq_studies_name")),
    )
    op.create_index(op.f("ix_studies_created_at"), "studies", ["created_at"])
    op.create_table(
        "study_trials",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study"], ["studies.run_id"], name=op.f("fk_study_trials_study_studies")
        ),
        sa.PrimaryKeyConstraint("study", "number", name=op.f("pk_study_trials")),
    )
