"""The SQL tables of training: experiments, runs and all that runs carry, training sets."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from falaj.kernel.database import Instant, Json, metadata

experiment_rows = Table(
    "experiments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
)

run_rows = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment_id", ForeignKey("experiments.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("parent", String(64), index=True),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("started_by", String(200), nullable=False),
    Column("training_set", String(64), index=True),
    Column("snapshot", BigInteger),
    Column("environment", Json),
    Column("code", Json),
    Index("ix_runs_experiment_started", "experiment_id", "started_at"),
)

param_rows = Table(
    "run_params",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

tag_rows = Table(
    "run_tags",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

metric_rows = Table(
    "run_metrics",
    metadata,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("key", String(250), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("is_nan", Boolean, nullable=False),
    Index("ix_run_metrics_run_key_step", "run_id", "key", "step"),
)
"""The whole history. SQLite turns NaN into NULL, so that a NaN is 0 with ``is_nan``."""

latest_metric_rows = Table(
    "run_latest_metrics",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("is_nan", Boolean, nullable=False),
    Index("ix_run_latest_metrics_key_value", "key", "value"),
)
"""The value of the greatest (step, time) of each metric: what lists and comparisons read."""

artifact_rows = Table(
    "run_artifacts",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("path", String(500), primary_key=True),
    Column("digest", String(100), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
)

training_set_rows = Table(
    "training_sets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("table_name", String(63), nullable=False, unique=True),
    Column("feature_service", String(200), nullable=False, index=True),
    Column("created_at", Instant, nullable=False, index=True),
    Column("created_by", String(200), nullable=False),
    Column("content_hash", String(100), nullable=False),
    Column("document", Json, nullable=False),
)
