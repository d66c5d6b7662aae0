"""The tables of retraining: one row for each, and one for each cause that it stands for."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, String, Table

from falaj.kernel.database import Instant, Json, metadata

retraining_rows = Table(
    "retrainings",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("retraining", String(64), nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("principal", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("open_key", String(64), unique=True),
    Column("cause", Json, nullable=False),
    Column("begun_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("champion", Integer),
    Column("job", String(64)),
    Column("pipeline_run", String(64)),
    Column("run", String(64)),
    Column("model", String(200), nullable=False),
    Column("version", Integer),
    Column("gate_report", String(64)),
    Column("change", String(64)),
    Column("standard", Boolean, nullable=False),
    Column("release", String(64)),
    Column("error", Json),
    Column("story", Json, nullable=False),
    Index("ix_retrainings_retraining_begun_at", "retraining", "begun_at"),
)
"""``open_key`` is the retraining's name while it goes on: at most one does."""
cause_rows = Table(
    "retraining_causes",
    metadata,
    Column("retraining", String(64), primary_key=True),
    Column("key", String(300), primary_key=True),
    Column("run", String(64), nullable=False),
)
