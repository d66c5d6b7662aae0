"""Durable jobs: leased, retried, resumed after a kill, cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, FalajError, InvalidInput, NotFound, Unavailable
from falaj.kernel.jobs import (
    Job,
    JobCancelled,
    JobRun,
    Jobs,
    JobState,
    JobTakenAway,
    LeaseLost,
    Worker,
    job_rows,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Shop:
    def __init__(self, database: Database, make_call: Any) -> None:
        self.database = database
        self.clock = SetClock(NOW)
        self.jobs = Jobs(database, self.clock)
        self._make_call = make_call

    def submit(self, kind: str = "count", **values: Any) -> Job:
        options = {"max_attempts": values.pop("max_attempts", 5)}
        with self._make_call(self.database, "user:amina", now=self.clock.now()) as call:
            return self.jobs.submit(call, kind, values, **options)

    def get(self, job_id: str) -> Job:
        with self.database.reading() as connection:
            return self.jobs.get(connection, job_id)

    def worker(self, handler: Any, name: str = "w1", kind: str = "count") -> Worker:
        return Worker(self.jobs, {kind: handler}, name=name)


@pytest.fixture
def shop(database: Database, make_call: Any) -> Shop:
    return Shop(database, make_call)


def test_a_job_runs_once_and_keeps_its_result(shop: Shop) -> None:
    job = shop.submit(to=3)
    worker = shop.worker(lambda _run, arguments: {"sum": sum(range(arguments["to"] + 1))})
    assert worker.run_one()
    assert not worker.run_one()
    ended = shop.get(job.id)
    assert (ended.state, ended.result, ended.progress) == (JobState.DONE, {"sum": 6}, 1.0)
    assert ended.submitted_by == "user:amina"


def test_a_failure_that_may_pass_is_tried_again_later(shop: Shop) -> None:
    attempts: list[int] = []

    def handler(_run: JobRun, _arguments: Mapping[str, Any]) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise Unavailable("The lake is away.")
        return "there"

    job = shop.submit()
    worker = shop.worker(handler)
    assert worker.run_one()
    assert not worker.run_one(), "it waits before it tries again"
    shop.clock.move(timedelta(seconds=1))
    assert worker.run_one()
    shop.clock.move(timedelta(seconds=1))
    assert not worker.run_one(), "the wait grows"
    shop.clock.move(timedelta(seconds=1))
    assert worker.run_one()
    assert shop.get(job.id).result == "there"


def test_a_failure_that_will_not_pass_ends_the_job_with_its_reason(shop: Shop) -> None:
    def handler(_run: JobRun, _arguments: Mapping[str, Any]) -> None:
        raise InvalidInput("The file is empty.", hint="Write something.")

    job = shop.submit()
    shop.worker(handler).run_one()
    ended = shop.get(job.id)
    assert ended.state is JobState.FAILED
    assert ended.error == {
        "code": "invalid-input",
        "message": "The file is empty.",
        "hint": "Write something.",
    }


def test_an_unexpected_error_is_tried_as_often_as_permitted(shop: Shop) -> None:
    def handler(_run: JobRun, _arguments: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("oops")

    job = shop.submit(max_attempts=2)
    worker = shop.worker(handler)
    assert worker.run_one()
    shop.clock.move(timedelta(seconds=5))
    assert worker.run_one()
    ended = shop.get(job.id)
    assert ended.state is JobState.FAILED
    assert ended.error == {"code": "internal", "message": "ZeroDivisionError: oops"}


def test_a_job_whose_worker_is_lost_goes_on_from_its_checkpoint(shop: Shop) -> None:
    job = shop.submit()
    with shop.database.transaction() as connection:
        taken = shop.jobs.take(connection, "lost", ["count"])
        assert taken is not None
        shop.jobs.save(connection, job.id, "lost", {"done": 7})
    seen: list[Any] = []
    worker = shop.worker(lambda run, _arguments: seen.append(run.checkpoint), name="second")
    assert not worker.run_one(), "the lease still holds"
    shop.clock.move(timedelta(seconds=31))
    assert worker.run_one()
    assert seen == [{"done": 7}]
    assert shop.get(job.id).attempts == 2


def test_a_worker_that_lost_its_lease_cannot_end_the_job(shop: Shop) -> None:
    job = shop.submit()

    def handler(run: JobRun, _arguments: Mapping[str, Any]) -> str:
        shop.clock.move(timedelta(seconds=31))
        with shop.database.transaction() as connection:
            assert shop.jobs.take(connection, "other", ["count"]) is not None
        with pytest.raises(LeaseLost):
            run.report(0.5)
        return "too late"

    shop.worker(handler).run_one()
    assert shop.get(job.id).state is JobState.RUNNING
    assert shop.get(job.id).result is None


def test_a_job_that_loses_every_worker_fails(shop: Shop) -> None:
    job = shop.submit(max_attempts=1)
    with shop.database.transaction() as connection:
        shop.jobs.take(connection, "lost", ["count"])
    shop.clock.move(timedelta(seconds=31))
    assert not shop.worker(lambda _run, _arguments: None).run_one()
    ended = shop.get(job.id)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "worker-lost"


def test_a_waiting_job_is_cancelled_at_once(shop: Shop) -> None:
    job = shop.submit()
    with shop.database.transaction() as connection:
        shop.jobs.cancel(connection, job.id)
    assert not shop.worker(lambda _run, _arguments: None).run_one()
    assert shop.get(job.id).state is JobState.CANCELLED
    with pytest.raises(Conflict), shop.database.transaction() as connection:
        shop.jobs.cancel(connection, job.id)


def test_a_running_job_stops_at_its_next_report(shop: Shop) -> None:
    job = shop.submit()
    reached: list[str] = []

    def handler(run: JobRun, _arguments: Mapping[str, Any]) -> None:
        run.report(0.1, "started")
        with shop.database.transaction() as connection:
            shop.jobs.cancel(connection, job.id)
        try:
            run.report(0.2)
        except JobCancelled:
            reached.append("told")
            raise
        reached.append("went on")

    shop.worker(handler).run_one()
    assert reached == ["told"]
    assert shop.get(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("asked", "heard"), [("cancel_asked", JobCancelled), ("reclaim_asked", JobTakenAway)]
)
def test_a_job_that_is_asked_to_stop_is_nobody_elses_until_its_handler_has_heard(
    shop: Shop, asked: str, heard: type[FalajError]
) -> None:
    job = shop.submit()
    shop.jobs.lease = timedelta(seconds=0.3)  # the keeper looks each tenth of a second
    mine = job_rows.c.id == job.id
    reached: list[str] = []

    def renewed(until: float) -> bool:
        """Whether the keeper renews the lease after the clock was moved."""
        while time.monotonic() < until:
            with shop.database.reading() as connection:
                found = connection.execute(select(job_rows.c.leased_until).where(mine)).scalar()
            if found == shop.clock.now() + shop.jobs.lease:
                return True
            time.sleep(0.02)
        return False

    def handler(run: JobRun, _arguments: Mapping[str, Any]) -> None:
        with shop.database.transaction() as connection:
            connection.execute(update(job_rows).where(mine).values({asked: True}))
        until = time.monotonic() + 5
        for _ in range(3):
            shop.clock.move(shop.jobs.lease * 0.9)
            assert renewed(until)
        with shop.database.transaction() as connection:
            assert shop.jobs.take(connection, "other", ["count"]) is None
        with pytest.raises(heard):
            run.report(0.5)
        with pytest.raises(heard):
            run.check()
        reached.append("told")
        run.report(0.5)

    shop.worker(handler).run_one()
    assert reached == ["told"]
    ended = shop.get(job.id)
    wanted = JobState.CANCELLED if heard is JobCancelled else JobState.WAITING
    assert ended.state is wanted, ended.error


def test_a_checkpoint_is_part_of_the_transaction_that_it_is_given(shop: Shop) -> None:
    job = shop.submit()

    def handler(run: JobRun, _arguments: Mapping[str, Any]) -> Any:
        with pytest.raises(ZeroDivisionError), shop.database.transaction() as connection:
            run.save({"half": True}, connection=connection)
            raise ZeroDivisionError
        run.save({"whole": True})
        return run.checkpoint

    shop.worker(handler).run_one()
    assert shop.get(job.id).result == {"whole": True}


def test_two_workers_never_take_the_same_job(shop: Shop) -> None:
    done: list[str] = []
    for _ in range(20):
        shop.submit()
    stopped = threading.Event()
    workers = [
        shop.worker(lambda run, _arguments: done.append(run.id), name=f"w{number}")
        for number in range(3)
    ]
    threads = [
        threading.Thread(target=worker.run_until, args=(stopped,), kwargs={"idle_seconds": 0.01})
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 60
    while len(done) < 20 and time.monotonic() < patience:
        time.sleep(0.01)
    stopped.set()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == 20


def test_jobs_are_listed_newest_first_and_by_state(shop: Shop) -> None:
    first = shop.submit()
    shop.clock.move(timedelta(seconds=1))
    second = shop.submit()
    shop.worker(lambda _run, _arguments: None).run_one()
    with shop.database.reading() as connection:
        assert [job.id for job in shop.jobs.listed(connection)] == [second.id, first.id]
        waiting = shop.jobs.listed(connection, state=JobState.WAITING)
        assert [job.id for job in waiting] == [second.id]
        with pytest.raises(NotFound):
            shop.jobs.get(connection, "job_unknown")


_VICTIM = """
import sys, time
from datetime import timedelta
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.jobs import Jobs, Worker

