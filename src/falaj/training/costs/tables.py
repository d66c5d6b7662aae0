"""The tables of costs: prices, what attempts at runs used, and what they are charged."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, String, Table

from falaj.kernel.database import Instant, Json, metadata

price_rows = Table(
    "prices",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("valid_from", Instant, nullable=False, index=True),
    Column("prices", Json, nullable=False),
    Column("set_by", String(200), nullable=False),
    Column("set_at", Instant, nullable=False),
)

usage_rows = Table(
    "run_usages",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False, index=True),
    # Empty for steps of pipelines, which are of no one model.
    Column("model", String(200), nullable=False, index=True),
    Column("team", String(63), nullable=False),
    Column("job", String(64), nullable=False),
    Column("begun_at", Instant, nullable=False),
    # While it is open: the last sign of life.
    Column("ended_at", Instant, nullable=False),
    # Core- and GPU-time that was held, in microseconds of a whole one: they add up exactly.
    Column("core_time", BigInteger, nullable=False),
    Column("gpu_time", BigInteger, nullable=False),
    Column("cpu_seconds", Float(53), nullable=False),
    # "open" until it has ended.
    Column("outcome", String(100), nullable=False, index=True),
    Column("document", Json, nullable=False),
    # A ``UsageKind``; of trials and steps also which one of its run it was.
    Column("kind", String(20), nullable=False, server_default="fit"),
    Column("part", String(200), nullable=False, server_default=""),
    Index("ix_run_usages_team_begun_at", "team", "begun_at"),
)

charge_rows = Table(
    "run_charges",
    metadata,
    Column("usage_id", ForeignKey("run_usages.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("begins_at", Instant, nullable=False),
    Column("ends_at", Instant, nullable=False),
    Column("currency", String(3), nullable=False),
    # Millionths of the currency's unit: whole numbers add up exactly on every database.
    Column("millionths", BigInteger, nullable=False),
)
