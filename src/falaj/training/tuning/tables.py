"""The SQL tables of tuning: studies and their trials."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, String, Table

from falaj.kernel.database import Instant, Json, metadata

study_rows = Table(
    "studies",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("spec", Json, nullable=False),
    Column("attrs", Json, nullable=False),
    Column("created_at", Instant, nullable=False, index=True),
    Column("created_by", String(200), nullable=False),
    Column("tuner", String(200)),
    Column("tuner_until", Instant),
)
"""A study is named by its run; ``tuner`` is the process that works on it, until when."""

trial_rows = Table(
    "study_trials",
    metadata,
    Column("study", ForeignKey("studies.run_id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(20), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("document", Json, nullable=False),
)
