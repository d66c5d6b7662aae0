"""Types of changes, and what receivers are told of alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables."""
    with op.batch_alter_table("operations_changes") as changes:
        changes.add_column(
            sa.Column("type", sa.String(length=20), nullable=False, server_default="normal")
        )
        changes.add_column(sa.Column("template", sa.String(length=100), nullable=True))
        changes.add_column(sa.Column("review_due_at", Instant(), nullable=True))
        changes.add_column(sa.Column("verdict", sa.String(length=20), nullable=True))
        changes.create_index(op.f("ix_operations_changes_template"), ["template"])
    with op.batch_alter_table("operations_incidents") as incidents:
        incidents.add_column(sa.Column("began_at", Instant(), nullable=True))
        incidents.add_column(sa.Column("assigned_to", sa.String(length=200), nullable=True))
        incidents.add_column(sa.Column("acknowledged_at", Instant(), nullable=True))
        incidents.add_column(sa.Column("acknowledged_by", sa.String(length=200), nullable=True))
        incidents.add_column(
            sa.Column("n_escalations", sa.Integer(), nullable=False, server_default="0")
        )
    _make_problems()
    _make_silences()
    _make_deliveries()
    _make_served()


def _make_problems() -> None:
    op.create_table(
        "operations_problems",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("subject_kind", sa.String(length=40), nullable=False),
        sa.Column("subject_key", sa.String(length=300), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("root_cause", sa.Text(), nullable=False),
        sa.Column("workaround", sa.Text(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=False),
        sa.Column("opened_by", sa.String(length=200), nullable=False),
        sa.Column("resolved_at", Instant(), nullable=True),
        sa.Column("resolved_by", sa.String(length=200), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations_problems")),
    )
    op.create_index(op.f("ix_operations_problems_state"), "operations_problems", ["state"])
    op.create_table(
        "operations_links",
        sa.Column("of", sa.String(length=64), nullable=False),
        sa.Column("to", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("of", "to", name=op.f("pk_operations_links")),
    )


def _make_silences() -> None:
    op.create_table(
        "operations_silences",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("matchers", Json(), nullable=False),
        sa.Column("starts_at", Instant(), nullable=False),
        sa.Column("ends_at", Instant(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expired_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations_silences")),
    )
    op.create_index(op.f("ix_operations_silences_ends_at"), "operations_silences", ["ends_at"])


def _make_deliveries() -> None:
    op.create_table(
        "operations_alert_groups",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_operations_alert_groups")),
    )
    table = "operations_alert_deliveries"
    op.create_table(
        table,
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("receiver", sa.String(length=64), nullable=False),
        sa.Column("group_key", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("next_at", Instant(), nullable=True),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations_alert_deliveries")),
    )
    op.create_index(op.f("ix_operations_alert_deliveries_receiver"), table, ["receiver"])
    op.create_index(op.f("ix_operations_alert_deliveries_group_key"), table, ["group_key"])
    op.create_index("ix_operations_alert_deliveries_state_next_at", table, ["state", "next_at"])


def _make_served() -> None:
    op.create_table(
        "service_level_minutes",
        sa.Column("level", sa.String(length=64), nullable=False),
        sa.Column("minute", Instant(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("good", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("level", "minute", name=op.f("pk_service_level_minutes")),
    )
    op.create_table(
        "service_level_marks",
        sa.Column("level", sa.String(length=64), nullable=False),
        sa.Column("machine", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("good", sa.BigInteger(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("level", "machine", name=op.f("pk_service_level_marks")),
    )
