"""Trials and steps are charged like fits: same accounts, same budgets, same reports."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from falaj.kernel.resources import GIB, Resources, Used
from falaj.kernel.settings_queue import QueueSettings, TeamRule
from falaj.training.costs.budgets import Budgets, BudgetSpent
from falaj.training.costs.meters import Meters
from falaj.training.costs.model import Grouping, UsageKind
from falaj.training.costs.reports import OTHERS, PIPELINES, cost_report
from falaj.training.costs.teams import Teams

HOUR = timedelta(hours=1)
AMBER = TeamRule(name="amber", members=("user:amina",), core_hours_per_month=3)


@pytest.fixture
def meters(books):
    settings = QueueSettings(teams=(AMBER,))
    budgets = Budgets(settings, books.ledger, books.clock)
    return Meters(books.ledger, budgets, Teams(settings), settings, books.clock)


def begun(books, meters, kind=UsageKind.STEP, part="load", **given):
    with books.database.transaction() as connection:
        named = {"run": "prun_1", "model": "", "team": "amber", "job": "job_9", **given}
        resources = Resources(memory_bytes=GIB)
        return meters.begin(connection, kind, part=part, resources=resources, **named)


def closed(books, meters, usage, outcome="done"):
    with books.database.transaction() as connection:
        meters.close(connection, usage, Used(cpu_seconds=60.0), outcome)


def report(books, by, *seen):
    with books.database.reading() as connection:
        return cost_report(connection, by, *seen)


def test_parts_of_one_job_are_charged_side_by_side(books, meters):
    books.price("1")
    first, second = begun(books, meters), begun(books, meters, part="train")
    books.clock.move(HOUR)
    closed(books, meters, first)
    books.clock.move(HOUR)
    closed(books, meters, second, "step-failed")
    with books.database.reading() as connection:
        found = {one.part: one for one in books.ledger.usages(connection, run="prun_1")}
    assert {name: one.charges[0].amount for name, one in found.items()} == {"load": 1, "train": 2}
    assert found["train"].outcome == "step-failed"
    assert found["load"].used.cpu_seconds == 60.0
    assert found["load"].kind is UsageKind.STEP


def test_reports_tell_fits_trials_and_steps_apart(books, meters):
    books.price("1")
    books.fit(model="late")
    trial = begun(books, meters, UsageKind.TRIAL, "0", run="run_2", model="late")
    step = begun(books, meters)
    books.clock.move(HOUR)
    closed(books, meters, trial)
    closed(books, meters, step)
    by_kind = {one.name: one.amounts[0].amount for one in report(books, Grouping.KIND).lines}
    assert by_kind == {"fit": 1, "trial": 1, "step": 1}
    by_model = {one.name: one.amounts[0].amount for one in report(books, Grouping.MODEL).lines}
    assert by_model == {"late": 2, PIPELINES: 1}
    asked = []

    def seen(kind, name):
        asked.append((kind, name))
        return kind == "run"

    lines = report(books, Grouping.RUN, seen).lines
    assert [one.name for one in lines] == [OTHERS, "run_1", "run_2"]
    assert ("pipeline_run", "prun_1") in asked
    assert report(books, Grouping.MONTH).totals[0].amount == Decimal(3)


def test_what_a_lost_worker_left_open_ends_when_the_job_is_taken_up(books, meters):
    books.price("1")
    mine = begun(books, meters)
    books.clock.move(HOUR)
    with books.database.transaction() as connection:
        meters.alive(connection, [mine])
    books.clock.move(5 * HOUR)
    with books.database.transaction() as connection:
        meters.taken_up(connection, "job_9")
    with books.database.reading() as connection:
        (usage,) = books.ledger.usages(connection)
    assert (usage.outcome, usage.charges[0].amount) == ("lost", 1)


def test_a_sign_of_life_is_of_ones_own_accounts_alone(books, meters):
    books.price("1")
    mine, forgotten = begun(books, meters), begun(books, meters, part="forgotten")
    books.clock.move(HOUR)
    with books.database.transaction() as connection:
        meters.alive(connection, [mine])
        meters.taken_up(connection, "job_9")
    with books.database.reading() as connection:
        found = {one.id: one.ended_at - one.begun_at for one in books.ledger.usages(connection)}
    assert found == {mine: HOUR, forgotten: timedelta(0)}


def test_what_is_open_when_a_job_ends_is_charged_until_then(books, meters):
    books.price("1")
    begun(books, meters)
    books.clock.move(HOUR)
    with books.database.transaction() as connection:
        meters.close_all(connection, "job_9", "cancelled")
    with books.database.reading() as connection:
        (usage,) = books.ledger.usages(connection)
    assert (usage.outcome, usage.charges[0].amount) == ("cancelled", 1)


def test_trials_and_steps_spend_the_budget_of_fits(books, meters):
    books.fit(seconds=3600)
    step = begun(books, meters)
    trial = begun(books, meters, UsageKind.TRIAL, "0", run="run_2", model="late")
    with books.database.transaction() as connection:
        meters.check(connection, "amber")
    books.clock.move(HOUR)  # what is open counts as well
    with books.database.transaction() as connection, pytest.raises(BudgetSpent, match="amber"):
        meters.check(connection, "amber")
    closed(books, meters, step)
    closed(books, meters, trial)
    with books.database.transaction() as connection, pytest.raises(BudgetSpent, match=r"3\.00"):
        meters.admit(connection, "user:amina")
    with books.database.transaction() as connection:
        meters.admit(connection, "user:omar")


def test_a_job_without_a_place_in_the_queue_is_of_its_principals_first_team(books, meters):
    with books.database.reading() as connection:
        assert meters.team(connection, "job_unknown", "user:amina") == "amber"
        assert meters.team(connection, "job_unknown", "user:omar") != "amber"
