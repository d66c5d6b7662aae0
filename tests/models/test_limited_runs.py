"""Training jobs under limits: what exceeds them ends with the reason, and all of it is charged."""

import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.jobs import JobState
from falaj.kernel.lentcompute import LentCompute
from falaj.kernel.resources import MIB
from falaj.kernel.settings_queue import QueueSettings, TeamRule
from falaj.testing.calls import opened_call
from falaj.training.costs.budgets import Budgets
from falaj.training.costs.fits import Fits, Placing
from falaj.training.costs.ledger import Ledger
from falaj.training.costs.model import Grouping, Prices
from falaj.training.costs.reports import cost_report
from falaj.training.model import TRAIN_JOB, RunState
from falaj.wiring.computeparts import crew_members, fit_task, placed_trainers


class Limited:
    """A world whose fits run under limits."""

    def __init__(self, world, made_up, **rule):
        self.world = world
        self.made_up = made_up
        self.ledger = Ledger()
        settings = QueueSettings(teams=(TeamRule(name="everyone", **rule),))
        clock = world.jobs.clock
        self.lender = LentCompute(lambda: LocalCompute(1), 0.0)
        self.fits = Fits(
            database=world.database, clock=clock, ledger=self.ledger,
            budgets=Budgets(settings, self.ledger, clock), settings=settings,
            compute=self.lender.opened,
            place=Placing(fit_task, frozenset(placed_trainers()), crew_members()),
        )  # fmt: skip

    def request(self, **changes):
        asked = self.made_up.REQUEST.model_dump(mode="json")
        resources = {"cpus": 1, "memory_bytes": 1024 * MIB, **changes.pop("resources", {})}
        return {**asked, "resources": resources, **changes}

    def submit(self, **changes):
        return self.world.submitted(TRAIN_JOB, self.request(**changes))

    def work(self):
        worker = self.world.worker()
        worker._handlers[TRAIN_JOB].fits = self.fits
        worker.run_one()

    def ended(self, job):
        with self.world.database.reading() as connection:
            found = self.world.jobs.get(connection, job)
            (usage,) = self.ledger.usages(connection)
            return found, usage, self.world.runs.get(connection, usage.run)


@pytest.fixture
def limited(sqlite_world, made_up):
    return Limited(sqlite_world, made_up)


def test_a_training_job_under_limits_makes_its_version_and_is_charged(limited):
    with opened_call(limited.world.database) as call:
        limited.ledger.set_prices(call, Prices(currency="AED", cpu_hour=Decimal(3600)), None)
    job = limited.submit()
    limited.work()
    found, usage, run = limited.ended(job)
    assert found.state is JobState.DONE, found.error
    assert (run.state, usage.outcome, usage.model) == (
        RunState.FINISHED,
        "done",
        found.result["model"],
    )
    assert usage.used.cpu_seconds > 0
    assert 50 * MIB < usage.used.peak_memory_bytes < 1024 * MIB
    with limited.world.database.reading() as connection:
        (line,) = cost_report(connection, Grouping.RUN).lines
    seconds = (usage.ended_at - usage.begun_at) / timedelta(seconds=1)
    assert float(line.amounts[0].amount) == pytest.approx(seconds, abs=1e-5)


def test_a_training_job_that_takes_too_long_fails_with_the_reason(limited):
    job = limited.submit(resources={"seconds": 0.05})
    limited.work()
    found, usage, run = limited.ended(job)
    assert found.state is JobState.FAILED
    assert found.error["code"] == usage.outcome == "time-limit"
    assert run.state is RunState.FAILED
    assert "0.05 s that it may take" in run.tags["falaj.error"]


def test_a_cancelled_training_job_ends_within_a_second(limited):
    job = limited.submit(params={"n_trees": 100_000, "early_stopping_rounds": 100_000})
    thread = threading.Thread(target=limited.work)
    thread.start()
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        with limited.world.database.reading() as connection:
            if limited.world.jobs.get(connection, job).message.startswith("tree"):
                break
        time.sleep(0.05)
    with opened_call(limited.world.database) as call:
        limited.world.jobs.cancel(call.connection, job)
    thread.join(timeout=20)
    assert not thread.is_alive()
    found, usage, run = limited.ended(job)
    assert found.state is JobState.CANCELLED
    assert (usage.outcome, run.state) == ("job-cancelled", RunState.KILLED)


def test_a_team_without_budget_fits_nothing(sqlite_world, made_up):
    limited = Limited(sqlite_world, made_up, core_hours_per_month=0)
    job = limited.submit()
    limited.work()
    with limited.world.database.reading() as connection:
        found = limited.world.jobs.get(connection, job)
    assert found.error["code"] == "budget-spent"


def test_several_workers_need_a_trainer_that_can_and_an_open_network(limited):
    for changes, told in (
        ({}, "switched off"),
        ({"trainer": "sklearn", "params": {}}, "does not fit on several workers"),
    ):
        job = limited.submit(resources={"workers": 2}, **changes)
        limited.work()
        with limited.world.database.reading() as connection:
            assert told in limited.world.jobs.get(connection, job).error["message"]
