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
    Column("description", Text),
    Column("updated_at", Instant),
    Column("deleted_at", Instant),
)
"""A deleted model keeps its row, so that its numbers are never given twice."""

version_rows = Table(
    "model_versions",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(20), nullable=False),
    Column("run", String(64), nullable=False, index=True),
    Column("bundle", String(100)),
    Column("training_set", String(64), nullable=False),
    Column("feature_service", String(200), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("description", Text),
    Column("updated_at", Instant),
    Column("source", Text),
    Column("source_run", String(64), index=True),
    Column("run_link", Text),
    Column("deleted_at", Instant),
    Column("deleted_by", String(200)),
    Column("deletion_reason", Text),
    Index("uq_model_versions_model_bundle", "model", "bundle", unique=True),
    Index("ix_model_versions_model_stage", "model", "stage"),
)
"""``bundle`` is NULL until what an MLflow client registered is adopted; then it never changes."""

tag_rows = Table(
    "model_tags",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

version_tag_rows = Table(
    "model_version_tags",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

alias_rows = Table(
    "model_aliases",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("alias", String(255), primary_key=True),
    Column("version", Integer, nullable=False),
)

alias_move_rows = Table(
    "model_alias_moves",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("alias", String(255), nullable=False),
    Column("from_version", Integer),
    Column("to_version", Integer),
    Column("at", Instant, nullable=False),
    Column("asked_by", String(200), nullable=False),
    Column("approved_by", String(200)),
    Column("reason", Text, nullable=False),
    Column("change", String(64)),
    Column("gate_report", String(64)),
    Index("ix_model_alias_moves_model_at", "model", "at"),
)
"""Which alias pointed where since when; a row is never changed."""

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

quarantine_rows = Table(
    "quarantined_versions",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)
"""Model versions that may not be served until somebody has looked at them."""
