"""The record of parity: every check with what it found, the trend, and a metric of the newest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    String,
    Table,
    delete,
    func,
    insert,
    select,
)

from falaj.features.answers import KeptParity, ParityReport
from falaj.kernel.database import Instant, Json, metadata
from falaj.kernel.ids import new_id

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.kernel.database import Database

KEPT = 2_000
"""How many records of each service are kept."""

parity_rows = Table(
    "feature_parity",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("service", String(200), nullable=False),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("source", String(20), nullable=False),
    Column("n_rows", Integer, nullable=False),
    Column("n_values", BigInteger, nullable=False),
    Column("n_mismatches", BigInteger, nullable=False),
    Column("document", Json, nullable=False),
    Index("ix_feature_parity_service_id", "service", "id"),
)
_SHORT = [column for column in parity_rows.c if column.name != "document"]


def keep(call: Call, report: ParityReport) -> str:
    """Keep a report; returns its id. The oldest beyond ``KEPT`` go."""
    parity_id = new_id("parity")
    call.connection.execute(
        insert(parity_rows).values(
            id=parity_id,
            service=report.service,
            at=call.now,
            by=call.principal.id,
            source=report.source,
            n_rows=report.n_rows,
            n_values=report.n_values,
            n_mismatches=report.n_mismatches,
            document=report.model_dump(mode="json"),
        )
    )
    mine = parity_rows.c.service == report.service
    oldest = call.connection.execute(
        select(parity_rows.c.id).where(mine).order_by(parity_rows.c.id.desc()).offset(KEPT).limit(1)
    ).scalar()
    if oldest is not None:
        call.connection.execute(delete(parity_rows).where(mine, parity_rows.c.id <= oldest))
    return parity_id


def history(connection: Connection, service: str, *, limit: int) -> list[KeptParity]:
    """The newest checks of a service, the newest first, with what each found."""
    query = select(parity_rows).where(parity_rows.c.service == service)
    rows = connection.execute(query.order_by(parity_rows.c.id.desc()).limit(limit))
    return [
        KeptParity(
            id=row.id,
            at=row.at,
            by=row.by,
            report=ParityReport.model_validate(row.document),
        )
        for row in rows
    ]


def newest(connection: Connection) -> list[Any]:
    """The newest check of each service, without its document."""
    last = select(func.max(parity_rows.c.id)).group_by(parity_rows.c.service)
    query = select(*_SHORT).where(parity_rows.c.id.in_(last))
    return list(connection.execute(query.order_by(parity_rows.c.service)))


class ParityMetrics:
    """What the newest checks found, for Prometheus: read from the records when it is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[GaugeMetricFamily]:
        """The metrics without values, so that making them reads nothing."""
        return list(self._families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One value of each metric for each feature service that was checked."""
        families = self._families()
        with self._database.reading() as connection:
            rows = newest(connection)
        for row in rows:
            families["values"].add_metric([row.service, row.source], row.n_values)
            families["mismatches"].add_metric([row.service, row.source], row.n_mismatches)
            families["at"].add_metric([row.service, row.source], row.at.timestamp())
        yield from families.values()

    @staticmethod
    def _families() -> dict[str, GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        def family(name: str, told: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(
                f"falaj_feature_parity_{name}", told, labels=["service", "source"]
            )

        return {
            "values": family("values", "Values that the newest parity check compared."),
            "mismatches": family("mismatches", "Values that differed online and offline."),
            "at": family("checked_timestamp_seconds", "When the newest parity check was made."),
        }
