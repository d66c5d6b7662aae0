"""The ledger: what fits, trials and steps held, used and cost; and by which price tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection, Row

from falaj.kernel.call import Call
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import JobState, job_rows
from falaj.kernel.resources import Resources, Used
from falaj.training.costs.model import (
    SMALLEST,
    Charge,
    Prices,
    PriceTable,
    RunUsage,
    UsageKind,
)
from falaj.training.costs.pricing import charges
from falaj.training.costs.tables import charge_rows, price_rows, usage_rows

OPEN, LOST = "open", "lost"
_MILLION = 1_000_000
CORE_HOUR = 3_600_000_000
"""Core-time is counted in microseconds of a whole core."""


@dataclass(frozen=True)
class Held:
    """What was held by something that has ended before it was written down."""

    run: str
    model: str
    team: str
    job: str
    kind: UsageKind
    part: str
    resources: Resources
    begun_at: datetime
    ended_at: datetime
    used: Used
    outcome: str


class Ledger:
    """Attempts at runs and their charges, in the caller's transaction."""

    # ---- prices

    def tables(self, connection: Connection) -> list[PriceTable]:
        """All price tables, in the order in which they became valid."""
        rows = connection.execute(
            select(price_rows).order_by(price_rows.c.valid_from, price_rows.c.version)
        )
        return [
            PriceTable(
                version=row.version,
                prices=Prices.model_validate(row.prices),
                valid_from=row.valid_from,
                set_by=row.set_by,
                set_at=row.set_at,
            )
            for row in rows
        ]

    def set_prices(self, call: Call, prices: Prices, valid_from: datetime | None) -> PriceTable:
        """Add a price table; it holds from an instant on until the next one does.

        Raises:
            InvalidInput: the instant has passed, or is before that of the newest table.
        """
        begins = valid_from or call.now
        if begins < call.now:
            raise InvalidInput(
                f"Prices cannot hold from {begins.isoformat()} on, which has passed.",
                hint="What was charged stays charged; give a later instant, or none for now.",
            )
        known = self.tables(call.connection)
        if known and begins <= known[-1].valid_from:
            raise InvalidInput(
                f"The newest prices hold from {known[-1].valid_from.isoformat()} on already.",
                hint="Give a later instant.",
            )
        version = len(known) + 1
        call.connection.execute(
            insert(price_rows).values(
                version=version,
                valid_from=begins,
                prices=prices.model_dump(mode="json"),
                set_by=call.principal.id,
                set_at=call.now,
            )
        )
        call.note(version=version)
        return self.tables(call.connection)[-1]

    # ---- attempts

    def begin(
        self,
        connection: Connection,
        *,
        run: str,
        model: str,
        team: str,
        job: str,
        resources: Resources,
        limited: bool,
        now: datetime,
    ) -> str:
        """Open the account of one fit; open ones of the same job were lost, and end.

        Returns the id of the account.
        """
        self.close_lost(connection, self.of_job(job))
        return self.open(
            connection, run=run, model=model, team=team, job=job, resources=resources,
            limited=limited, now=now,
        )  # fmt: skip

    def open(
        self,
        connection: Connection,
        *,
        run: str,
        model: str,
        team: str,
        job: str,
        resources: Resources,
        limited: bool,
        now: datetime,
        kind: UsageKind = UsageKind.FIT,
        part: str = "",
    ) -> str:
        """Open an account beside others of the same job; its id."""
        usage_id = new_id("usage")
        connection.execute(
            insert(usage_rows).values(
                id=usage_id,
                run_id=run,
                model=model,
                team=team,
                job=job,
                begun_at=now,
                ended_at=now,
                core_time=0,
                gpu_time=0,
                cpu_seconds=0.0,
                outcome=OPEN,
                document=_document(resources, Used(), limited=limited),
                kind=kind,
                part=part,
            )
        )
        return usage_id

    @staticmethod
    def of_job(job: str) -> Any:
        """Which accounts are a job's, for ``close_all`` and ``close_lost``."""
        return usage_rows.c.job == job

    def alive(self, connection: Connection, usages: str | Sequence[str], now: datetime) -> None:
        """What is open of these accounts still runs: were it lost now, it would be charged until
        here."""
        ids = [usages] if isinstance(usages, str) else list(usages)
        connection.execute(
            update(usage_rows)
            .where(usage_rows.c.id.in_(ids), usage_rows.c.outcome == OPEN)
            .values(ended_at=now)
        )

    def close(
        self, connection: Connection, usage_id: str, *, now: datetime, used: Used, outcome: str
    ) -> None:
        """The fit ended: charge it. A second time does nothing."""
        row = connection.execute(
            select(usage_rows).where(usage_rows.c.id == usage_id).with_for_update()
        ).first()
        if row is None or row.outcome != OPEN:
            return
        resources = _resources(row)
        connection.execute(
            update(usage_rows)
            .where(usage_rows.c.id == usage_id)
            .values(
                **_times(resources, row.begun_at, now),
                cpu_seconds=used.cpu_seconds,
                outcome=outcome,
                document={**row.document, "used": used.model_dump(mode="json")},
            )
        )
        made = charges(self.tables(connection), resources, row.begun_at, now)
        if made:
            connection.execute(insert(charge_rows), [_charge_row(usage_id, one) for one in made])

    def add(self, connection: Connection, ended: Sequence[Held]) -> None:
        """Write down and charge, all at once, what has ended already."""
        tables = self.tables(connection)
        usages, made = [], []
        for one in ended:
            usage_id = new_id("usage")
            usages.append(
                {
                    "id": usage_id,
                    "run_id": one.run,
                    "model": one.model,
                    "team": one.team,
                    "job": one.job,
                    "begun_at": one.begun_at,
                    **_times(one.resources, one.begun_at, one.ended_at),
                    "cpu_seconds": one.used.cpu_seconds,
                    "outcome": one.outcome,
                    "document": _document(one.resources, one.used, limited=False),
                    "kind": one.kind,
                    "part": one.part,
                }
            )
            found = charges(tables, one.resources, one.begun_at, one.ended_at)
            made += [_charge_row(usage_id, charge) for charge in found]
        connection.execute(insert(usage_rows), usages)
        if made:
            connection.execute(insert(charge_rows), made)

    def close_lost(self, connection: Connection, which: Any) -> int:
        """End open accounts whose worker is gone, at their last sign of life; returns how many."""
        return self.close_all(connection, which, None, LOST)

    def close_all(
        self, connection: Connection, which: Any, now: datetime | None, outcome: str
    ) -> int:
        """End open accounts, now or (None) at their last sign of life; returns how many."""
        rows = connection.execute(
            select(usage_rows).where(usage_rows.c.outcome == OPEN, which)
        ).all()
        for row in rows:
            self.close(connection, row.id, now=now or row.ended_at, used=Used(), outcome=outcome)
        return len(rows)

    def unsettled(self, connection: Connection) -> bool:
        """True if there are open accounts of jobs that do not run any more."""
        query = select(usage_rows.c.id).where(usage_rows.c.outcome == OPEN, _orphaned())
        return connection.execute(query.limit(1)).first() is not None

    def settle(self, connection: Connection) -> int:
        """End the open accounts of jobs that do not run any more; returns how many."""
        return self.close_lost(connection, _orphaned())

    # ---- reading

    def usages(
        self, connection: Connection, *, run: str | None = None, model: str | None = None,
        kind: UsageKind | None = None, limit: int = 1000,
    ) -> list[RunUsage]:  # fmt: skip
        """Ended attempts, the newest first."""
        query = select(usage_rows).where(usage_rows.c.outcome != OPEN)
        if run is not None:
            query = query.where(usage_rows.c.run_id == run)
        if model is not None:
            query = query.where(usage_rows.c.model == model)
        if kind is not None:
            query = query.where(usage_rows.c.kind == kind)
        query = query.order_by(usage_rows.c.begun_at.desc(), usage_rows.c.id.desc()).limit(limit)
        rows = connection.execute(query).all()
        charged = self._charges(connection, [row.id for row in rows])
        return [_usage(row, charged.get(row.id, ())) for row in rows]

    def spent(
        self, connection: Connection, team: str, since: datetime, now: datetime
    ) -> tuple[float, dict[str, Decimal]]:
        """Core-hours and money of a team since an instant, with what runs now has cost so far.

        An attempt counts in the month in which it began.
        """
        mine = (usage_rows.c.team == team, usage_rows.c.begun_at >= since)
        core_time = int(
            connection.execute(
                select(func.coalesce(func.sum(usage_rows.c.core_time), 0)).where(*mine)
            ).scalar_one()
        )
        query = (
            select(charge_rows.c.currency, func.sum(charge_rows.c.millionths))
            .join(usage_rows, usage_rows.c.id == charge_rows.c.usage_id)
            .where(*mine)
            .group_by(charge_rows.c.currency)
        )
        money = {row[0]: int(row[1]) * SMALLEST for row in connection.execute(query)}
        tables = self.tables(connection)
        for row in connection.execute(
            select(usage_rows).where(*mine, usage_rows.c.outcome == OPEN)
        ):
            resources = _resources(row)
            held = max(0, microseconds(now) - microseconds(row.begun_at))
            core_time += held * resources.cpu_thousandths // 1000
            for one in charges(tables, resources, row.begun_at, now):
                money[one.currency] = money.get(one.currency, Decimal(0)) + one.amount
        return core_time / CORE_HOUR, money

    @staticmethod
    def _charges(connection: Connection, usages: Sequence[str]) -> dict[str, tuple[Charge, ...]]:
        found: dict[str, tuple[Charge, ...]] = {}
        rows = connection.execute(
            select(charge_rows)
            .where(charge_rows.c.usage_id.in_(usages))
            .order_by(charge_rows.c.version)
        )
        for row in rows:
            charge = Charge(
                version=row.version,
                begins_at=row.begins_at,
                ends_at=row.ends_at,
                currency=row.currency,
                amount=row.millionths * SMALLEST,
            )
            found[row.usage_id] = (*found.get(row.usage_id, ()), charge)
        return found


