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
    Column,
    Float,
    Integer,
    String,
    Table,
    Text,
    and_,
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


class JobCancelled(FalajError):
    """Raised inside a handler when somebody asked to stop the job."""

    code = "job-cancelled"


class LeaseLost(FalajError):
    """Raised inside a handler when another worker has taken the job over."""

    code = "lease-lost"


class JobRun:
    """A running job, as its handler sees it."""

    def __init__(
        self, jobs: Jobs, job_id: str, worker: str, submitted_by: str, checkpoint: Any
    ) -> None:
        self._jobs = jobs
        self.id = job_id
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


Handler = Callable[[JobRun, Mapping[str, Any]], Any]
"""Does the work of a job; returns a JSON-ready result."""

RETRYABLE_WAIT = timedelta(seconds=1)
LEASE = timedelta(seconds=30)


class Jobs:
    """Submits, leases and ends jobs."""

    def __init__(self, database: Database, clock: Clock, *, lease: timedelta = LEASE) -> None:
        self.database = database
        self.clock = clock
        self.lease = lease

    def submit(
        self, call: Call, kind: str, arguments: Mapping[str, Any], *, max_attempts: int = 5
    ) -> Job:
        """Add a job in the call's transaction; it starts after the commit."""
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
        """Lease the oldest job that waits, or whose worker has let its lease run out."""
        now = self.clock.now()
        row = connection.execute(
            select(job_rows)
            .where(
                job_rows.c.kind.in_(kinds),
                or_(
                    and_(job_rows.c.state == JobState.WAITING, job_rows.c.not_before <= now),
                    and_(job_rows.c.state == JobState.RUNNING, job_rows.c.leased_until < now),
                ),
            )
            .order_by(job_rows.c.submitted_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()
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
            }
        )
        connection.execute(update(job_rows).where(job_rows.c.id == row.id).values(**values))
        return None if exhausted else self.get(connection, row.id)

    def renew(self, connection: Connection, job_id: str, worker: str, **values: Any) -> None:
        """Renew a lease; raises JobCancelled or LeaseLost."""
        done = connection.execute(
            update(job_rows)
            .where(
                job_rows.c.id == job_id,
                job_rows.c.leased_by == worker,
                job_rows.c.state == JobState.RUNNING,
                job_rows.c.cancel_asked == 0,
            )
            .values(leased_until=self.clock.now() + self.lease, **values)
        )
        if done.rowcount:
            return
        row = connection.execute(
            select(job_rows.c.leased_by, job_rows.c.state).where(job_rows.c.id == job_id)
        ).first()
        if row is None or row.leased_by != worker or row.state != JobState.RUNNING:
            raise LeaseLost(f"The job {job_id} is no longer leased by {worker}.")
        raise JobCancelled(f"Somebody asked to stop the job {job_id}.")

    def save(self, connection: Connection, job_id: str, worker: str, checkpoint: Any) -> None:
        """Keep a checkpoint; raises as ``renew`` does."""
        self.renew(connection, job_id, worker, checkpoint=checkpoint)

    def end(
        self, connection: Connection, job_id: str, worker: str, state: JobState, **values: Any
    ) -> None:
        """End a job that this worker still holds; without effect otherwise."""
        connection.execute(
            update(job_rows)
            .where(
                job_rows.c.id == job_id,
                job_rows.c.leased_by == worker,
                job_rows.c.state == JobState.RUNNING,
            )
            .values(state=state, ended_at=self.clock.now(), leased_until=None, **values)
        )

    def retry_later(
        self, connection: Connection, job_id: str, worker: str, wait: timedelta, error: Any
    ) -> None:
        """Give a job back, to be taken again after a wait."""
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
        run = JobRun(self._jobs, job.id, self.name, job.submitted_by, checkpoint)
        kept = threading.Event()
        keeper = threading.Thread(target=self._keep_lease, args=(job.id, kept), daemon=True)
        keeper.start()
        try:
            with acting(job.submitted_by):
                result = self._handlers[job.kind](run, job.arguments)
        except JobCancelled:
            self._end(job, JobState.CANCELLED, message="cancelled")
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
        """Renew the lease while a handler works without reporting."""
        interval = self._jobs.lease.total_seconds() / 3
        while not kept.wait(interval):
            try:
                with self._jobs.database.transaction() as connection:
                    self._jobs.renew(connection, job_id, self.name)
            except (JobCancelled, LeaseLost):
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


def _max_attempts(jobs: Jobs, job_id: str) -> int:
    with jobs.database.reading() as connection:
        found = connection.execute(
            select(job_rows.c.max_attempts).where(job_rows.c.id == job_id)
        ).scalar()
    return int(found or 0)


def _job(row: Any) -> Job:
    values = {name: getattr(row, name) for name in Job.model_fields}
    return Job.model_validate(values)
