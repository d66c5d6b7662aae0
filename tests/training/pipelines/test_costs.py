"""Steps of pipelines are charged with the journal, and stop when their team's budget is spent."""

import os
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, update
from tests.training.pipelines.conftest import House

from falaj.kernel.jobs import Worker, job_rows
from falaj.kernel.problems import INTERNAL
from falaj.kernel.resources import GIB
from falaj.training.adapters.steps_local import LocalSteps
from falaj.training.costs.budgets import BudgetSpent
from falaj.training.costs.ledger import OPEN
from falaj.training.costs.model import Prices
from falaj.training.costs.tables import usage_rows
from falaj.training.pipelines import stepcosts
from falaj.training.pipelines.execution import Execution
from falaj.training.pipelines.values import Values

TWO = """
from falaj.declare import Pipeline, step

def slow():
    import time
    until = time.process_time() + 0.2
    while time.process_time() < until:
        sum(range(1000))
    return 1

def wrong(slow):
    raise ValueError("it is wrong")

two = Pipeline.of("NAME", step(slow, cached=True), step(wrong, retries=0), memory_bytes=MEMORY)
""".replace("MEMORY", str(2 * GIB))


@pytest.fixture(scope="module")
def priced(house):
    house.platform.costs.set_prices(
        Prices(currency="AED", cpu_hour=Decimal(3600), memory_gib_hour=Decimal(1800))
    )
    return house


def usages(house, run):
    return {one.part: one for one in house.platform.costs.usage(run=run)}


def test_each_step_that_is_computed_is_charged_for_the_time_that_it_took(priced):
    name = priced.declare(TWO.replace("NAME", "two"))
    run = priced.run(name)
    found = usages(priced, run.id)
    slow, wrong = found["slow"], found["wrong"]
    assert (slow.kind, slow.model, slow.outcome, slow.job) == ("step", "", "done", run.job)
    assert slow.used.cpu_seconds >= 0.2
    assert slow.used.peak_memory_bytes > 0
    # A second of a core and of two GiB costs 1 + 2 x 0.5.
    held = (slow.ended_at - slow.begun_at).total_seconds()
    assert held >= 0.2
    assert float(slow.charges[0].amount) == pytest.approx(2 * held, abs=1e-5)
    assert wrong.outcome == "step-failed"
    lines = {one.name: one for one in priced.platform.costs.report(by="run").lines}
    assert lines[run.id].n_attempts == 2
    assert lines[run.id].amounts[0].amount == sum(one.charges[0].amount for one in found.values())
    kinds = {one.name for one in priced.platform.costs.report(by="kind").lines}
    assert kinds == {"step"}


def test_what_comes_from_the_cache_costs_nothing(priced):
    name = priced.declare(TWO.replace("NAME", "again"))
    priced.run(name)
    again = priced.run(name)
    assert set(usages(priced, again.id)) == {"wrong"}


WAITS = """
from falaj.declare import Pipeline, step

def quick():
    return 1

def waits(quick):
    import time
    time.sleep(3)
    return 2

two = Pipeline.of("waits", step(quick, cached=False), step(waits, cached=False))
"""


def test_what_had_ended_is_charged_when_the_machine_is_taken_away(priced, monkeypatch):
    monkeypatch.setattr(stepcosts, "_WRITTEN_SECONDS", 3600.0)  # nothing is due meanwhile
    run = priced.platform.pipelines.run(priced.declare(WAITS))

    def reclaimed():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            steps = priced.platform.pipelines.get(run.id).steps
            if any((one.step, str(one.state)) == ("waits", "running") for one in steps):
                break
            time.sleep(0.05)
        with priced.made.database.transaction() as connection:
            mine = job_rows.c.id == run.job
            connection.execute(update(job_rows).where(mine).values(reclaim_asked=True))

    asking = threading.Thread(target=reclaimed, daemon=True)
    asking.start()
    assert Worker(priced.made.jobs, priced.made.handlers, name="taken away").run_one()
    asking.join(60)
    before = {name: one.outcome for name, one in usages(priced, run.id).items()}
    assert before == {"quick": "done", "waits": "job-taken-away"}
    priced.work()
    assert priced.platform.pipelines.get(run.id).state == "done"
    parts = [(one.part, one.outcome) for one in priced.platform.costs.usage(run=run.id)]
    assert sorted(parts) == [("quick", "done"), ("waits", "done"), ("waits", "job-taken-away")]