def handler(run, arguments):
    for step in range(run.checkpoint or 0, 50):
        with open(sys.argv[2], "a") as out:
            out.write(f"{step}\\n")
        run.save(step + 1)
        time.sleep(0.01)
    return "all"

jobs = Jobs(Database(sys.argv[1]), SystemClock(), lease=timedelta(seconds=0.6))
worker = Worker(jobs, {"count": handler}, name=f"p{time.time_ns()}")
while not worker.run_one():
    time.sleep(0.05)
"""


def test_a_killed_worker_process_is_followed_by_another_that_finishes(
    sqlite_database: Database, make_call: Any, tmp_path: Path
) -> None:
    jobs = Jobs(sqlite_database, SystemClock())
    with make_call(sqlite_database, "user:amina") as call:
        job = jobs.submit(call, "count", {})
    out = tmp_path / "steps"
    command = [sys.executable, "-c", _VICTIM, str(sqlite_database.url.database), str(out)]
    command[3] = f"sqlite:///{sqlite_database.url.database}"
    victim = subprocess.Popen(command)
    patience = time.monotonic() + 30
    while not (out.exists() and len(out.read_text().splitlines()) > 5):
        assert time.monotonic() < patience
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    subprocess.run(command, check=True, timeout=60)
    with sqlite_database.reading() as connection:
        ended = jobs.get(connection, job.id)
    assert (ended.state, ended.result, ended.attempts) == (JobState.DONE, "all", 2)
    steps = [int(line) for line in out.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(50))
    assert len(steps) - 50 <= 1, "at most the step without its checkpoint is done again"
