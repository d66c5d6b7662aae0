"""The accounts of the steps of one attempt at a run, written in the journal's transactions.

A step of a millisecond must not pay for its account: of a team without a budget, what steps
have held is written once a second, at once for all that have ended since. A worker that is
killed loses the charges of that second; of one that runs, as of fits, what is behind its
last sign of life. Of a team with a budget every step is written when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from falaj.kernel.clock import monotonic
from falaj.kernel.resources import Used
from falaj.training.costs.ledger import Held
from falaj.training.costs.meters import ALIVE_SECONDS, Meters
from falaj.training.costs.model import UsageKind
from falaj.training.pipelines.model import StepState

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.database import Database
    from falaj.training.pipelines.model import Pipeline, PipelineRun, StepRecord
    from falaj.training.pipelines.ports import StepAnswer

_WRITTEN_SECONDS = 1.0


FORGOTTEN = "input-forgotten"
"""The outcome of a step that begins again, after what it takes was made again."""


@dataclass
class _Running:
    begun_at: datetime
    usage: str | None = None
    """Its account, once it has run for so long that it has one."""
    stopped_at: datetime | None = None
    """When it had to stop, if it is to begin again."""


class StepCosts:
    """Charges each step that is computed, from the record of its begin to that of its end.

    What comes from the cache costs nothing. Retries of a step, and the waits before them, are
    of one account: the run keeps a place for it meanwhile.

    Args:
        meters: open and close accounts.
        run, pipeline: whose steps they are; the run's job is theirs.
    """

    def __init__(self, meters: Meters, run: PipelineRun, pipeline: Pipeline) -> None:
        self._meters = meters
        self._run = run
        self._resources = meters.of_step(pipeline.memory_bytes)
        self._team = ""
        self._running: dict[str, _Running] = {}
        self._ended: list[Held] = []
        self._used: dict[str, Used] = {}
        self._written_at = self._asked_at = monotonic()

    def check(self, connection: Connection) -> None:
        """Raise BudgetSpent if nothing is left to the run's team."""
        self._meters.check(connection, self._team_of(connection))

    def used(self, step: str, answer: StepAnswer) -> None:
        """What a step used, by the process that ran it."""
        self._used[step] = Used(
            wall_seconds=answer.seconds,
            cpu_seconds=answer.cpu_seconds,
            peak_memory_bytes=answer.peak_bytes,
        )

    def gone(self, step: str) -> None:
        """What a step takes was forgotten: it holds nothing more until it begins again."""
        if step in self._running:
            self._running[step].stopped_at = self._meters.now()

    def recorded(self, connection: Connection, records: Iterable[StepRecord]) -> None:
        """Steps begin and end; what is due is written."""
        for step in [name for name, one in self._running.items() if one.stopped_at is not None]:
            self._end(connection, step, FORGOTTEN)
        for record in records:
            if record.state is StepState.RUNNING:
                begun_at = self._meters.now()
                self._running[record.step] = _Running(begun_at)
            elif record.step in self._running:
                outcome = "done" if record.error is None else record.error["code"]
                self._end(connection, record.step, outcome)
        due = monotonic() - self._written_at >= _WRITTEN_SECONDS
        if due or self._meters.limited(self._team_of(connection)):
            self._write(connection)

    def alive(self, database: Database) -> None:
        """Write what is due of steps that run; raise BudgetSpent if nothing is left."""
        now = monotonic()
        unwritten = self._ended or any(one.usage is None for one in self._running.values())
        if now - self._written_at >= (_WRITTEN_SECONDS if unwritten else ALIVE_SECONDS):
            with database.transaction() as connection:
                self._write(connection)
        if now - self._asked_at >= ALIVE_SECONDS:
            self._asked_at = now
            with database.reading() as connection:
                self.check(connection)

    def ended(self, connection: Connection, outcome: str) -> None:
        """The run ends, and with it whatever step was under way."""
        for step in list(self._running):
            self._end(connection, step, outcome)
        self._write(connection)

    def _end(self, connection: Connection, step: str, outcome: str) -> None:
        one, used = self._running.pop(step), self._used.pop(step, Used())
        now = one.stopped_at or self._meters.now()
        if one.usage is not None:
            self._meters.close(connection, one.usage, used, outcome, ended_at=now)
            return
        self._ended.append(
            Held(
                run=self._run.id,
                model="",
                team=self._team_of(connection),
                job=self._run.job,
                kind=UsageKind.STEP,
                part=step,
                resources=self._resources,
                begun_at=one.begun_at,
                ended_at=now,
                used=used,
                outcome=outcome,
            )
        )

    def _write(self, connection: Connection) -> None:
        """Charge what has ended, and tell of what runs that it does."""
        self._written_at = monotonic()
        if self._ended:
            self._meters.add(connection, self._ended)
            self._ended = []
        for step, one in self._running.items():
            if one.usage is None:
                one.usage = self._meters.begin(
                    connection,
                    UsageKind.STEP,
                    run=self._run.id,
                    part=step,
                    model="",
                    team=self._team_of(connection),
                    job=self._run.job,
                    resources=self._resources,
                    begun_at=one.begun_at,
                )
        mine = [one.usage for one in self._running.values() if one.usage and not one.stopped_at]
        if mine:
            self._meters.alive(connection, mine)

    def _team_of(self, connection: Connection) -> str:
        if not self._team:
            self._team = self._meters.team(connection, self._run.job, self._run.principal)
        return self._team