def test_what_had_ended_is_charged_when_the_platform_meets_a_fault(priced, monkeypatch):
    monkeypatch.setattr(stepcosts, "_WRITTEN_SECONDS", 3600.0)  # nothing is due meanwhile
    run = priced.platform.pipelines.run(priced.declare(CHAIN.replace('"chain"', '"faulty"')))
    finished = Execution.finished

    def faulty(self):
        finished(self)
        raise OSError("the disk is gone")

    with monkeypatch.context() as while_faulty:
        while_faulty.setattr(Execution, "finished", faulty)
        assert Worker(priced.made.jobs, priced.made.handlers, name="faulty").run_one()
    assert {name: one.outcome for name, one in usages(priced, run.id).items()} == {
        "first": "done", "second": "done",
    }  # fmt: skip


def test_the_open_account_of_a_step_is_closed_when_its_runner_meets_a_fault(priced, monkeypatch):
    monkeypatch.setattr(stepcosts, "_WRITTEN_SECONDS", 0.0)  # an account opens with its step
    run = priced.platform.pipelines.run(priced.declare(CHAIN.replace('"chain"', '"torn"')))
    opened = []

    def torn(self, task, ask):
        mine = usage_rows.c.job == run.job
        with priced.made.database.reading() as connection:
            opened.extend(connection.execute(select(usage_rows.c.outcome).where(mine)).scalars())
        raise OSError("the pipe is gone")

    with monkeypatch.context() as while_torn:
        while_torn.setattr(LocalSteps, "run", torn)
        worker = Worker(priced.made.jobs, priced.made.handlers, name="torn")
        while not opened:  # other jobs may wait as well
            assert worker.run_one()
    assert opened == [OPEN]
    assert {name: one.outcome for name, one in usages(priced, run.id).items()} == {
        "first": INTERNAL
    }


LONG = """
from falaj.declare import Pipeline, step

def long():
    import time
    time.sleep(60)

one = Pipeline.of("NAME", step(long))
"""


@contextmanager
def limited(folder, core_hours):
    """A house whose team has so many core-hours each month."""
    name = "FALAJ_QUEUE__TEAMS"
    os.environ[name] = f'[{{"name": "everyone", "core_hours_per_month": {core_hours}}}]'
    try:
        made = House(folder)
    finally:
        del os.environ[name]
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def poor(tmp_path_factory):
    """A house whose team may use a millionth of a core-hour, 3.6 ms, each month."""
    with limited(tmp_path_factory.mktemp("poor"), 1e-6) as made:
        yield made


CHAIN = """
from falaj.declare import Pipeline, step

def first():
    return 1

def second(first, weight):
    return first * weight

chain = Pipeline.of("chain", step(first, cached=True), second, parameters={"weight": 2})
"""


def test_a_step_whose_input_was_forgotten_is_charged_for_each_begin_until_it_stops(
    tmp_path_factory, monkeypatch
):
    with limited(tmp_path_factory.mktemp("rich"), 1000) as rich:
        name = rich.declare(CHAIN)
        rich.run(name)
        fetched, forgotten = Values.fetched, []

        def late(values, value):
            if not forgotten:
                forgotten.append(value.digest)
                values._blobs.forget(value.digest)
            return fetched(values, value)

        monkeypatch.setattr(Values, "fetched", late)
        run = rich.run(name, weight=3)
        assert (run.state, len(forgotten)) == ("done", 1)
        found = rich.platform.costs.usage(run=run.id)
        parts = sorted((one.part, one.outcome) for one in found)
        assert parts == [("first", "done"), ("second", "done"), ("second", "input-forgotten")]
        of = {one.outcome: one for one in found if one.part == "second"}
        assert of["input-forgotten"].ended_at <= of["done"].begun_at
        with rich.made.database.reading() as connection:
            open_ones = connection.execute(select(usage_rows).where(usage_rows.c.outcome == OPEN))
            assert open_ones.all() == []


def test_a_team_whose_budget_is_spent_runs_no_step_and_no_pipeline(poor):
    name = poor.declare(TWO.replace("NAME", "two"))
    run = poor.run(name)
    steps = {one.step: str(one.state) for one in run.steps}
    assert (run.state, steps) == ("failed", {"slow": "done"})
    assert run.error["code"] == "budget-spent"
    assert "everyone" in run.error["message"]
    with pytest.raises(BudgetSpent, match="core-hours"):
        poor.platform.pipelines.run(name)
    with pytest.raises(BudgetSpent, match="core-hours"):
        poor.platform.pipelines.retry(run.id)


@pytest.mark.nightly
def test_a_step_that_runs_is_stopped_when_the_budget_is_spent(poor):
    begun = time.monotonic()
    run = poor.run(poor.declare(LONG.replace("NAME", "long")))
    assert time.monotonic() - begun < 30
    assert (run.state, run.error["code"]) == ("failed", "budget-spent")
    (usage,) = poor.platform.costs.usage(run=run.id)
    assert (usage.part, usage.outcome) == ("long", "failed")
    assert usage.ended_at - usage.begun_at >= timedelta(seconds=4)
