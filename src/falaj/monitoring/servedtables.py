"""The SQL tables of what endpoints served, minute by minute, for service levels."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table

from falaj.kernel.database import Instant, metadata

served_minutes = Table(
    "service_level_minutes",
    metadata,
    Column("level", String(64), primary_key=True),
    Column("minute", Instant, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("good", BigInteger, nullable=False),
)
served_marks = Table(
    "service_level_marks",
    metadata,
    Column("level", String(64), primary_key=True),
    Column("machine", String(200), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("good", BigInteger, nullable=False),
    Column("at", Instant, nullable=False),
)
"""What the counters of a place had told of a level at the last look. ``version`` is
that of the level's definition: with another threshold the old counts mean nothing."""
