"""The fair queue on both databases: order, quotas under many workers, kill -9, spot."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict
from falaj.kernel.fairqueue import Claim, FairQueue, QuotaTooSmall, share_rows
from falaj.kernel.fairshare import Quota
from falaj.kernel.jobs import Job, JobRun, Jobs, JobState, JobTakenAway, Worker, job_rows
from falaj.kernel.resources import Resources
from falaj.kernel.spot import any_spot, make_room, reclaim
from falaj.testing.calls import opened_call

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
QUOTAS = {"amber": Quota(max_runs=2), "basalt": Quota(weight=2, max_cpu_thousandths=3000)}


class Hall:
    """Jobs of teams and their workers."""

    def __init__(self, database: Database, clock: Any = None) -> None:
        self.database = database
        self.clock = clock or SetClock(NOW)
        self.quotas = dict(QUOTAS)
        self.held: dict[str, str] = {}
        queue = FairQueue(
            lambda team: self.quotas.get(team, Quota()),
            lambda _connection, team: self.held.get(team),
        )
        self.jobs = Jobs(database, self.clock, queue=queue)

    def submit(self, team: str | None, **more: Any) -> Job:
        priority = more.pop("priority", 50)
        claim = None
        if team is not None:
            claim = Claim(team=team, priority=priority, resources=Resources(**more))
        with opened_call(self.database, "user:amina", now=self.clock.now()) as call:
            return self.jobs.submit(call, "run", {}, claim=claim)

    def take(self, worker: str = "w") -> Job | None:
        with self.database.transaction() as connection:
            return self.jobs.take(connection, worker, ["run"])

    def end(self, job: Job, worker: str = "w", seconds: float = 0) -> None:
        if seconds:
            self.clock.move(timedelta(seconds=seconds))
        with self.database.transaction() as connection:
            self.jobs.end(connection, job.id, worker, JobState.DONE)

    def get(self, job: Job) -> Job:
        with self.database.reading() as connection:
            return self.jobs.get(connection, job.id)

    def empty(self) -> None:
        with self.database.transaction() as connection:
            connection.execute(delete(job_rows))
            connection.execute(delete(share_rows))


@pytest.fixture
def hall(database: Database) -> Hall:
    return Hall(database)


def test_within_a_team_priority_goes_first_then_age(hall: Hall) -> None:
    first = hall.submit("coral")
    hall.clock.move(timedelta(seconds=1))
    urgent = hall.submit("coral", priority=90)
    idle = hall.submit("coral", priority=10)
    assert [hall.take().id for _ in range(3)] == [urgent.id, first.id, idle.id]


def test_teams_take_turns_however_many_jobs_one_of_them_has(hall: Hall) -> None:
    for _ in range(6):
        hall.submit("coral")
    hall.clock.move(timedelta(minutes=1))
    for _ in range(3):
        hall.submit("dune")
    taken = []
    for _ in range(6):
        job = hall.take()
        taken.append(job.team)
        hall.end(job, seconds=60)
    assert Counter(taken) == {"coral": 3, "dune": 3}
    assert all(one != other for one, other in itertools.pairwise(taken))


def test_a_quota_holds_and_others_go_on(hall: Hall) -> None:
    for _ in range(3):
        hall.submit("amber")
    hall.submit("coral")
    running = [hall.take() for _ in range(3)]
    assert Counter(job.team for job in running) == {"amber": 2, "coral": 1}
    assert hall.take() is None
    hall.end(next(job for job in running if job.team == "amber"))
    assert hall.take().team == "amber"


def test_a_job_that_fits_no_quota_is_refused_when_it_is_submitted(hall: Hall) -> None:
    with pytest.raises(QuotaTooSmall, match="4 cores, and the quota is 3"):
        hall.submit("basalt", cpus=4)


def test_a_job_for_which_the_quota_became_too_small_fails_and_blocks_nobody(hall: Hall) -> None:
    large, small = hall.submit("coral", cpus=8), hall.submit("coral", cpus=1)
    hall.quotas["coral"] = Quota(max_cpu_thousandths=2000)
    assert hall.take() is None
    assert hall.get(large).error["code"] == "quota-too-small"
    assert hall.take().id == small.id


def test_nothing_of_a_team_begins_while_it_is_held(hall: Hall) -> None:
    job = hall.submit("coral")
    hall.held["coral"] = "its budget is spent"
    assert hall.take() is None
    with hall.database.reading() as connection:
        (state,) = hall.jobs.teams(connection)
    assert (state.team, state.n_waiting, state.held) == ("coral", 1, "its budget is spent")
    hall.held.clear()
    assert hall.take().id == job.id


def test_jobs_without_a_team_and_jobs_of_teams_go_by_their_age(hall: Hall) -> None:
    order = [hall.submit(None)]
    for team in ("coral", None, "coral"):
        hall.clock.move(timedelta(seconds=1))
        order.append(hall.submit(team))
    assert [hall.take().id for _ in range(4)] == [job.id for job in order]


def test_a_lost_workers_job_leaves_its_quota_and_is_taken_again(hall: Hall) -> None:
    hall.quotas["coral"] = Quota(max_runs=1)
    first, second = hall.submit("coral"), hall.submit("coral")
    assert hall.take("lost").id == first.id
    assert hall.take("other") is None
    hall.clock.move(timedelta(seconds=31))
    again = hall.take("other")
    assert (again.id, again.attempts) == (first.id, 2)
    hall.end(again, "other")
    assert hall.take("other").id == second.id


def test_a_spot_job_is_taken_away_for_one_that_waits_and_goes_on_later(hall: Hall) -> None:
    hall.jobs.lease = timedelta(hours=1)
    spot = hall.submit("coral", spot=True)
    attempts: list[Any] = []

    def handler(run: JobRun, _arguments: Any) -> str:
        attempts.append(run.checkpoint)
        if len(attempts) > 1:
            return "done"
        run.save({"step": 3})
        waits = hall.submit("dune")
        with hall.database.transaction() as connection:
            assert any_spot(connection)
            assert make_room(hall.jobs, connection, timedelta(seconds=60)) is None
        hall.clock.move(timedelta(seconds=60))
        with hall.database.transaction() as connection:
            assert make_room(hall.jobs, connection, timedelta(seconds=60)) == run.id
            assert make_room(hall.jobs, connection, timedelta(seconds=60)) is None
        with pytest.raises(JobTakenAway):
            run.check()
        hall.end(hall.take("other"), "other")
        assert hall.get(waits).state is JobState.DONE
        run.report(0.5)
        raise AssertionError

    worker = Worker(hall.jobs, {"run": handler}, name="w")
    assert worker.run_one()
    given = hall.get(spot)
    assert (given.state, given.attempts) == (JobState.WAITING, 0)
    assert worker.run_one()
    assert attempts == [None, {"step": 3}]
    assert hall.get(spot).result == "done"


def test_only_a_running_spot_job_can_be_taken_away(hall: Hall) -> None:
    job = hall.submit("coral")
    hall.take()
    with (
        pytest.raises(Conflict, match="not run on spot"),
        hall.database.transaction() as connection,
    ):
        reclaim(hall.jobs, connection, job.id)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    teams=st.lists(st.sampled_from(("amber", "basalt", "coral")), min_size=4, max_size=14),
    n_workers=st.integers(2, 4),
)
def test_workers_side_by_side_exceed_no_quota_and_do_each_job_once(
    database: Database, teams: list[str], n_workers: int
) -> None:
    hall = Hall(database, SystemClock())
    hall.empty()
    jobs = [hall.submit(team, cpus=1.5 if team == "basalt" else 1) for team in teams]
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    done: Counter[str] = Counter()
    lock = threading.Lock()

    def handler(run: JobRun, _arguments: Any) -> None:
        team = next(job.team for job in jobs if job.id == run.id)
        with lock:
            now[team] += 1
            most[team] = max(most[team], now[team])
            done[run.id] += 1
        time.sleep(0.003)
        with lock:
            now[team] -= 1

    stopped = threading.Event()
    workers = [Worker(hall.jobs, {"run": handler}, name=f"w{n}") for n in range(n_workers)]
    threads = [
        threading.Thread(target=one.run_until, args=(stopped,), kwargs={"idle_seconds": 0.005})
        for one in workers
    ]
    for thread in threads:
        thread.start()
    patience = time.monotonic() + 30
    while len(done) < len(jobs) and time.monotonic() < patience:
        time.sleep(0.005)
    stopped.set()
    for thread in threads:
        thread.join()
    assert done == Counter(job.id for job in jobs)
    assert most["amber"] <= 2
    assert most["basalt"] <= 2, "two of 1.5 cores are 3"


KILLED = """
import sys, time
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.fairqueue import FairQueue
from falaj.kernel.fairshare import Quota
from falaj.kernel.jobs import Jobs, Worker
from datetime import timedelta

def handler(run, arguments):
    print("begun", flush=True)
    time.sleep(60)

jobs = Jobs(Database(sys.argv[1]), SystemClock(), lease=timedelta(seconds=1),
            queue=FairQueue(lambda team: Quota(max_runs=1)))
Worker(jobs, {"run": handler}, name="killed").run_one()
"""


def test_a_worker_that_is_killed_frees_its_teams_quota_for_another(tmp_path: Any) -> None:
    from falaj.kernel.database import metadata

    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    database = Database(url)
    metadata.create_all(database.engine, tables=[job_rows, share_rows])
    hall = Hall(database, SystemClock())
    hall.jobs.lease = timedelta(seconds=1)
    hall.quotas["coral"] = Quota(max_runs=1)
    for _ in range(2):
        hall.submit("coral")
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert hall.take() is None, "the team may run one at a time"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    patience = time.monotonic() + 20
    taken = None
    while taken is None and time.monotonic() < patience:
        taken = hall.take()
        time.sleep(0.05)
    assert taken is not None
    assert taken.attempts == 2
    assert hall.take() is None
    database.close()
