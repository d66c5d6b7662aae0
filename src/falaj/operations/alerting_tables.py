"""The SQL tables of what is told of alerts."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

silences = Table(
    "operations_silences",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("matchers", Json, nullable=False),
    Column("starts_at", Instant, nullable=False),
    Column("ends_at", Instant, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expired_by", String(200)),
)
alert_groups = Table(
    "operations_alert_groups",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("turn", Integer, nullable=False),
    Column("document", Json, nullable=False),
)
"""``turn`` grows with each change, so that of two processes only one tells the news."""
alert_deliveries = Table(
    "operations_alert_deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("receiver", String(64), nullable=False, index=True),
    Column("group_key", String(64), nullable=False, index=True),
    Column("status", String(20), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("next_at", Instant),
    Column("ended_at", Instant),
    Column("error", Text, nullable=False),
    Index("ix_operations_alert_deliveries_state_next_at", "state", "next_at"),
)
