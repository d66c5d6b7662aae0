"""Spot resources: jobs that asked for them may lose them, and go on later."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.errors import Conflict
from falaj.kernel.jobs import Job, Jobs, JobState, job_rows, ready


def reclaim(jobs: Jobs, connection: Connection, job_id: str) -> Job:
    """Take the spot resources of a running job away; it waits again and goes on later.

    Raises:
        NotFound: there is no such job.
        Conflict: it does not run, or not on spot resources.
    """
    mine = job_rows.c.id == job_id
    job = jobs.get(connection, job_id)
    spot = connection.execute(select(job_rows.c.spot).where(mine)).scalar()
    if job.state is not JobState.RUNNING or not spot:
        raise Conflict(
            f"The job {job_id} does not run on spot resources.",
            hint="Only a running job that asked for them (resources.spot) can lose them.",
        )
    connection.execute(update(job_rows).where(mine).values(reclaim_asked=True))
    return job


def any_spot(connection: Connection) -> bool:
    """True if a job runs on spot resources."""
    found = select(job_rows.c.id).where(
        job_rows.c.state == JobState.RUNNING, job_rows.c.spot.is_(True)
    )
    return connection.execute(found.limit(1)).first() is not None


def make_room(jobs: Jobs, connection: Connection, after: timedelta) -> str | None:
    """Take spot resources away if another job has waited for so long; returns from whom.

    The spot job that began last loses them; one at a time.
    """
    now = jobs.clock.now()
    spot = and_(
        job_rows.c.state == JobState.RUNNING,
        job_rows.c.spot.is_(True),
        job_rows.c.leased_until >= now,
    )
    running = connection.execute(
        select(job_rows.c.id, job_rows.c.reclaim_asked)
        .where(spot)
        .order_by(job_rows.c.begun_at.desc())
    ).all()
    if not running or any(row.reclaim_asked for row in running):
        return None
    choice = jobs.queue.choice(connection, job_rows, ready(None, now), now, lock=False)
    if choice.begins is None or choice.begins.spot:
        return None
    since = connection.execute(
        select(job_rows.c.not_before).where(job_rows.c.id == choice.begins.id)
    ).scalar_one()
    if now - since < after:
        return None
    return reclaim(jobs, connection, str(running[0].id)).id
