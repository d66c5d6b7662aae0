"""The accounts of a study's trials: each is charged for what it held while it was tried.

Each transaction proves that this attempt still holds the job: one that was taken for lost closes
nothing of the next, and leaves its own accounts to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import FalajError
from falaj.kernel.resources import Used
from falaj.training.costs.model import UsageKind
from falaj.training.costs.queueing import resources_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.database import Database
    from falaj.kernel.jobs import JobRun
    from falaj.training.costs.meters import Meters
    from falaj.training.model import TrainingRequest

_PRUNED, _BROKEN = "pruned", "internal"


class TrialCosts:
    """Charges the trials of one tuning job.

    Args:
        meters: open and close accounts.
        database: of their transactions.
        job: its lease is proved; the team of its place, or of who submitted it, pays.
        study: the study's run.
        training: what every trial fits, and with which resources.
    """

    def __init__(
        self,
        meters: Meters,
        database: Database,
        *,
        job: JobRun,
        study: str,
        training: TrainingRequest,
    ) -> None:
        self._meters = meters
        self._database = database
        self._job = job
        self._study = study
        self._model = training.model
        self._resources = resources_of(training, meters.settings)
        self._open: set[str] = set()
        self._one_at_a_time = threading.Lock()
        with self._held() as connection:
            meters.taken_up(connection, job.id)
            self._team = meters.team(connection, job.id, job.submitted_by)

    @contextmanager
    def _held(self) -> Iterator[Connection]:
        """A transaction that only the attempt that holds the job commits; raises LeaseLost."""
        with self._database.transaction() as connection:
            self._job.hold(connection)
            yield connection

    @contextmanager
    def charged(
        self, number: int, *, passing: type[BaseException]
    ) -> Iterator[Callable[[Any], None]]:
        """Charge a trial for the time in here; call what is yielded with what each fit used.

        Args:
            number: of the trial.
            passing: what is raised where it is pruned, which is no failure.

        Raises:
            BudgetSpent: nothing is left to the team.
            LeaseLost: another attempt has the job; it has closed, or closes, the account.
        """
        with self._held() as connection:
            self._meters.check(connection, self._team)
            usage = self._meters.begin(
                connection,
                UsageKind.TRIAL,
                run=self._study,
                part=str(number),
                model=self._model,
                team=self._team,
                job=self._job.id,
                resources=self._resources,
            )
        with self._one_at_a_time:
            self._open.add(usage)
        fits: list[Used] = []
        outcome = _BROKEN
        try:
            yield lambda used: fits.append(Used.model_validate(used))
            outcome = "done"
        except passing:
            outcome = _PRUNED
            raise
        except FalajError as error:
            outcome = error.code
            raise
        finally:
            with self._one_at_a_time:
                self._open.discard(usage)
            with self._held() as connection:
                self._meters.close(connection, usage, _added(fits), outcome)

    def check(self) -> None:
        """Raise BudgetSpent if nothing is left to the team."""
        with self._database.reading() as connection:
            self._meters.check(connection, self._team)

    def alive(self, connection: Connection) -> None:
        """The trials that are under way here still run."""
        with self._one_at_a_time:
            mine = sorted(self._open)
        if mine:
            self._meters.alive(connection, mine)


def _added(fits: list[Used]) -> Used:
    return Used(
        wall_seconds=sum(one.wall_seconds for one in fits),
        cpu_seconds=sum(one.cpu_seconds for one in fits),
        peak_memory_bytes=max((one.peak_memory_bytes for one in fits), default=0),
        read_bytes=sum(one.read_bytes for one in fits),
        written_bytes=sum(one.written_bytes for one in fits),
    )
