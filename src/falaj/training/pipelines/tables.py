"""The SQL tables of pipelines: runs, their steps, the cache, schedules and back-fills."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, String, Table

from falaj.kernel.database import Instant, Json, metadata

pipeline_runs = Table(
    "pipeline_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("pipeline", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("code_hash", String(64), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("parameters", Json, nullable=False),
    Column("trigger", String(20), nullable=False),
    Column("backfill", String(64), index=True),
    Column("place", Integer),
    Column("principal", String(200), nullable=False),
    Column("purpose", String(200)),
    Column("job", String(64), nullable=False),
    Column("snapshot", Integer),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("error", Json),
    Index("ix_pipeline_runs_pipeline_created_at", "pipeline", "created_at"),
)
pipeline_steps = Table(
    "pipeline_steps",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("step", String(64), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("seconds", Float),
    Column("outputs", Json, nullable=False),
    Column("from_run", String(64)),
    Column("tests", Json, nullable=False),
    Column("snapshot", Integer),
    Column("jobs", Json, nullable=False),
    Column("error", Json),
)
pipeline_cache = Table(
    "pipeline_cache",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("pipeline", String(64), nullable=False),
    Column("step", String(64), nullable=False),
    Column("run", String(64), nullable=False),
    Column("outputs", Json, nullable=False),
    Column("used_at", Instant, nullable=False, index=True),
)
pipeline_schedules = Table(
    "pipeline_schedules",
    metadata,
    Column("pipeline", String(64), primary_key=True),
    Column("active", Boolean, nullable=False),
    Column("principal", String(200), nullable=False),
    Column("since", Instant, nullable=False),
    Column("seen", Json, nullable=False),
    Column("code_hash", String(64), nullable=False),
)
"""``seen``: the last time of each cron expression, the last extent of each table.
``code_hash``: ``Pipeline.run_hash`` of what was scheduled."""
pipeline_backfills = Table(
    "pipeline_backfills",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("pipeline", String(64), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("since", Instant, nullable=False),
    Column("until", Instant, nullable=False),
    Column("every_seconds", Float, nullable=False),
    Column("parallel", Integer, nullable=False),
    Column("parameters", Json, nullable=False),
    Column("principal", String(200), nullable=False),
    Column("purpose", String(200)),
    Column("created_at", Instant, nullable=False),
    Column("n_runs", Integer, nullable=False),
)
