"""People and groups that identity providers keep, and tokens of others that were used once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "provisioned_users",
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("provisioner", sa.String(length=200), nullable=False),
        sa.Column("user_name", sa.String(length=256), nullable=False),
        sa.Column("user_name_key", sa.String(length=64), nullable=False),
        sa.Column("external_id", sa.String(length=256), nullable=True),
        sa.Column("personal", Json(), nullable=False),
        sa.Column("resumes_as", sa.String(length=16), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("modified_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account"], ["accounts.id"], name=op.f("fk_provisioned_users_account_accounts")
        ),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_provisioned_users")),
        sa.UniqueConstraint(
            "provisioner",
            "external_id",
            name=op.f("uq_provisioned_users_provisioner_external_id"),
        ),
        sa.UniqueConstraint(
            "provisioner",
            "user_name_key",
            name=op.f("uq_provisioned_users_provisioner_user_name_key"),
        ),
    )
    op.create_table(
        "provisioned_groups",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("provisioner", sa.String(length=200), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("display_name_key", sa.String(length=64), nullable=False),
        sa.Column("external_id", sa.String(length=256), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("modified_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provisioned_groups")),
        sa.UniqueConstraint(
            "provisioner",
            "display_name_key",
            name=op.f("uq_provisioned_groups_provisioner_display_name_key"),
        ),
    )
    _members_and_tokens()


def _members_and_tokens() -> None:
    op.create_table(
        "provisioned_members",
        sa.Column("group_id", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["provisioned_groups.id"],
            name=op.f("fk_provisioned_members_group_id_provisioned_groups"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["account"],
            ["provisioned_users.account"],
            name=op.f("fk_provisioned_members_account_provisioned_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "account", name=op.f("pk_provisioned_members")),
    )
    op.create_index(op.f("ix_provisioned_members_account"), "provisioned_members", ["account"])
    op.create_table(
        "used_tokens",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_used_tokens")),
    )
    op.create_index(op.f("ix_used_tokens_expires_at"), "used_tokens", ["expires_at"])
