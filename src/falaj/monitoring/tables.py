"""The tables of monitoring: monitors and the reports that were kept."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, String, Table, select
from sqlalchemy.engine import Connection

from falaj.kernel.database import Instant, Json, metadata

reports = Table(
    "monitoring_reports",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("endpoint", String(64), nullable=False, index=True),
    Column("monitor", String(64)),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("document", Json, nullable=False),
)


def report_rows(connection: Connection, endpoint: str, *, limit: int) -> list[Any]:
    """The newest reports of an endpoint, without their documents."""
    columns = [column for column in reports.c if column.name != "document"]
    query = select(*columns).where(reports.c.endpoint == endpoint)
    return list(connection.execute(query.order_by(reports.c.id.desc()).limit(limit)))
