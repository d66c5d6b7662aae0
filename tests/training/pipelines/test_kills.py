"""Whatever is killed when, each step is recorded once and the result is that of a quiet run."""

import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from falaj.kernel.jobs import Worker, job_rows
from falaj.kernel.outbox import outbox_events
from falaj.training.pipelines.tables import pipeline_steps

CHAIN = """
from falaj.declare import FromTable, Pipeline, ToTable, step

def a(flights):
    return flights.num_rows

def b(a, platform):
    run = platform.runs.start("killed", name="one")
    return {"run": run.id, "a": a}

def c(a):
    import pyarrow as pa
    return pa.table({"n": [a, a + 1]})

def d(b, c):
    return b["a"] + c.num_rows

chain = Pipeline.of(
    "chain",
    step(a, takes={"flights": FromTable(table="flights")}),
    b,
    step(c, writes=ToTable(table="chained", mode="append")),
    d,
    parallel=2,
)
"""
PLAIN = """
from falaj.declare import Pipeline, step

def only():
    return {given}

{name} = Pipeline.of("{name}", step(only, retries=0, cached=False))
"""
WORKER = """
import sys, threading
from datetime import timedelta
from falaj.kernel.settings import Settings
from falaj.wiring.assembly import assemble
from falaj.wiring.pipelineparts import work_on_pipelines

made = assemble(Settings.read(sys.argv[1], job_lease_seconds=1), process=f"w{sys.argv[2]}")
stopped = threading.Event()
print("ready", flush=True)
work_on_pipelines(made, stopped)
threading.Event().wait()
"""


def worker(house, number):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(house.folder), str(number)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def settled(house, run, seconds):
    """The run, once it has ended or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = house.platform.pipelines.get(run)
        if found.state.ended:
            return found
        time.sleep(0.05)
    return house.platform.pipelines.get(run)


def kill(house, n_kills, chance):
    name = house.declare(CHAIN)
    before = house.made.lake.count("chained") if house.made.lake.exists("chained") else 0
    n_runs = len(house.platform.runs.list("killed"))
    run = house.platform.pipelines.run(name)
    for number in range(n_kills):
        process = worker(house, number)
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 1.2))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    last = worker(house, "last")
    try:
        found = settled(house, run.id, 60)
    finally:
        last.kill()
        last.communicate()
    assert found.state == "done", found.error
    assert {one.step: str(one.state) for one in found.steps} == dict.fromkeys("abcd", "done")
    assert house.platform.pipelines.read(run.id, "d") == 5
    assert house.made.lake.count("chained") == before + 2
    assert len(house.platform.runs.list("killed")) == n_runs + 1
    with house.made.database.reading() as connection:
        n_rows = connection.execute(
            select(func.count()).where(pipeline_steps.c.run == run.id)
        ).scalar()
    assert n_rows == 4


def test_a_worker_that_is_killed_leaves_a_run_that_goes_on_and_does_nothing_twice(house):
    kill(house, 1, random.Random(1))


class PowerCut(BaseException):
    """The worker is gone: nothing is told, nothing is cleaned up."""


class Cut(Worker):
    """A worker that is lost after its handler and before it can end the job."""

    def _end(self, *_args, **_named):
        raise PowerCut


def begun(house, name, given):
    """A run that is the only work that waits."""
    declared = house.declare(PLAIN.format(name=name, given=given))
    house.work()
    return house.platform.pipelines.run(declared)


def followed(house, run):
    """Have a worker lost at the end of a run, and its job done by another; the run."""
    with pytest.raises(PowerCut):
        Cut(house.made.jobs, house.made.handlers, name="cut").run_one()
    mine = job_rows.c.id == house.platform.pipelines.get(run.id).job
    with house.made.database.transaction() as connection:
        over = house.made.jobs.clock.now() - timedelta(seconds=1)
        connection.execute(update(job_rows).where(mine).values(leased_until=over))
    house.work()
    return house.platform.pipelines.get(run.id)


def ends_of(house, run):
    """The events that told of the end of a run."""
    with house.made.database.reading() as connection:
        rows = connection.execute(select(outbox_events.c.type, outbox_events.c.payload)).all()
    wanted = ("pipeline.done", "pipeline.failed", "pipeline.cancelled")
    return [row.type for row in rows if row.type in wanted and row.payload["run"] == run.id]


def job_of(house, run):
    return house.platform.jobs.get(house.platform.pipelines.get(run.id).job)


def test_a_run_that_ended_before_its_worker_could_say_so_ends_once(house):
    run = begun(house, "plain", "1")
    found = followed(house, run)
    assert (found.state, ends_of(house, run)) == ("done", ["pipeline.done"])
    assert (job_of(house, run).state, job_of(house, run).result["steps"]) == ("done", 1)


def test_a_run_that_failed_before_its_worker_could_say_so_runs_no_step_again(house):
    run = begun(house, "broken", "1 / 0")
    found = followed(house, run)
    assert (found.state, ends_of(house, run)) == ("failed", ["pipeline.failed"])
    assert [one.attempts for one in found.steps] == [1]
    job = job_of(house, run)
    assert (job.state, job.error["message"]) == ("failed", found.error["message"])


def test_a_lost_job_leaves_a_run_that_somebody_let_go_on_under_another(house):
    run = begun(house, "let_on", "1 / 0")
    lost = job_of(house, run)
    with pytest.raises(PowerCut):
        Cut(house.made.jobs, house.made.handlers, name="cut").run_one()
    house.platform.pipelines.retry(run.id)
    with house.made.database.transaction() as connection:
        mine = job_rows.c.id == lost.id
        over = house.made.jobs.clock.now() - timedelta(seconds=1)
        connection.execute(update(job_rows).where(mine).values(leased_until=over))
    house.work()
    assert "goes on as the job" in house.platform.jobs.get(lost.id).error["message"]
    found = house.platform.pipelines.get(run.id)
    assert [one.attempts for one in found.steps] == [2]
    assert ends_of(house, run) == ["pipeline.failed"] * 2


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_workers_that_are_killed_at_any_moment_leave_one_effect_of_each_step(house, seed):
    kill(house, 1 + seed % 3, random.Random(seed))
