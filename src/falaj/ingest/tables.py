"""What ingest remembers: every load, and the result of every check."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

loads = Table(
    "loads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("source", String(64), nullable=False),
    Column("table_name", String(64), nullable=False),
    Column("state", String(20), nullable=False),
    Column("at", Instant, nullable=False),
    Column("content", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("files", Json, nullable=False),
    Column("n_read", BigInteger, nullable=False),
    Column("n_written", BigInteger, nullable=False),
    Column("n_quarantined", BigInteger, nullable=False),
    Column("snapshot", BigInteger),
    Column("job", String(64)),
    Index(None, "source", "at"),
)
contract_results = Table(
    "contract_results",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("load", String(64), nullable=False, index=True),
    Column("contract", String(64), nullable=False),
    Column("table_name", String(64), nullable=False, index=True),
    Column("check", Text, nullable=False),
    Column("severity", String(20), nullable=False),
    Column("n_rows", BigInteger, nullable=False),
    Column("n_violations", BigInteger, nullable=False),
    Column("share", Float, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("measured", Text, nullable=False),
    Column("examples", Json, nullable=False),
    Column("at", Instant, nullable=False),
    Column("value", Float),
    Column("low", Float),
    Column("high", Float),
    Column("via", String(10)),
)
contract_checks = Table(
    "contract_checks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("contract", String(64), nullable=False),
    Column("tick", Instant, nullable=False),
    Column("job", String(64), nullable=False),
    Column("principal", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("result", Json),
    Column("error", Json),
    Index("ix_contract_checks_contract_tick", "contract", "tick", unique=True),
    Index("ix_contract_checks_state", "state"),
)
"""One row for each time of a schedule: the unique index lets two workers begin one check once."""
