"""The SQL tables of ``rollouts``: runs of rollouts, their shares over time, and their looks."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

runs = Table(
    "rollout_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False, index=True),
    Column("endpoint", String(64), nullable=False, index=True),
    Column("layer", String(64), index=True),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("document", Json, nullable=False),
    Column("state", String(20), nullable=False),
    Column("step", String(20), nullable=False),
    Column("why", Text, nullable=False),
    Column("change", String(64), nullable=False),
    Column("release", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("champion", Integer, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("stage_since", Instant, nullable=False),
    Column("shares", Json, nullable=False),
    Column("shares_since", Instant, nullable=False),
    Column("dismissed", Json, nullable=False),
    Column("memory", Json, nullable=False),
    Column("outcome", Json, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("started_by", String(200), nullable=False),
    Column("ended_at", Instant),
    Column("ended_by", String(200)),
    Column("n_looks", Integer, nullable=False),
    Column("due_at", Instant, index=True),
    Column("revision", Integer, nullable=False),
    Column("lease", String(64)),
    Column("leased_until", Instant),
    Column("failures", Integer, nullable=False),
    Column("open_key", String(64), unique=True),
)
"""``open_key`` is the endpoint while the run is open, so that it has one at once; ``due_at`` is
NULL when nothing is left to do; ``revision`` counts what changed state, stage, shares or step;
``low`` and ``high`` bound the run's places in its layer."""
share_changes = Table(
    "rollout_share_changes",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("shares", Json, nullable=False),
)
"""From when on which shares held; ``revision`` is the run's when they were written."""
looks = Table(
    "rollout_looks",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("shares", Json, nullable=False),
    Column("look", Json, nullable=False),
    Column("decision", String(20), nullable=False),
    Column("why", Text, nullable=False),
    Column("lasting", Boolean, nullable=False),
)
"""``lasting`` looks led to something and are kept for good."""
