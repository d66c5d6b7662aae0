"""Checks by a schedule, each time once, as whoever applied the definition.

A time of a schedule is a row, written in the transaction that submits the check's job: so two
workers that see the same time begin one check. Its definition is locked meanwhile: so do two of
which one sees the next time already. The job asks the door with a key that is made of
the time: so a worker that is killed after the check and before it could say so leaves one check.
While a check waits for its turn no other one of its definition is begun: the times that go by
meanwhile are one check afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import delete, select, update

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.jobs import JobState
from falaj.kernel.problems import public_failure
from falaj.kernel.telemetry import logger
from falaj.operations.scheduled_model import CheckSchedule, CheckState, Look

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Definitions
    from falaj.catalog.planning import VersionedDefinition
    from falaj.kernel.call import AssetRef, Call
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import Job, Jobs
    from falaj.operations.alerts import Alerts
    from falaj.operations.model import Severity

Ask = Callable[[str, list[Any], dict[str, Any], str], Any]
"""Asks the door for an action: name, values, named values, and the key under which it is asked
once."""
Asking = Callable[[str], Ask]
"""Asks as a principal, with the roles that its account has now."""
KEPT = 1_000
"""So many checks of each definition stay on record."""
FAILING = "checks-fail"
"""The last part of the name of the alert that checks fail."""
UNKNOWN = timedelta(days=1)
"""So far back times are made up for where all that is known lies in the future."""
L = TypeVar("L", bound=Look)


@dataclass(frozen=True)
class Watched(Generic[L]):
    """What is checked by a schedule.

    Args:
        kind: of the definitions, which is also the column of ``rows`` that names them.
        actions: the first part of the names of its actions, such as ``monitors``.
        rows: the table of ``look``, with a unique index over (``kind``, ``tick``).
        look: what a row is told as.
        job: the kind of job that checks; it is given the name, as ``kind``, and ``tick``.
        schedule: of a definition; None if it has none.
        about: the subject and the severity of the alert that its checks fail.
        state: how a check ended, by what its job returned.
        kept: of what its job returned, what the row keeps.
        next_job: the id of another job that goes on, if that is what the job returned.
    """

    kind: str
    actions: str
    rows: Table
    look: type[L]
    job: str
    schedule: Callable[[Definition], CheckSchedule | None]
    about: Callable[[Definition], tuple[AssetRef, Severity]]
    state: Callable[[Any], CheckState]
    kept: Callable[[Any], Any] = lambda result: result
    next_job: Callable[[Any], str | None] = lambda _result: None


class ScheduledChecks(Generic[L]):
    """Begins the checks that are due, and keeps what became of them.

    Args:
        calls: opens the transactions.
        jobs: runs the checks.
        definitions: hold what is checked, and who applied it.
        alerts: are raised when checks fail again and again.
        watched: what is checked.
    """

    def __init__(
        self,
        calls: Calls,
        jobs: Jobs,
        definitions: Definitions,
        alerts: Alerts,
        watched: Watched[L],
    ) -> None:
        self._calls = calls
        self._jobs = jobs
        self._definitions = definitions
        self._alerts = alerts
        self._watched = watched
        self._rows = watched.rows.c
        self._log = logger(__name__)
        self._troubles: dict[tuple[str, str], str] = {}
        """Of each definition what went wrong last, so that the log says it once."""

    def run_once(self) -> int:
        """Settle the checks that ended and begin those that are due; returns how many it began.

        A definition that cannot be looked after is logged once, and holds up no other.
        """
        rows = self._watched.rows
        with self._calls.database.reading() as connection:
            kept = self.scheduled(connection)
            query = select(rows).where(self._rows.state == CheckState.WAITING)
            waiting = connection.execute(query).all()
        for row in waiting:
            name = str(getattr(row, self._watched.kind))
            with self._apart("check not settled", name):
                self._settle(name, self._look(row))
        begun = 0
        for version, _, schedule in kept:
            with self._apart("check not begun", version.name):
                begun += self._begin(version, schedule)
        return begun

    @contextmanager
    def _apart(self, what: str, name: str) -> Iterator[None]:
        """Log what goes wrong with one definition, so that the others are looked after."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            # Whatever it is (a result that is not what was expected): it is tried again.
            self._note(what, name, error)
        else:
            self._troubles.pop((what, name), None)

    def _note(self, what: str, name: str, error: Exception) -> None:
        """Log what went wrong, once: it is tried again each second."""
        told = f"{type(error).__name__}: {error}"
        if self._troubles.get((what, name)) != told:
            self._troubles[what, name] = told
            trace = None if isinstance(error, FalajError) else error
            self._log.warning(what, **{self._watched.kind: name}, error=told, exc_info=trace)

    def scheduled(
        self, connection: Connection
    ) -> list[tuple[VersionedDefinition, Definition, CheckSchedule]]:
        """The definitions that have a schedule; without those that no longer fit."""
        found = []
        for version in self._definitions.listed(connection, kind=self._watched.kind):
            read = self._read(version)
            if read is not None:
                found.append((version, *read))
        return found

    def _read(self, version: VersionedDefinition) -> tuple[Definition, CheckSchedule] | None:
        """A definition that has a schedule, with it.

        None also if what an older version of the platform took no longer fits: the log says so.
        """
        what = "a definition no longer fits, and is not checked by its schedule"
        try:
            definition = self._definitions.parsed(version)
        except FalajError as error:
            self._note(what, version.name, error)
            return None
        self._troubles.pop((what, version.name), None)
        schedule = self._watched.schedule(definition)
        return None if schedule is None else (definition, schedule)

    def checks(self, connection: Connection, name: str, *, limit: int) -> list[L]:
        """The newest checks of a definition, the newest first; raises NotFound without it."""
        self._definitions.version(connection, self._watched.kind, name)
        return self.newest(connection, name, limit=limit)

    def newest(
        self, connection: Connection, name: str, *, limit: int, until: datetime | None = None
    ) -> list[L]:
        """As ``checks``, also of a definition that is no more.

        Args:
            until: leaves out what is of later times. There are some if the clock was ahead.
        """
        query = select(self._watched.rows).where(self._of(name)).order_by(self._rows.tick.desc())
        if until is not None:
            query = query.where(self._rows.tick <= until)
        return [self._look(row) for row in connection.execute(query.limit(limit))]

    def _of(self, name: str) -> Any:
        return self._rows[self._watched.kind] == name

    def _look(self, row: Any) -> L:
        fields = self._watched.look.model_fields
        return self._watched.look.model_validate({name: getattr(row, name) for name in fields})

    def _due(
        self, connection: Connection, version: VersionedDefinition, schedule: CheckSchedule
    ) -> datetime | None:
        """The time for which a check is to be begun now."""
        now = self._calls.now()
        newest = self.newest(connection, version.name, limit=1, until=now)
        if newest and newest[0].state is CheckState.WAITING:
            return None
        # What was written while the clock was ahead must not keep checks away until then.
        past = [at for at in (version.at, *(one.tick for one in newest)) if at <= now]
        return schedule.due(max(past, default=now - UNKNOWN), now)

    def _begin(self, version: VersionedDefinition, schedule: CheckSchedule) -> int:
        with self._calls.database.reading() as connection:
            if self._due(connection, version, schedule) is None:
                return 0
        resource = f"{self._watched.kind}:{version.name}"
        action = f"{self._watched.actions}.schedule"
        with self._calls.opened(action, version.by, resource=resource) as call:
            # Another worker may be beginning a check of another time, which is not to be seen yet.
            self._definitions.hold(call.connection, self._watched.kind, version.name)
            tick = self._due(call.connection, version, schedule)
            if tick is None:
                return 0
            row = {
                "id": new_id("check"),
                self._watched.kind: version.name,
                "tick": tick,
                "job": "",
                "principal": version.by,
                "state": CheckState.WAITING,
                "asked_at": call.now,
            }
            if not insert_if_absent(call.connection, self._watched.rows, row):
                return 0
            given = {self._watched.kind: version.name, "tick": tick.isoformat()}
            job = self._jobs.submit(call, self._watched.job, given)
            self._set(call, self._rows.id == row["id"], job=job.id)
            return 1

    def _set(self, call: Call, *where: Any, **values: Any) -> int:
        changed = call.connection.execute(update(self._watched.rows).where(*where).values(**values))
        return int(changed.rowcount)

    def _settle(self, name: str, check: L) -> None:
        """Keep what became of a check whose job has ended, or is no more on record."""
        with self._calls.database.reading() as connection:
            try:
                job = self._jobs.get(connection, check.job)
            except NotFound:
                job = None
        if job is not None and not job.state.ended:
            return
        done = job if job is not None and job.state is JobState.DONE else None
        mine = (self._rows.id == check.id, self._rows.state == CheckState.WAITING)
        resource, action = f"{self._watched.kind}:{name}", f"{self._watched.actions}.settle"
        further = self._watched.next_job(done.result) if done else None
        with self._calls.opened(action, check.principal, resource=resource) as call:
            if further is not None:
                self._set(call, *mine, job=further)
                call.note(check=check.id, job=further)
                return
            told = None if done else _why_not(job)
            state = self._watched.state(done.result) if done else CheckState.FAILED
            changed = self._set(
                call,
                *mine,
                state=state,
                ended_at=job.ended_at if job else call.now,
                result=self._watched.kept(done.result) if done else None,
                error=told,
            )
            if changed:
                call.note(check=check.id, state=str(state))
                self._tell(call, name, told)
                self._forget_old(call.connection, name)

    def _tell(self, call: Call, name: str, error: Mapping[str, Any] | None) -> None:
        """Raise an alert for the last of too many failures; say that it is over after a success."""
        version = self._definitions.version(call.connection, self._watched.kind, name)
        read = self._read(version)
        if read is None:
            return
        definition, schedule = read
        alert, (subject, severity) = f"{name}:{FAILING}", self._watched.about(definition)
        if error is None:
            over = f"The {self._watched.kind} can be checked again."
            self._alerts.clear(call, name=alert, subject=subject, resolution=over)
            return
        newest = self.newest(call.connection, name, limit=schedule.alert_after, until=call.now)
        n = failed_in_a_row(newest)
        if n >= schedule.alert_after:
            message = error.get("message", "")
            self._alerts.raise_alert(
                call,
                name=alert,
                subject=subject,
                severity=severity,
                message=f"The {self._watched.kind} {name} could not be checked {n} times in a row: "
                f"{message}"[:1000],
                evidence={"error": dict(error)},
            )

    def _forget_old(self, connection: Connection, name: str) -> None:
        newest = select(self._rows.tick).where(self._of(name)).order_by(self._rows.tick.desc())
        last = connection.execute(newest.offset(KEPT).limit(1)).scalar()
        if last is not None:
            old = (self._of(name), self._rows.tick <= last)
            connection.execute(delete(self._watched.rows).where(*old))


def _why_not(job: Job | None) -> dict[str, Any]:
    """The error of a check that was not done."""
    if job is None:
        return {"code": "not-found", "message": "The job of the check is no more on record."}
    if not job.error:
        return {"code": "job-cancelled", "message": "Somebody stopped the check."}
    # It is told to receivers of alerts too: internals stay in the log of the job.
    return dict(public_failure(job.error, log=f"The log tells more of {job.id}."))


def failed_in_a_row(newest_first: Sequence[Look]) -> int:
    """How many of the checks that ended failed since the last one that did not."""
    n = 0
    for check in newest_first:
        if check.state in (CheckState.DONE, CheckState.NO_PREDICTIONS):
            break
        n += check.state is CheckState.FAILED
    return n
