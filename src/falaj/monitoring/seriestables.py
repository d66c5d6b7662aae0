"""The tables of endpoints' series: minutes and hours, and how far the meters were read."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table

from falaj.kernel.database import Instant, metadata

meter_series = Table(
    "meter_series",
    metadata,
    Column("endpoint", String(64), primary_key=True),
    Column("starts_at", Instant, primary_key=True),
    Column("seconds", Integer, primary_key=True, autoincrement=False),
    Column("minutes", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("latencies", LargeBinary, nullable=False),
    Column("tagged", BigInteger, nullable=False, server_default="0"),
    Column("anomalous", BigInteger, nullable=False, server_default="0"),
    Index("ix_meter_series_seconds_starts_at", "seconds", "starts_at"),
)

meter_marks = Table(
    "meter_marks",
    metadata,
    Column("place", String(64), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
