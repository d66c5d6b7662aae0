"""Decisions of scaling in the metadata database: for all machines, with an audit record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, Integer, String, Table, delete, insert, select

from falaj.kernel.database import Instant, Json, metadata
from falaj.serving.scalingrecords import ScalingRecord, ScalingRecords

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.calls import Calls

KEPT = 10_000
"""How many records are kept."""
ACTION = "endpoints.scale"
SCALER = "service:supervisor"
"""On whose behalf workers are added and taken away."""

scaling_rows = Table(
    "serving_scaling",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("machine", String(255), nullable=False),
    Column("pool", String(64), nullable=False),
    Column("before", Integer, nullable=False),
    Column("after", Integer, nullable=False),
    Column("document", Json, nullable=False),
)


def history(connection: Connection, *, limit: int) -> list[ScalingRecord]:
    """The newest decisions, the newest first."""
    newest = (scaling_rows.c.at.desc(), scaling_rows.c.id.desc())
    query = select(scaling_rows.c.document).order_by(*newest).limit(limit)
    return [ScalingRecord.model_validate(row.document) for row in connection.execute(query)]


def bring_in(records: ScalingRecords, calls: Calls) -> int:
    """Bring the decisions that wait into the database, each once; returns how many."""
    brought = 0
    for record in records.waiting():
        arguments = record.model_dump(mode="json", include={"pool", "before", "after", "reason"})
        with calls.opened(ACTION, SCALER, arguments=arguments) as call:
            _keep(call.connection, record)
        records.done(record)
        brought += 1
    return brought


def _keep(connection: Connection, record: ScalingRecord) -> None:
    known = select(scaling_rows.c.id).where(scaling_rows.c.id == record.id)
    if connection.execute(known).scalar() is not None:
        return  # its file outlived the commit
    connection.execute(
        insert(scaling_rows).values(
            id=record.id,
            at=record.at,
            machine=record.machine,
            pool=record.pool,
            before=record.before,
            after=record.after,
            document=record.model_dump(mode="json"),
        )
    )
    by_age = select(scaling_rows.c.id).order_by(scaling_rows.c.id.desc())
    oldest = connection.execute(by_age.offset(KEPT).limit(1)).scalar()
    if oldest is not None:
        connection.execute(delete(scaling_rows).where(scaling_rows.c.id <= oldest))