def _document(resources: Resources, used: Used, *, limited: bool) -> dict[str, Any]:
    return {
        "resources": resources.model_dump(mode="json"),
        "used": used.model_dump(mode="json"),
        "limited": limited,
    }


def _times(resources: Resources, begun_at: datetime, ended_at: datetime) -> dict[str, Any]:
    held = max(0, microseconds(ended_at) - microseconds(begun_at))
    return {
        "ended_at": ended_at,
        "core_time": held * resources.cpu_thousandths // 1000,
        "gpu_time": held * resources.gpu_thousandths // 1000,
    }


def _charge_row(usage_id: str, one: Charge) -> dict[str, Any]:
    return {
        "usage_id": usage_id,
        "version": one.version,
        "begins_at": one.begins_at,
        "ends_at": one.ends_at,
        "currency": one.currency,
        "millionths": int(one.amount * _MILLION),
    }


def _orphaned() -> Any:
    running = select(job_rows.c.id).where(job_rows.c.state == JobState.RUNNING)
    return usage_rows.c.job.not_in(running)


def _resources(row: Row[Any]) -> Resources:
    return Resources.model_validate(row.document["resources"])


def _usage(row: Row[Any], charged: tuple[Charge, ...]) -> RunUsage:
    return RunUsage(
        id=row.id,
        run=row.run_id,
        model=row.model,
        team=row.team,
        job=row.job,
        begun_at=row.begun_at,
        ended_at=row.ended_at,
        resources=_resources(row),
        used=Used.model_validate(row.document["used"]),
        limited=row.document["limited"],
        outcome=row.outcome,
        kind=UsageKind(row.kind),
        part=row.part,
        charges=charged,
    )
