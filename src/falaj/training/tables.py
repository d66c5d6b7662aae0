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
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from falaj.kernel.database import Instant, Json, metadata

experiment_rows = Table(
    "experiments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("workspace", String(63), nullable=False, server_default="default"),
    Column("name", String(500), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("updated_at", Instant),
    Column("deleted_at", Instant),
    UniqueConstraint("workspace", "name"),
)

experiment_tag_rows = Table(
    "experiment_tags",
    metadata,
    Column("experiment_id", ForeignKey("experiments.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

run_rows = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment_id", ForeignKey("experiments.id"), nullable=False),
    Column("workspace", String(63), nullable=False, server_default="default"),
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
    Column("open_ended", Boolean, nullable=False, server_default=false()),
    Column("said_user", String(256)),
    Column("deleted_at", Instant),
    Index("ix_runs_experiment_started", "experiment_id", "started_at"),
)
"""``open_ended`` runs take values after their end, and may be begun again: MLflow's clients
expect it. ``said_user`` is who a client says that it works for, which nobody has checked."""

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

metric_tail_rows = Table(
    "run_metric_tail",
    metadata,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("keys", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""Points as they were logged, a row for each call (``falaj.training.tracking.points``)."""

metric_chunk_rows = Table(
    "run_metric_chunks",
    metadata,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("key", String(250), nullable=False),
    Column("n", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("ix_run_metric_chunks_run_key", "run_id", "key", "seq"),
)
"""Points of one metric, moved here from the tail when there are many."""

latest_metric_rows = Table(
    "run_latest_metrics",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("is_nan", Boolean, nullable=False),
    Index("ix_run_latest_metrics_key_value", "key", "is_nan", "value", "run_id"),
)
"""The value of the greatest (step, time) of each metric: what lists and searches read. SQLite
turns NaN into NULL, so that a NaN is 0 with ``is_nan``."""

model_metric_rows = Table(
    "logged_model_metrics",
    metadata,
    Column("model_id", String(64), primary_key=True),
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("key", String(250), primary_key=True),
    Column("dataset_name", String(500), primary_key=True),
    Column("dataset_digest", String(64), primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("is_nan", Boolean, nullable=False),
)
"""The last values of metrics that a client has said to be of a logged model, and perhaps of a
dataset (else its name and digest are empty)."""

dataset_rows = Table(
    "run_datasets",
    metadata,
    Column("experiment_id", ForeignKey("experiments.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("source_type", String(64), nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text),
    Column("profile", Text),
)

input_rows = Table(
    "run_inputs",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("context", Text),
    Column("tags", Json, nullable=False),
)
"""Which datasets went into a run; ``context`` says what for (``training``, ``validation``)."""

run_model_rows = Table(
    "run_models",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("direction", String(6), primary_key=True),
    Column("model_id", String(64), primary_key=True),
    Column("step", BigInteger, nullable=False),
)
"""Logged models that went into a run (``input``) or came out of it (``output``)."""

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
