"""The SQL tables of logged models."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, Text

from falaj.kernel.database import Instant, metadata

logged_model_rows = Table(
    "logged_models",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment_id", ForeignKey("experiments.id"), nullable=False),
    Column("name", String(500), nullable=False),
    Column("model_type", String(500)),
    Column("source_run", String(64), index=True),
    Column("status", String(20), nullable=False),
    Column("status_message", Text),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    Index("ix_logged_models_experiment_created", "experiment_id", "created_at"),
)

logged_param_rows = Table(
    "logged_model_params",
    metadata,
    Column("model_id", ForeignKey("logged_models.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

logged_tag_rows = Table(
    "logged_model_tags",
    metadata,
    Column("model_id", ForeignKey("logged_models.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

logged_artifact_rows = Table(
    "logged_model_artifacts",
    metadata,
    Column("model_id", ForeignKey("logged_models.id"), primary_key=True),
    Column("path", String(500), primary_key=True),
    Column("digest", String(100), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
)
