"""The parts of contracts over time and of anomalies, joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.ingest.contract_service import ContractService
    from falaj.ingest.scheduled import ContractSchedules
    from falaj.ingest.service import SourceService
    from falaj.ingest.tablechecks import TableChecks
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Handler
    from falaj.monitoring.series import MeterSeries
    from falaj.monitoring.seriesanomalies import SeriesAnomalies
    from falaj.wiring.assembly import Premises


def table_checks(made: Premises) -> TableChecks:
    """Holds whole tables to contracts."""
    from falaj.ingest.failing import FailingChecks
    from falaj.ingest.openness import Openness
    from falaj.ingest.tablechecks import TableChecks

    openness = Openness(made.definitions, made.catalog, made.lake)
    failing = FailingChecks(made.alerts)
    return TableChecks(made.lake, made.definitions, made.calls, failing, openness)


def contract_schedules(made: Premises) -> ContractSchedules:
    """What begins the checks of contracts that are due."""
    from falaj.ingest.scheduled import ContractSchedules

    return ContractSchedules(made.calls, made.jobs, made.definitions, made.alerts)


def contract_service(made: Premises) -> ContractService:
    """The actions of contracts."""
    from falaj.ingest.contract_service import ContractService
    from falaj.wiring.readingparts import contract_sight
    from falaj.wiring.residencyparts import residency

    checks, schedules = table_checks(made), contract_schedules(made)
    held = contract_sight(made).check_held
    return ContractService(made.jobs, checks, schedules, made.may_on, residency(made).check, held)


def source_service(made: Premises) -> SourceService:
    """The actions of sources."""
    from falaj.ingest.service import SourceService
    from falaj.wiring.readingparts import contract_sight
    from falaj.wiring.residencyparts import residency

    sight, stays = contract_sight(made), residency(made).check
    return SourceService(made.jobs, made.loading, stays, sight.check_loaded, sight.check_held)


def contract_jobs(made: Premises) -> dict[str, Callable[[], Handler]]:
    """What makes the handlers of jobs of contracts."""
    from falaj.ingest.model import CHECK_JOB, SCHEDULED_JOB

    def scheduled() -> Handler:
        from falaj.ingest.scheduled import ScheduledCheckJob
        from falaj.wiring.retrainingparts import asking

        return ScheduledCheckJob(asking(made))

    return {CHECK_JOB: lambda: table_checks(made), SCHEDULED_JOB: scheduled}


def meter_series(made: Premises) -> MeterSeries:
    """Keeps the series of endpoints."""
    from falaj.monitoring.series import MeterSeries

    return MeterSeries(made.database, made.clock)


def series_anomalies(made: Premises) -> SeriesAnomalies:
    """Judges series; metrics are read as their caller sees them, and only in clear."""
    from falaj.kernel.call import AssetRef
    from falaj.kernel.errors import Forbidden
    from falaj.monitoring.seriesanomalies import SeriesAnomalies
    from falaj.wiring.readingparts import guarded_lake

    guarded = guarded_lake(made)

    def query(call: Call, sql: str) -> pa.Table:
        for table in sorted(guarded.tables_of(sql)):
            if not made.may_on(call, "tables.read", AssetRef("table", table)):
                raise Forbidden(
                    f"You may not read table:{table}, which a metric names, as you stand.",
                    hint="Personal data needs a purpose and a fresh second factor.",
                )
            guarded.check_clear(call, table, None, todo="watch a metric of")
        return guarded.query(call, sql)

    return SeriesAnomalies(meter_series(made), query, guarded.tables_of)


def anomaly_chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What must be done again and again for series and for contracts."""
    from falaj.monitoring.series import place_of

    kept = meter_series(made)

    def look() -> None:
        meters = made.serving.meters
        kept.look(place_of(made.settings.home / "meters"), meters.totals)

    contracts = contract_schedules(made)
    return {
        "contract schedules": Seldom(contracts.run_once, every_seconds=1.0),
        "series of endpoints": Seldom(look, every_seconds=1.0),
        "old series": Seldom(kept.roll_up, every_seconds=600.0),
    }
