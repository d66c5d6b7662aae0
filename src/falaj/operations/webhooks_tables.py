"""The SQL tables of webhooks."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

webhooks = Table(
    "operations_webhooks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("url", Text, nullable=False),
    Column("topics", Json, nullable=False),
    Column("state", String(20), nullable=False),
    Column("secret_sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
)
webhook_deliveries = Table(
    "operations_webhook_deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("webhook", String(64), nullable=False, index=True),
    Column("event", String(64), nullable=False),
    Column("topic", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("next_at", Instant),
    Column("ended_at", Instant),
    Column("status", Integer),
    Column("error", Text, nullable=False),
    Index("ix_operations_webhook_deliveries_state_next_at", "state", "next_at"),
)
