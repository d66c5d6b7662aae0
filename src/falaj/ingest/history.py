"""Loads and check results as they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from falaj.ingest.checks import Check, Usual
from falaj.ingest.model import CheckResult, Contract, Example, LoadReport, LoadState, TrendPoint
from falaj.ingest.tables import contract_results, loads
from falaj.ingest.usual import Past

if TYPE_CHECKING:
    from falaj.ingest.contracts import Earlier
from falaj.kernel.call import Call

BY_LOAD, BY_CHECK = "load", "check"
"""What measured a result: a load, its own rows; or a check, the whole table."""
RESULTS_KEPT = 1_000
"""So many results of each check of a contract stay, and the last that passed, however old."""
_SELDOM = 256
MOST_HISTORY = 400
"""Of earlier figures, so many are the past of a ``usual`` check."""


def record(call: Call, report: LoadReport, content: str) -> None:
    """Keep a load and the results of its checks, in the call's transaction."""
    call.connection.execute(
        insert(loads).values(
            id=report.id,
            source=report.source,
            table_name=report.table,
            state=report.state,
            at=report.at,
            content=content,
            digest=report.digest,
            files=report.files,
            n_read=report.n_read,
            n_written=report.n_written,
            n_quarantined=report.n_quarantined,
            snapshot=report.snapshot,
            job=report.job,
        )
    )
    record_results(call, report.id, report.table, report.checks)


def record_results(
    call: Call, load: str, table: str, results: list[CheckResult], *, via: str = BY_LOAD
) -> None:
    """Keep the results of checks that belong to a load (or to a check on demand)."""
    if not results:
        return
    call.connection.execute(
        insert(contract_results),
        [
            {
                "load": load,
                "contract": result.contract,
                "table_name": table,
                "check": result.check,
                "severity": result.severity,
                "n_rows": result.n_rows,
                "n_violations": result.n_violations,
                "share": result.share,
                "passed": result.passed,
                "measured": result.measured,
                "examples": [example.model_dump() for example in result.examples],
                "at": call.now,
                "value": result.value,
                "low": result.low,
                "high": result.high,
                "via": via,
            }
            for result in results
        ],
    )
    newest = call.connection.execute(
        select(func.max(contract_results.c.id)).where(contract_results.c.load == load)
    ).scalar_one()
    if newest // _SELDOM != (newest - len(results)) // _SELDOM:  # it looks at all of a table's
        forget_old(call.connection, table)


def forget_old(connection: Connection, table: str) -> None:
    """Forget the oldest results of each check of a table's contracts.

    Whether a check has ever passed is still known then.
    """
    of = contract_results.c
    placed = (
        select(
            of.id, of.passed,
            func.row_number()
            .over(partition_by=(of.contract, of.check, of.via), order_by=of.id.desc())
            .label("place"),
            func.row_number()
            .over(partition_by=(of.contract, of.check, of.passed), order_by=of.id.desc())
            .label("of_its_kind"),
        )
        .where(of.table_name == table)
        .subquery()
    )  # fmt: skip
    is_last_passed = placed.c.passed & (placed.c.of_its_kind == 1)
    old = select(placed.c.id).where(placed.c.place > RESULTS_KEPT, ~is_last_passed)
    connection.execute(delete(contract_results).where(of.id.in_(old)))


def found(
    connection: Connection, source: str, *, digest: str | None = None, content: str | None = None
) -> LoadReport | None:
    """The newest load of a source that wrote its rows, of these files if they are given."""
    query = select(loads).where(loads.c.source == source, loads.c.state == LoadState.DONE)
    if digest is not None:
        query = query.where(loads.c.digest == digest)
    if content is not None:
        query = query.where(loads.c.content == content)
    row = connection.execute(query.order_by(loads.c.at.desc(), loads.c.id.desc()).limit(1)).first()
    return None if row is None else _report(row)


def listed(connection: Connection, source: str, limit: int) -> list[LoadReport]:
    """The loads of a source, the newest first, without the results of their checks."""
    query = (
        select(loads)
        .where(loads.c.source == source)
        .order_by(loads.c.at.desc(), loads.c.id.desc())
        .limit(limit)
    )
    return [_report(row) for row in connection.execute(query)]


def results(connection: Connection, table: str, limit: int) -> list[CheckResult]:
    """The newest results of the checks of a table's contracts."""
    query = (
        select(contract_results)
        .where(contract_results.c.table_name == table)
        .order_by(contract_results.c.id.desc())
        .limit(limit)
    )
    return [
        CheckResult(
            **{name: getattr(row, name) for name in CheckResult.model_fields if name != "examples"},
            examples=[Example.model_validate(example) for example in row.examples],
        )
        for row in connection.execute(query)
    ]


def has_passed(connection: Connection, contract: Contract, check: str) -> bool:
    """True if a check of a contract has ever passed."""
    of = contract_results.c
    query = select(of.id).where(
        of.table_name == contract.table,
        of.contract == contract.name,
        of.check == check,
        of.passed.is_(True),
    )
    return connection.execute(query.limit(1)).first() is not None


def figures(connection: Connection, contracts: Sequence[Contract], *, via: str) -> Earlier:
    """The earlier figures of the checks that ask what is usual."""
    of = contract_results.c
    found: dict[tuple[str, str], Past] = {}
    for contract in contracts:
        for check in contract.checks:
            if isinstance(check, Usual):
                query = select(of.at, of.value).where(
                    of.table_name == contract.table,
                    of.contract == contract.name,
                    of.check == check.label,
                    of.value.is_not(None),
                    of.via == via,
                )
                rows = connection.execute(query.order_by(of.id.desc()).limit(MOST_HISTORY))
                found[contract.name, check.label] = [(row.at, row.value) for row in rows]

    def earlier(contract: Contract, check: Check) -> Past:
        return found.get((contract.name, check.label), ())

    return earlier


def loaded_at(connection: Connection, table: str) -> datetime | None:
    """When the newest load wrote into a table; None if none did."""
    query = select(func.max(loads.c.at)).where(
        loads.c.table_name == table, loads.c.state == LoadState.DONE
    )
    found: datetime | None = connection.execute(query).scalar()
    return found


def trend(
    connection: Connection, contract: Contract, *, check: str | None, limit: int
) -> list[TrendPoint]:
    """What the checks of a contract measured over time, the newest first.

    Args:
        check: words that a check's label holds; None for all.
        limit: of points.
    """
    of = contract_results.c
    query = select(contract_results).where(
        of.table_name == contract.table,
        of.contract == contract.name,
    )
    if check is not None:
        query = query.where(of.check.contains(check, autoescape=True))
    rows = connection.execute(query.order_by(of.id.desc()).limit(limit))
    names = [name for name in TrendPoint.model_fields if name != "via"]
    return [
        TrendPoint(**{name: getattr(row, name) for name in names}, via=row.via or BY_LOAD)
        for row in rows
    ]


def _report(row: Any) -> LoadReport:
    return LoadReport(
        id=row.id,
        source=row.source,
        table=row.table_name,
        state=row.state,
        at=row.at,
        digest=row.digest,
        files=row.files,
        n_read=row.n_read,
        n_written=row.n_written,
        n_quarantined=row.n_quarantined,
        snapshot=row.snapshot,
        job=row.job,
    )
