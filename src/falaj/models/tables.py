"""The SQL tables of the registry."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

model_rows = Table(
    "models",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("created_at", Instant, nullable=False),
    Column("latest", Integer, nullable=False),
)

version_rows = Table(
    "model_versions",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(20), nullable=False),
    Column("run", String(64), nullable=False, index=True),
    Column("bundle", String(100), nullable=False),
    Column("training_set", String(64), nullable=False),
    Column("feature_service", String(200), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Index("uq_model_versions_model_bundle", "model", "bundle", unique=True),
    Index("ix_model_versions_model_stage", "model", "stage"),
)

report_rows = Table(
    "gate_reports",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("policy_fingerprint", String(100), nullable=False),
    Column("bundle", String(100), nullable=False),
    Column("champion", Integer),
    Column("passed", Boolean, nullable=False),
    Index("ix_gate_reports_model_version_at", "model", "version", "at"),
)

result_rows = Table(
    "gate_results",
    metadata,
    Column("report", ForeignKey("gate_reports.id"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("gate", String(200), nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("message", Text, nullable=False),
    Column("evidence", Json, nullable=False),
)

move_rows = Table(
    "stage_moves",
    metadata,
    Column("change", String(64), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("from_stage", String(20), nullable=False),
    Column("to_stage", String(20), nullable=False),
    Column("at", Instant, nullable=False),
    Column("asked_by", String(200), nullable=False),
    Column("approved_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("gate_report", String(64)),
    Column("replaced", Integer),
    Index("ix_stage_moves_model_at", "model", "at"),
)
"""The whole history of what was where; a row is never changed."""

revocation_rows = Table(
    "model_revocations",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("value", String(100), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)
"""Bundles and signers that may not be used any more."""
