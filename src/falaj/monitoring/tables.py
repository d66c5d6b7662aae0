"""The tables of monitoring: reports, checks and their findings, sketches, detectors."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)
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

sketch_rows = Table(
    "sketches",
    metadata,
    Column("endpoint", String(64), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("variant", String(64), primary_key=True),
    Column("starts_at", Instant, primary_key=True),
    Column("seconds", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("ix_sketches_seconds_starts_at", "seconds", "starts_at"),
)

sketched_segments = Table(
    "sketched_segments",
    metadata,
    Column("segment", String(200), primary_key=True),
    Column("at", Instant, nullable=False, index=True),
)

checks = Table(
    "monitoring_checks",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("until", Instant, primary_key=True),
    Column("since", Instant, nullable=False),
    Column("at", Instant, nullable=False),
    Column("bundle", String(100), nullable=False),
)

findings = Table(
    "monitoring_findings",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("until", Instant, primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("numbers", Json, nullable=False),
)

detectors = Table(
    "monitoring_detectors",
    metadata,
    Column("monitor", String(64), primary_key=True),
    Column("series", String(200), primary_key=True),
    Column("detector", String(20), primary_key=True),
    Column("rule", String(64), nullable=False),
    Column("until", Instant, nullable=False),
    Column("values", LargeBinary, nullable=False),
)


REPORTS_KEPT = 1_000
"""So many reports of each kind stay of each monitor, and of each endpoint those that no monitor
made."""


def keep_report(connection: Connection, **values: Any) -> None:
    """Keep a report of these columns, and forget the oldest of its like."""
    connection.execute(insert(reports).values(**values))
    alike = [reports.c[name] == values[name] for name in ("kind", "endpoint", "monitor")]
    newest = select(reports.c.id).where(*alike).order_by(reports.c.id.desc())
    last = connection.execute(newest.offset(REPORTS_KEPT).limit(1)).scalar()
    if last is not None:
        connection.execute(delete(reports).where(*alike, reports.c.id <= last))


def report_rows(connection: Connection, endpoint: str, *, limit: int) -> list[Any]:
    """The newest reports of an endpoint, without their documents."""
    columns = [column for column in reports.c if column.name != "document"]
    query = select(*columns).where(reports.c.endpoint == endpoint)
    return list(connection.execute(query.order_by(reports.c.id.desc()).limit(limit)))


def last_document(connection: Connection, kind: str, monitor: str) -> dict[str, Any] | None:
    """The newest kept report of a kind that a monitor made."""
    query = select(reports.c.document).where(reports.c.kind == kind, reports.c.monitor == monitor)
    found: dict[str, Any] | None = connection.execute(
        query.order_by(reports.c.id.desc()).limit(1)
    ).scalar()
    return found


def course_rows(
    connection: Connection, kind: str, endpoint: str, monitor: str | None, *, limit: int
) -> list[Any]:
    """The newest kept reports of a kind with their documents, the newest first; of what no
    monitor made if ``monitor`` is None."""
    alike = (
        reports.c.kind == kind,
        reports.c.endpoint == endpoint,
        reports.c.monitor.is_(None) if monitor is None else reports.c.monitor == monitor,
    )
    query = select(reports).where(*alike).order_by(reports.c.id.desc()).limit(limit)
    return list(connection.execute(query))


def last_report_at(connection: Connection, endpoint: str, monitor: str) -> datetime | None:
    """When a monitor last kept a report of its endpoint; None if it never did."""
    query = select(func.max(reports.c.at)).where(
        reports.c.endpoint == endpoint, reports.c.monitor == monitor
    )
    found: datetime | None = connection.execute(query).scalar()
    return found
