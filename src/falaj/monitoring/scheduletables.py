"""The table of scheduled checks of monitors."""

from __future__ import annotations

from sqlalchemy import Column, Index, String, Table

from falaj.kernel.database import Instant, Json, metadata

check_rows = Table(
    "monitor_checks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("monitor", String(64), nullable=False),
    Column("tick", Instant, nullable=False),
    Column("job", String(64), nullable=False),
    Column("principal", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("result", Json),
    Column("error", Json),
    Index("ix_monitor_checks_monitor_tick", "monitor", "tick", unique=True),
    Index("ix_monitor_checks_state", "state"),
)
"""One row for each time of a schedule: the unique index lets two workers begin one check once."""
