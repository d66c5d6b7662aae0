"""The tables of provisioning, and of tokens of others that were used once."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, String, Table, UniqueConstraint

from falaj.kernel.database import Instant, Json, metadata

provisioned_users = Table(
    "provisioned_users",
    metadata,
    Column("account", String(64), ForeignKey("accounts.id"), primary_key=True),
    Column("provisioner", String(200), nullable=False),
    Column("user_name", String(256), nullable=False),
    # A digest of the folded name: case does not count, and databases fold letters differently.
    Column("user_name_key", String(64), nullable=False),
    Column("external_id", String(256), nullable=True),
    Column("personal", Json, nullable=False),
    # What the account was before it was suspended, so that it becomes that again.
    Column("resumes_as", String(16), nullable=True),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("modified_at", Instant, nullable=False),
    UniqueConstraint("provisioner", "user_name_key"),
    UniqueConstraint("provisioner", "external_id"),
)

provisioned_groups = Table(
    "provisioned_groups",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("provisioner", String(200), nullable=False),
    Column("display_name", String(256), nullable=False),
    Column("display_name_key", String(64), nullable=False),
    Column("external_id", String(256), nullable=True),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("modified_at", Instant, nullable=False),
    UniqueConstraint("provisioner", "display_name_key"),
)

provisioned_members = Table(
    "provisioned_members",
    metadata,
    Column(
        "group_id",
        String(64),
        ForeignKey("provisioned_groups.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column(
        "account",
        String(64),
        ForeignKey("provisioned_users.account", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
)

used_tokens = Table(
    "used_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("expires_at", Instant, nullable=False, index=True),
)
