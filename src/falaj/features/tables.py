"""The SQL table of this room: which versions of views were retired."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table

from falaj.kernel.database import Instant, metadata

retirements = Table(
    "feature_retirements",
    metadata,
    Column("view", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("call_id", String(64), nullable=False),
)
