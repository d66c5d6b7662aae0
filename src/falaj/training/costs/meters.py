"""Charges what computes beside the fits of training runs: trials of studies, steps of pipelines.

They have the same accounts in the same ledger, count against the same budgets, and stand in the
same reports as fits. All functions work in the caller's transaction, so that a journal opens and
closes accounts in the transaction in which it records what they are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.kernel.jobs import job_rows
from falaj.kernel.resources import LEAST_MEMORY, Resources, Used

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.clock import Clock
    from falaj.kernel.settings_queue import QueueSettings
    from falaj.training.costs.budgets import Budgets
    from falaj.training.costs.ledger import Held, Ledger
    from falaj.training.costs.model import UsageKind
    from falaj.training.costs.teams import Teams

ALIVE_SECONDS = 5.0
"""So often whoever computes gives a sign of life, and asks whether it may go on."""


class Meters:
    """Opens and closes accounts of parts of jobs.

    Args:
        ledger, budgets, teams: of the platform.
        settings: what holds whoever does not say what it takes.
        clock: of the accounts.
    """

    def __init__(
        self, ledger: Ledger, budgets: Budgets, teams: Teams, settings: QueueSettings, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._budgets = budgets
        self._teams = teams
        self.settings = settings
        self._clock = clock

    def team(self, connection: Connection, job: str, principal: str) -> str:
        """The team that a job is charged to: that of its place in the queue, or the first one of
        whoever it runs as."""
        named = connection.execute(select(job_rows.c.team).where(job_rows.c.id == job)).scalar()
        return named or self._teams.chosen(connection, principal, None)

    def admit(self, connection: Connection, principal: str) -> None:
        """Raise BudgetSpent if nothing is left to the first team of a principal."""
        self.check(connection, self._teams.chosen(connection, principal, None))

    def check(self, connection: Connection, team: str) -> None:
        """Raise BudgetSpent if nothing is left to a team."""
        self._budgets.check(connection, team)

    def taken_up(self, connection: Connection, job: str) -> None:
        """A worker begins, or goes on with, a job: what was open of it was lost."""
        self._ledger.close_lost(connection, self._ledger.of_job(job))

    def begin(
        self,
        connection: Connection,
        kind: UsageKind,
        *,
        run: str,
        part: str,
        model: str,
        team: str,
        job: str,
        resources: Resources,
        begun_at: datetime | None = None,
    ) -> str:
        """Open the account of a part of a run, which begins now if not before; its id."""
        return self._ledger.open(
            connection,
            run=run,
            model=model,
            team=team,
            job=job,
            resources=resources,
            limited=False,
            now=begun_at or self._clock.now(),
            kind=kind,
            part=part,
        )

    def alive(self, connection: Connection, usages: Sequence[str]) -> None:
        """What is open of these accounts still runs; whoever opened them says so, of no others."""
        self._ledger.alive(connection, usages, self._clock.now())

    def close(
        self,
        connection: Connection,
        usage: str,
        used: Used,
        outcome: str,
        *,
        ended_at: datetime | None = None,
    ) -> None:
        """A part ended, now if not before: charge it."""
        now = ended_at or self._clock.now()
        self._ledger.close(connection, usage, now=now, used=used, outcome=outcome)

    def add(self, connection: Connection, ended: Sequence[Held]) -> None:
        """Charge parts that have ended before they were written down."""
        self._ledger.add(connection, ended)

    def limited(self, team: str) -> bool:
        """True if a team has a budget."""
        return self._budgets.limited(team)

    def now(self) -> datetime:
        """The instant, by the clock of the accounts."""
        return self._clock.now()

    def close_all(self, connection: Connection, job: str, outcome: str) -> None:
        """A job ended: charge what is still open of it until now."""
        self._ledger.close_all(connection, self._ledger.of_job(job), self._clock.now(), outcome)

    def of_step(self, memory_bytes: int | None) -> Resources:
        """What a step holds: one core, and the memory that its pipeline says, or the settings."""
        memory = memory_bytes or self.settings.memory_bytes
        return Resources(cpus=1.0, memory_bytes=max(LEAST_MEMORY, memory))
