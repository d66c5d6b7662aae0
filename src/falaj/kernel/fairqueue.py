"""The fair queue over the table of jobs: which job of which team a worker takes next.

Workers decide one after the other (SQLite has one writer at a time; on PostgreSQL they take
an advisory lock), so that quotas hold however many of them there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    Column,
    Float,
    String,
    Table,
    and_,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.engine import Connection, Row

from falaj.kernel.database import Instant, metadata
from falaj.kernel.errors import LimitExceeded
from falaj.kernel.fairshare import (
    LEAST_SECONDS,
    Choice,
    Head,
    Load,
    Need,
    Quota,
    Share,
    choose,
    exceeded,
)
from falaj.kernel.resources import Resources

_LOCK = 0x66616C616A71  # "falajq": a lock of our own among the database's advisory locks
TeamName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._ -]{0,62}$")]

share_rows = Table(
    "job_shares",
    metadata,
    Column("team", String(63), primary_key=True),
    Column("used", Float(53), nullable=False),
    Column("as_of", Instant, nullable=False),
    Column("last_begun", Instant, nullable=False),
)


class Claim(BaseModel):
    """What a job asks of the queue."""

    model_config = ConfigDict(frozen=True)

    team: TeamName
    priority: int = Field(50, ge=0, le=100)
    """Within the team: greater goes first."""
    resources: Resources = Resources()

    @property
    def need(self) -> Need:
        """What it takes up while it runs."""
        return Need(self.resources.cpu_thousandths, self.resources.gpu_thousandths)


class QuotaTooSmall(LimitExceeded):
    """A job asks for more than its team may ever use at one time."""

    code = "quota-too-small"


class TeamState(BaseModel):
    """Where a team stands in the queue."""

    team: str
    n_waiting: int = 0
    n_running: int = 0
    cpus: float = 0.0
    gpus: float = 0.0
    used_core_hours: float = 0.0
    """Lately: halved every hour."""
    weight: int = 1
    held: str = ""
    """Why nothing of it begins now; empty if it may."""


def no_quota(_team: str) -> Quota:
    """Nobody is limited."""
    return Quota()


def no_hold(_connection: Connection, _team: str) -> str | None:
    """Nobody is held."""
    return None


class FairQueue:
    """Chooses among jobs of teams.

    Args:
        quota_of: what a team may use at one time.
        hold: why nothing of a team may begin now (its budget is spent), or None.
    """

    def __init__(
        self,
        quota_of: Callable[[str], Quota] = no_quota,
        hold: Callable[[Connection, str], str | None] = no_hold,
    ) -> None:
        self.quota_of = quota_of
        self.hold = hold

    def check(self, claim: Claim) -> None:
        """Raise QuotaTooSmall for a job that could never begin."""
        reason = exceeded(self.quota_of(claim.team), Load(), claim.need)
        if reason is not None:
            raise QuotaTooSmall(
                f"The job is more than the team {claim.team!r} may use: {reason}.",
                hint="Ask for less (resources), or have the operator raise the team's quota.",
                team=claim.team,
            )

    def choice(
        self, connection: Connection, jobs: Table, ready: Any, now: datetime, *, lock: bool = True
    ) -> Choice:
        """What begins next among the jobs that are ready.

        Args:
            jobs: the table of jobs.
            ready: the condition for a job that may be taken.
            lock: hold all other workers off until this transaction ends.
        """
        waiting = and_(ready, jobs.c.team.is_not(None))
        if not self._heads(connection, jobs, waiting):
            return Choice()
        if lock and connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        heads = [
            head
            for head in self._heads(connection, jobs, waiting)
            if self.hold(connection, head.team) is None
        ]
        loads, shares = self.loads(connection, jobs, now), self._shares(connection)
        return choose(heads, loads, shares, self.quota_of, now.timestamp())

    def begun(self, connection: Connection, job: Row[Any], now: datetime) -> None:
        """A job begins: what it used in an attempt that was lost counts now, and a moment."""
        lost = 0.0
        if job.begun_at is not None and job.leased_until is not None:
            lost = (min(now, job.leased_until) - job.begun_at).total_seconds()
        self._charge(connection, job, max(0.0, lost) + LEAST_SECONDS, now, begun=True)

    def ended(self, connection: Connection, job: Row[Any], now: datetime) -> None:
        """A job ends or is given back: what it took counts for its team."""
        if job.begun_at is None:
            return
        seconds = (now - job.begun_at).total_seconds() - LEAST_SECONDS
        self._charge(connection, job, max(0.0, seconds), now)

    def states(
        self, connection: Connection, jobs: Table, waiting: Any, now: datetime
    ) -> list[TeamState]:
        """Where every team stands that waits, runs or has used something."""
        loads, shares = self.loads(connection, jobs, now), self._shares(connection)
        counted = (
            select(jobs.c.team, func.count())
            .where(waiting, jobs.c.team.is_not(None))
            .group_by(jobs.c.team)
        )
        n_waiting: dict[str, int] = {row[0]: row[1] for row in connection.execute(counted)}
        return [
            TeamState(
                team=team,
                n_waiting=n_waiting.get(team, 0),
                n_running=loads.get(team, Load()).n_runs,
                cpus=loads.get(team, Load()).need.cpu_thousandths / 1000,
                gpus=loads.get(team, Load()).need.gpu_thousandths / 1000,
                used_core_hours=round(shares.get(team, Share()).at(now.timestamp()) / 3600, 6),
                weight=self.quota_of(team).weight,
                held=self.hold(connection, team) or "",
            )
            for team in sorted({*loads, *shares, *n_waiting})
        ]

    @staticmethod
    def loads(connection: Connection, jobs: Table, now: datetime) -> Mapping[str, Load]:
        """What the running jobs of each team take up; one whose worker is lost does not run."""
        rows = connection.execute(
            select(
                jobs.c.team,
                func.count().label("n_runs"),
                func.sum(jobs.c.cpu_thousandths).label("cpus"),
                func.sum(jobs.c.gpu_thousandths).label("gpus"),
            )
            .where(jobs.c.state == "running", jobs.c.leased_until >= now, jobs.c.team.is_not(None))
            .group_by(jobs.c.team)
        )
        return {row.team: Load(row.n_runs, Need(int(row.cpus), int(row.gpus))) for row in rows}

    @staticmethod
    def _heads(connection: Connection, jobs: Table, waiting: Any) -> list[Head]:
        place = (
            func.row_number()
            .over(
                partition_by=jobs.c.team,
                order_by=(
                    jobs.c.spot, jobs.c.priority.desc(), jobs.c.submitted_at, jobs.c.id
                ),
            )
            .label("place")
        )  # fmt: skip
        ranked = select(jobs, place).where(waiting).subquery()
        rows = connection.execute(select(ranked).where(ranked.c.place == 1))
        return [
            Head(row.id, row.team, Need(row.cpu_thousandths, row.gpu_thousandths), bool(row.spot))
            for row in rows
        ]

    @staticmethod
    def _shares(connection: Connection) -> dict[str, Share]:
        rows = connection.execute(select(share_rows))
        return {row.team: _share(row) for row in rows}

    @staticmethod
    def _charge(
        connection: Connection,
        job: Row[Any],
        seconds: float,
        now: datetime,
        *,
        begun: bool = False,
    ) -> None:
        need = Need(job.cpu_thousandths, job.gpu_thousandths)
        mine = share_rows.c.team == job.team
        row = connection.execute(select(share_rows).where(mine).with_for_update()).first()
        share = Share() if row is None else _share(row)
        charged = share.charged(need, seconds, now.timestamp(), begun=begun)
        values = {"used": charged.used, "as_of": now}
        if begun or row is None:
            values["last_begun"] = now
        if row is None:
            connection.execute(insert(share_rows).values(team=job.team, **values))
        else:
            connection.execute(update(share_rows).where(mine).values(**values))


def _share(row: Row[Any]) -> Share:
    return Share(row.used, row.as_of.timestamp(), row.last_begun.timestamp())
