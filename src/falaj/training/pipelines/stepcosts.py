"""The accounts of the steps of one attempt at a run, written with the journal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from falaj.kernel.clock import monotonic
from falaj.kernel.resources import Used
from falaj.training.costs.meters import ALIVE_SECONDS, Meters
from falaj.training.costs.model import UsageKind
from falaj.training.pipelines.model import StepState

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.database import Database
    from falaj.training.pipelines.model import Pipeline, PipelineRun, StepRecord
    from falaj.training.pipelines.ports import StepAnswer


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
        self._open: dict[str, str] = {}
        self._used: dict[str, Used] = {}
        self._alive_at = monotonic()

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

    def recorded(self, connection: Connection, records: Iterable[StepRecord]) -> None:
        """Open accounts of steps that begin, and close those of steps that ended."""
        for record in records:
            if record.state is StepState.RUNNING:
                self._open[record.step] = self._meters.begin(
                    connection,
                    UsageKind.STEP,
                    run=self._run.id,
                    part=record.step,
                    model="",
                    team=self._team_of(connection),
                    job=self._run.job,
                    resources=self._resources,
                )
                continue
            usage = self._open.pop(record.step, None)
            if usage is not None:
                outcome = "done" if record.error is None else record.error["code"]
                used = self._used.pop(record.step, Used())
                self._meters.close(connection, usage, used, outcome)

    def alive(self, database: Database) -> None:
        """Give a sign of life now and then; raise BudgetSpent if nothing is left."""
        if not self._open or monotonic() - self._alive_at < ALIVE_SECONDS:
            return
        self._alive_at = monotonic()
        with database.transaction() as connection:
            self._meters.alive(connection, self._run.job)
        with database.reading() as connection:
            self.check(connection)

    def _team_of(self, connection: Connection) -> str:
        if not self._team:
            self._team = self._meters.team(connection, self._run.job, self._run.principal)
        return self._team
