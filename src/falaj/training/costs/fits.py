"""The fits of a training job: where they run, under which limits, and what they used.

What a fit used is written down in a transaction of its own before the job goes on, whether the
fit has succeeded or not. While it runs its account is open, with a sign of life every few
seconds, so that an attempt whose worker is killed is charged until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import select

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput
from falaj.kernel.jobs import job_rows
from falaj.kernel.resources import Used
from falaj.kernel.settings_queue import DEFAULT_TEAM
from falaj.training.costs.queueing import resources_of
from falaj.training.distributed.crew import fitted_by_crew
from falaj.training.distributed.rows import crew_work
from falaj.training.limitedfits import fitted_here, fitted_under_limits

if TYPE_CHECKING:
    from falaj.kernel.clock import Clock
    from falaj.kernel.compute import Task
    from falaj.kernel.database import Database
    from falaj.kernel.jobs import JobRun
    from falaj.kernel.lentcompute import Lent
    from falaj.kernel.resources import Resources
    from falaj.kernel.settings_queue import QueueSettings
    from falaj.training.costs.budgets import Budgets
    from falaj.training.costs.ledger import Ledger
    from falaj.training.model import TrainingRequest
    from falaj.training.ports import Trainer

_ALIVE_SECONDS = 5.0
_ASKED_SECONDS = 0.5
_BROKEN = "internal"


@dataclass(frozen=True)
class Placing:
    """What can be done in other processes.

    Args:
        task: calls ``fit_told`` for the trainer that its item names.
        trainers: those that it knows.
        crews: what a worker runs, for trainers that fit on several workers.
        here: whether all workers are on this machine.
    """

    task: Task
    trainers: frozenset[str]
    crews: Mapping[str, Task]
    here: bool = True


class Fits:
    """Places the fits of training jobs.

    Args:
        database, clock: of the ledger's transactions.
        ledger, budgets: what is used is written there; a team whose budget is spent is stopped.
        settings: of the queue.
        compute: lends what runs tasks under limits.
        place: what can be done in other processes.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        ledger: Ledger,
        budgets: Budgets,
        settings: QueueSettings,
        compute: Callable[[], Lent],
        place: Placing,
    ) -> None:
        self.database = database
        self.clock = clock
        self.ledger = ledger
        self.budgets = budgets
        self.settings = settings
        self.compute = compute
        self.place = place

    def placed(self, trainer: Trainer, request: TrainingRequest, job: JobRun, run: str) -> Trainer:
        """The same trainer, whose ``fit`` runs where the request and the settings say.

        With ``resources`` (or the setting ``queue.limits``) it runs in a process of its own,
        here or on Ray, under these limits; else in this process. What it used is written down
        for the run. Its ``fit`` also raises:

        JobCancelled, LeaseLost, JobTakenAway: within a second of the reason.
        BudgetSpent: the team's budget ran out meanwhile.
        HardwareMissing, MemoryLimit, TimeLimit, TaskLost: see ``LimitedCompute``.
        """
        return cast("Trainer", _Placed(self, trainer, request, job, run))


class _Placed:
    """A trainer whose ``fit`` is done elsewhere, and everything else by itself."""

    def __init__(
        self, fits: Fits, trainer: Trainer, request: TrainingRequest, job: JobRun, run: str
    ) -> None:
        self._fits = fits
        self._trainer = trainer
        self._request = request
        self._job = job
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def fit(self, *args: Any, **given: Any) -> Any:
        """``Trainer.fit``, as the request says."""
        fits, asked = self._fits, self._request.resources
        resources = resources_of(self._request, fits.settings)
        limited = asked is not None or fits.settings.limits
        if asked is None and self._trainer.name not in fits.place.trainers:
            limited = False  # it has limits of its own
        if limited:
            self._check(resources)
        account = _Account(fits, self._job, self._opened(resources, limited=limited))
        try:
            fitted = self._fitted(resources, account, args, given, limited=limited)
        except FalajError as error:
            account.close(error.code)
            raise
        except BaseException:
            account.close(_BROKEN)
            raise
        account.close("done")
        return fitted

    def _check(self, resources: Resources) -> None:
        name, place = self._trainer.name, self._fits.place
        if name not in place.trainers:
            raise InvalidInput(
                f"The trainer {name!r} runs in a process with limits of its own.",
                hint="Leave `resources` out; the settings of trainers say what it may use.",
            )
        if resources.workers == 1:
            return
        if name not in place.crews:
            raise InvalidInput(
                f"The trainer {name!r} does not fit on several workers.",
                hint=f"Ask for one, or take one of: {', '.join(sorted(place.crews))}.",
            )
        if not self._fits.settings.open_network:
            raise Forbidden(
                "Fits on several workers are switched off: their libraries talk to each other"
                " in clear, over ports that are open to the network.",
                hint="Where that network is trusted, the operator sets queue.open_network.",
            )

    def _fitted(
        self,
        resources: Resources,
        account: _Account,
        args: tuple[Any, ...],
        given: dict[str, Any],
        *,
        limited: bool,
    ) -> Any:
        fits, trainer = self._fits, self._trainer
        if not limited:
            return fitted_here(trainer.fit, args, given, measured=account.measured)
        with closing(fits.compute()) as compute:
            if resources.workers == 1:
                return fitted_under_limits(
                    compute, fits.place.task, trainer.name, resources, args, given,
                    check=account.check, measured=account.measured,
                )  # fmt: skip
            work = crew_work(fits.place.crews[trainer.name], *args, **given, here=fits.place.here)
            return fitted_by_crew(
                compute, work, resources, report=given["report"], check=account.check,
                measured=account.measured,
            )  # fmt: skip

    def _opened(self, resources: Resources, *, limited: bool) -> str:
        fits = self._fits
        with fits.database.transaction() as connection:
            mine = select(job_rows.c.team).where(job_rows.c.id == self._job.id)
            team = connection.execute(mine).scalar() or DEFAULT_TEAM
            fits.budgets.check(connection, team)
            return fits.ledger.begin(
                connection,
                run=self._run,
                model=self._request.model,
                team=team,
                job=self._job.id,
                resources=resources,
                limited=limited,
                now=fits.clock.now(),
            )


class _Account:
    """One open account of the ledger, and the reasons to end its fit."""

    def __init__(self, fits: Fits, job: JobRun, usage: str) -> None:
        self._fits = fits
        self._job = job
        self._usage = usage
        self._used = Used()
        self._asked_at = self._alive_at = monotonic()

    def measured(self, used: Used) -> None:
        """Take what was used."""
        self._used = used

    def check(self) -> None:
        """Raise if the job should stop; give a sign of life now and then."""
        now = monotonic()
        if now - self._asked_at < _ASKED_SECONDS:
            return
        self._asked_at = now
        self._job.check()
        if now - self._alive_at < _ALIVE_SECONDS:
            return
        self._alive_at = now
        with self._fits.database.transaction() as connection:
            self._fits.ledger.alive(connection, self._usage, self._fits.clock.now())
            team = connection.execute(
                select(job_rows.c.team).where(job_rows.c.id == self._job.id)
            ).scalar()
            self._fits.budgets.check(connection, team or DEFAULT_TEAM)

    def close(self, outcome: str) -> None:
        """Charge it."""
        with self._fits.database.transaction() as connection:
            self._fits.ledger.close(
                connection,
                self._usage,
                now=self._fits.clock.now(),
                used=self._used,
                outcome=outcome,
            )
