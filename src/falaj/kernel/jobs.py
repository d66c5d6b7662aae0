"""Durable jobs: long work that survives the process that does it.

A job is a row. A worker leases it, renews the lease while it works, and marks it done;
when the worker dies the lease runs out and another one takes the job up again, from the
checkpoint that the handler saved last. A handler must therefore be idempotent between
its checkpoints. Failures that may pass are retried with growing waits.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    String,
    Table,
    Text,
    and_,
    false,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from falaj.kernel.call import Call, acting
from falaj.kernel.clock import Clock
from falaj.kernel.database import Database, Instant, Json, metadata
from falaj.kernel.errors import Conflict, FalajError, NotFound
from falaj.kernel.fairqueue import Claim, FairQueue, TeamState
from falaj.kernel.ids import new_id
from falaj.kernel.problems import INTERNAL
from falaj.kernel.telemetry import logger

job_rows = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(100), nullable=False),
    Column("arguments", Json, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("submitted_by", String(200), nullable=False),
    Column("submitted_at", Instant, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("leased_by", String(100)),
    Column("leased_until", Instant),
    Column("progress", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("checkpoint", Json),
    Column("cancel_asked", Integer, nullable=False),
    Column("result", Json),
    Column("error", Json),
    Column("ended_at", Instant),
    # What the fair queue knows of it; a job without a team is taken in order of submission.
    Column("team", String(63)),
    Column("priority", Integer, nullable=False, server_default="50"),
    Column("cpu_thousandths", Integer, nullable=False, server_default="0"),
    Column("gpu_thousandths", Integer, nullable=False, server_default="0"),
    Column("spot", Boolean, nullable=False, server_default=false()),
    Column("begun_at", Instant),
    Column("reclaim_asked", Boolean, nullable=False, server_default=false()),
)


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if the job will not change any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Job(BaseModel):
    """A durable job as its users see it."""

    id: str
    kind: str
    arguments: dict[str, Any]
    state: JobState
    submitted_by: str
    submitted_at: datetime
    attempts: int
    progress: float
    """From 0 to 1."""
    message: str
    result: Any = None
    error: dict[str, Any] | None = None
    ended_at: datetime | None = None
    team: str | None = None
    """Whose share of the machines it takes; None: it waits in no queue."""
    priority: int = 50
    """Within the team: greater goes first."""
    begun_at: datetime | None = None
    """When its last attempt began."""


class JobCancelled(FalajError):
    """Raised inside a handler when somebody asked to stop the job."""

    code = "job-cancelled"


class LeaseLost(FalajError):
    """Raised inside a handler when another worker has taken the job over."""

    code = "lease-lost"


class JobTakenAway(FalajError):
    """Raised inside a handler when the spot resources of the job are taken away."""

    code = "job-taken-away"
    retryable = True


class JobRun:
    """A running job, as its handler sees it."""

    def __init__(
        self,
        jobs: Jobs,
        job_id: str,
        worker: str,
        submitted_by: str,
        checkpoint: Any,
        attempt: int = 1,
    ) -> None:
        self._jobs = jobs
        self.id = job_id
        self.attempt = attempt
        """Which attempt this is, from 1; of two that run side by side the later is greater."""
        self._worker = worker
        self.submitted_by = submitted_by
        self.checkpoint = checkpoint
        """What the handler saved last, or None on a first attempt."""

    def report(
        self, progress: float, message: str = "", *, connection: Connection | None = None
    ) -> None:
        """Say how far the work is (0 to 1), and renew the lease.

        Given a connection, this is part of that transaction, which a worker that has lost the
        lease cannot commit.

        Raises:
            JobCancelled: somebody asked to stop.
            LeaseLost: another worker has the job now.
        """
        told = {"progress": progress, "message": message}
        if connection is not None:
            self._jobs.renew(connection, self.id, self._worker, **told)
            return
        with self._jobs.database.transaction() as own:
            self._jobs.renew(own, self.id, self._worker, **told)

    def hold(self, connection: Connection) -> None:
        """Renew the lease in a transaction, whatever was asked of the job.

        Raises:
            LeaseLost: another worker has the job now.
        """
        self._jobs.hold(connection, self.id, self._worker)

    def check(self) -> None:
        """Raise as ``report`` does, without writing anything."""
        with self._jobs.database.reading() as connection:
            self._jobs.held(connection, self.id, self._worker)

    def save(self, checkpoint: Any, *, connection: Connection | None = None) -> None:
        """Keep a checkpoint (JSON) from which a later attempt goes on.

        Given a connection, the checkpoint is part of that transaction.
        """
        if connection is not None:
            self._jobs.save(connection, self.id, self._worker, checkpoint)
        else:
            with self._jobs.database.transaction() as own:
                self._jobs.save(own, self.id, self._worker, checkpoint)
        self.checkpoint = checkpoint


def ready(kinds: list[str] | None, now: datetime) -> Any:
    """The condition for a job that may be taken; None: of any kind."""
    takeable = or_(
        and_(job_rows.c.state == JobState.WAITING, job_rows.c.not_before <= now),
        and_(job_rows.c.state == JobState.RUNNING, job_rows.c.leased_until < now),
    )
    return takeable if kinds is None else and_(job_rows.c.kind.in_(kinds), takeable)


Handler = Callable[[JobRun, Mapping[str, Any]], Any]
"""Does the work of a job; returns a JSON-ready result."""

RETRYABLE_WAIT = timedelta(seconds=1)
LEASE = timedelta(seconds=30)


class Jobs:
    """Submits, leases and ends jobs."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        lease: timedelta = LEASE,
        queue: FairQueue | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self.lease = lease
        self.queue = queue or FairQueue()

    def submit(
        self,
        call: Call,
        kind: str,
        arguments: Mapping[str, Any],
        *,
        max_attempts: int = 5,
        claim: Claim | None = None,
    ) -> Job:
        """Add a job in the call's transaction; it starts after the commit.

        With a claim it waits in its team's queue. Raises QuotaTooSmall if it could never begin.
        """
        claimed: dict[str, Any] = {}
        if claim is not None:
            self.queue.check(claim)
            claimed = {
                "team": claim.team,
                "priority": claim.priority,
                "cpu_thousandths": claim.need.cpu_thousandths,
                "gpu_thousandths": claim.need.gpu_thousandths,
                "spot": claim.resources.spot,
            }
        job_id = new_id("job")
        call.connection.execute(
            insert(job_rows).values(
                id=job_id,
                kind=kind,
                arguments=dict(arguments),
                state=JobState.WAITING,
                submitted_by=call.principal.id,
                submitted_at=call.now,
                not_before=call.now,
                attempts=0,
                max_attempts=max_attempts,
                progress=0.0,
                message="",
                cancel_asked=0,
                **claimed,
            )
        )
        call.note(job=job_id)
        return self.get(call.connection, job_id)

    def get(self, connection: Connection, job_id: str) -> Job:
        """One job; raises NotFound."""
        row = connection.execute(select(job_rows).where(job_rows.c.id == job_id)).first()
        if row is None:
            raise NotFound(f"There is no job {job_id!r}.", hint="`falaj jobs list` shows all.")
        return _job(row)

    def listed(
        self, connection: Connection, *, state: JobState | None = None, limit: int = 100
    ) -> list[Job]:
        """The newest jobs first."""
        query = select(job_rows).order_by(job_rows.c.submitted_at.desc()).limit(limit)
        if state is not None:
            query = query.where(job_rows.c.state == state)
        return [_job(row) for row in connection.execute(query)]

    def cancel(self, connection: Connection, job_id: str) -> Job:
        """Ask a job to stop: a waiting one ends at once, a running one at its next report."""
        job = self.get(connection, job_id)
        if job.state.ended:
            raise Conflict(f"The job {job_id} has already ended ({job.state}).")
        values: dict[str, Any] = {"cancel_asked": 1}
        if job.state is JobState.WAITING:
            values |= {"state": JobState.CANCELLED, "ended_at": self.clock.now()}
        connection.execute(update(job_rows).where(job_rows.c.id == job_id).values(**values))
        return self.get(connection, job_id)

    def take(self, connection: Connection, worker: str, kinds: list[str]) -> Job | None:
        """Lease a job that waits, or whose worker has let its lease run out.

        Of jobs without a team the oldest; of the others what the fair queue chooses; between
        the two, whichever was submitted first.
        """
        now = self.clock.now()
        row = self._next(connection, ready(kinds, now), now)
        if row is None:
            return None
        exhausted = row.state == JobState.RUNNING and row.attempts >= row.max_attempts
        values: dict[str, Any] = (
            {
                "state": JobState.FAILED,
                "ended_at": now,
                "error": {
                    "code": "worker-lost",
                    "message": f"The worker was lost {row.attempts} times while it ran this job.",
                },
            }
            if exhausted
            else {
                "state": JobState.RUNNING,
                "attempts": row.attempts + 1,
                "leased_by": worker,
                "leased_until": now + self.lease,
                "begun_at": now,
                "reclaim_asked": False,
            }
        )
        if row.team is not None:
            self.queue.begun(connection, row, now)
        connection.execute(update(job_rows).where(job_rows.c.id == row.id).values(**values))
        return None if exhausted else self.get(connection, row.id)

    def _next(self, connection: Connection, may_be_taken: Any, now: datetime) -> Any:
        choice = self.queue.choice(connection, job_rows, may_be_taken, now)
        for head in choice.never:
            self._never(connection, head.id, head.team)
        oldest = (
            select(job_rows)
            .where(may_be_taken, job_rows.c.team.is_(None))
            .order_by(job_rows.c.submitted_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = connection.execute(oldest).first()
        if choice.begins is None:
            return row
        found = connection.execute(
            select(job_rows).where(job_rows.c.id == choice.begins.id, may_be_taken)
        ).first()
        if row is None or (found is not None and found.submitted_at <= row.submitted_at):
            return found
        return row

    def _never(self, connection: Connection, job_id: str, team: str) -> None:
        told = {
            "code": "quota-too-small",
            "message": f"The job asks for more than the team {team!r} may use at one time now.",
        }
        values = {"state": JobState.FAILED, "ended_at": self.clock.now(), "error": told}
        connection.execute(update(job_rows).where(job_rows.c.id == job_id).values(**values))

    def teams(self, connection: Connection) -> list[TeamState]:
        """Where the teams stand in the queue."""
        waiting = job_rows.c.state == JobState.WAITING
        return self.queue.states(connection, job_rows, waiting, self.clock.now())

    def held(self, connection: Connection, job_id: str, worker: str) -> None:
        """Raise JobCancelled, JobTakenAway or LeaseLost if the worker should stop."""
        row = connection.execute(
            select(
                job_rows.c.leased_by,
                job_rows.c.state,
                job_rows.c.cancel_asked,
                job_rows.c.reclaim_asked,
            ).where(job_rows.c.id == job_id)
        ).first()
        if row is None or row.leased_by != worker or row.state != JobState.RUNNING:
            raise LeaseLost(f"The job {job_id} is no longer leased by {worker}.")
        if row.cancel_asked:
            raise JobCancelled(f"Somebody asked to stop the job {job_id}.")
        if row.reclaim_asked:
            raise JobTakenAway(f"The spot resources of the job {job_id} were taken away.")

    def renew(self, connection: Connection, job_id: str, worker: str, **values: Any) -> None:
        """Renew a lease; raises as ``held`` does."""
        done = connection.execute(
            update(job_rows)
            .where(
                _held_by(job_id, worker),
                job_rows.c.cancel_asked == 0,
                job_rows.c.reclaim_asked.is_(False),
            )
            .values(leased_until=self.clock.now() + self.lease, **values)
        )
        if not done.rowcount:
            self.held(connection, job_id, worker)

    def hold(self, connection: Connection, job_id: str, worker: str) -> None:
        """Renew the lease of a job whose handler works, also while it is asked to stop.

        Raises:
            LeaseLost: another worker has the job now.
        """
        done = connection.execute(
            update(job_rows)
            .where(_held_by(job_id, worker))
            .values(leased_until=self.clock.now() + self.lease)
        )
        if not done.rowcount:
            raise LeaseLost(f"The job {job_id} is no longer leased by {worker}.")

    def save(self, connection: Connection, job_id: str, worker: str, checkpoint: Any) -> None:
        """Keep a checkpoint; raises as ``renew`` does."""
        self.renew(connection, job_id, worker, checkpoint=checkpoint)

    def end(
        self, connection: Connection, job_id: str, worker: str, state: JobState, **values: Any
    ) -> None:
        """End a job that this worker still holds; without effect otherwise."""
        self._charged(connection, job_id, worker)
        connection.execute(
            update(job_rows)
            .where(_held_by(job_id, worker))
            .values(state=state, ended_at=self.clock.now(), leased_until=None, **values)
        )

    def retry_later(
        self, connection: Connection, job_id: str, worker: str, wait: timedelta, error: Any
    ) -> None:
        """Give a job back, to be taken again after a wait."""
        self._charged(connection, job_id, worker)
        connection.execute(
            update(job_rows)
            .where(job_rows.c.id == job_id, job_rows.c.leased_by == worker)
            .values(
                state=JobState.WAITING,
                not_before=self.clock.now() + wait,
                leased_by=None,
                leased_until=None,
                error=error,
            )
        )

    def give_back(self, connection: Connection, job_id: str, worker: str) -> None:
        """Give a job back whose resources were taken away: that was no attempt of its own."""
        self._charged(connection, job_id, worker)
        connection.execute(
            update(job_rows)
            .where(job_rows.c.id == job_id, job_rows.c.leased_by == worker)
            .values(
                state=JobState.WAITING,
                attempts=job_rows.c.attempts - 1,
                not_before=self.clock.now(),
                leased_by=None,
                leased_until=None,
                reclaim_asked=False,
                message="its spot resources were taken away; it goes on when there are some",
            )
        )

    def _charged(self, connection: Connection, job_id: str, worker: str) -> None:
        row = connection.execute(
            select(job_rows).where(
                _held_by(job_id, worker),
                job_rows.c.team.is_not(None),
            )
        ).first()
        if row is not None:
            self.queue.ended(connection, row, self.clock.now())


class Worker:
    """Takes jobs and runs their handlers, one at a time, until it is told to stop."""

    def __init__(self, jobs: Jobs, handlers: Mapping[str, Handler], *, name: str) -> None:
        self._jobs = jobs
        self._handlers = dict(handlers)
        self.name = name
        self._log = logger(__name__)

    def run_one(self) -> bool:
        """Take and run one job; False if there was none."""
        with self._jobs.database.transaction() as connection:
            job = self._jobs.take(connection, self.name, list(self._handlers))
        if job is None:
            return False
        self._run(job)
        return True

    def run_until(self, stopped: threading.Event, *, idle_seconds: float = 0.2) -> None:
        """Work until ``stopped`` is set."""
        while not stopped.is_set():
            try:
                worked = self.run_one()
            except FalajError as error:
                self._log.warning("worker cannot take jobs", error=str(error))
                worked = False
            if not worked:
                stopped.wait(idle_seconds)

    def _run(self, job: Job) -> None:
        with self._jobs.database.reading() as connection:
            checkpoint = connection.execute(
                select(job_rows.c.checkpoint).where(job_rows.c.id == job.id)
            ).scalar()
        run = JobRun(
            self._jobs, job.id, self.name, job.submitted_by, checkpoint, attempt=job.attempts
        )
        kept = threading.Event()
        keeper = threading.Thread(target=self._keep_lease, args=(job.id, kept), daemon=True)
        keeper.start()
        try:
            with acting(job.submitted_by):
                result = self._handlers[job.kind](run, job.arguments)
        except JobCancelled:
            self._end(job, JobState.CANCELLED, message="cancelled")
        except JobTakenAway:
            with self._jobs.database.transaction() as connection:
                self._jobs.give_back(connection, job.id, self.name)
        except LeaseLost:
            self._log.warning("lease lost", job=job.id)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything; it is recorded
            self._failed(job, error)
        else:
            self._end(job, JobState.DONE, result=result, progress=1.0, error=None)
        finally:
            kept.set()
            keeper.join()

    def _keep_lease(self, job_id: str, kept: threading.Event) -> None:
        """Renew the lease while a handler works without reporting.

        Also when it was asked to stop: until it has heard of that, nobody else may begin the
        job, and what it uses counts.
        """
        interval = self._jobs.lease.total_seconds() / 3
        while not kept.wait(interval):
            try:
                with self._jobs.database.transaction() as connection:
                    self._jobs.hold(connection, job_id, self.name)
            except LeaseLost:
                return  # the handler learns of it at its next report
            except FalajError as error:
                self._log.warning("lease not renewed", job=job_id, error=str(error))

    def _failed(self, job: Job, error: Exception) -> None:
        told = (
            {"code": error.code, "message": error.message, "hint": error.hint}
            if isinstance(error, FalajError)
            else {"code": INTERNAL, "message": f"{type(error).__name__}: {error}"}
        )
        terminal = isinstance(error, FalajError) and not error.retryable
        if terminal:  # the input's fault, which its message tells in full
            self._log.warning("job failed", job=job.id, **told)
        else:
            self._log.error("job failed", job=job.id, trace=traceback.format_exc(), **told)
        if terminal or job.attempts >= _max_attempts(self._jobs, job.id):
            self._end(job, JobState.FAILED, error=told)
            return
        wait = RETRYABLE_WAIT * 2 ** (job.attempts - 1)
        with self._jobs.database.transaction() as connection:
            self._jobs.retry_later(connection, job.id, self.name, wait, told)

    def _end(self, job: Job, state: JobState, **values: Any) -> None:
        with self._jobs.database.transaction() as connection:
            self._jobs.end(connection, job.id, self.name, state, **values)


def _held_by(job_id: str, worker: str) -> Any:
    """The condition for a job that runs and is leased by this worker."""
    return and_(
        job_rows.c.id == job_id,
        job_rows.c.leased_by == worker,
        job_rows.c.state == JobState.RUNNING,
    )


def _max_attempts(jobs: Jobs, job_id: str) -> int:
    with jobs.database.reading() as connection:
        found = connection.execute(
            select(job_rows.c.max_attempts).where(job_rows.c.id == job_id)
        ).scalar()
    return int(found or 0)


def _job(row: Any) -> Job:
    values = {name: getattr(row, name) for name in Job.model_fields}
    return Job.model_validate(values)
