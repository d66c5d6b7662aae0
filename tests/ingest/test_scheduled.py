"""Contracts that are held to the whole table by a schedule."""

from __future__ import annotations

from datetime import timedelta

import pytest

from falaj.ingest.model import Contract, Source
from falaj.kernel.errors import Forbidden
from falaj.operations.scheduled_model import CheckSchedule

HOUR = timedelta(hours=1)
POSITIVE = {"check": "between", "column": "amount", "least": 0, "severity": "warn"}
FRESH = {"check": "freshness", "max_age_seconds": 7 * 3600, "severity": "warn"}


@pytest.fixture
def hourly(workshop):
    """A table of five rows under a contract that is checked each hour."""
    columns = {"id": "integer", "amount": "number"}
    source = Source(name="orders", table="orders", path="orders*.csv", columns=columns)
    workshop.apply(
        source,
        Contract(
            name="kept",
            table="orders",
            checks=(POSITIVE, FRESH),
            schedule=CheckSchedule(every=HOUR, alert_after=2),
        ),
    )
    workshop.write("orders.csv", [[str(number), "1.5"] for number in range(5)], list(columns))
    workshop.loaded("orders")
    return workshop


def test_a_whole_table_is_checked_when_its_time_has_come_as_whoever_applied_it(hourly):
    assert hourly.look(after=timedelta(0)) == 0
    assert hourly.look() == 1
    (check,) = hourly.ask("contracts.checks", contract="kept")
    assert (check.state, check.result["passed"], check.result["broken"]) == ("done", True, 0)
    tick = check.tick.isoformat()
    assert hourly.asked == [(check.principal, f"contract-check:kept:{tick}")]
    points = hourly.ask("contracts.history", contract="kept", limit=2)
    assert {(point.via, point.n_rows) for point in points} == {("check", 5)}


def test_the_listing_tells_how_many_checks_failed_at_each_of_the_last_looks(hourly):
    for _ in range(8):
        assert hourly.look() == 1
    (listed,) = hourly.ask("contracts.schedules")
    assert listed.broken == [1, 0, 0, 0, 0, 0, 0, 0]  # after eight hours it is too old
    assert listed.next_at == listed.last.tick + HOUR
    assert [alert.severity for alert in hourly.open_alerts()] == ["info"]


def test_times_at_which_no_worker_ran_are_one_check(hourly):
    assert hourly.look(after=30 * HOUR) == 1
    assert len(hourly.ask("contracts.checks", contract="kept")) == 1


def test_while_the_check_that_was_asked_for_runs_no_other_is_begun(hourly):
    hourly.clock.move(HOUR)
    assert hourly.schedules.run_once() == 1
    assert hourly.worker.run_one()  # it has asked; the check itself has not run yet
    hourly.clock.move(HOUR)
    assert hourly.schedules.run_once() == 0
    (check,) = hourly.ask("contracts.checks", contract="kept")
    assert check.state == "waiting"
    assert hourly.job(check.job).kind == "contracts.check"


def test_checks_that_are_refused_again_and_again_alert_until_one_is_done(hourly):
    hourly.refusal = Forbidden("You may not check it.")
    hourly.look()
    assert hourly.open_alerts() == []
    hourly.look()
    (alert,) = hourly.open_alerts()
    assert "could not be checked 2 times in a row: You may not check it." in alert.message
    hourly.refusal = None
    hourly.look()
    (alert,) = hourly.open_alerts()
    assert alert.state == "resolved"


def test_a_contract_without_a_schedule_is_left_to_loads(hourly):
    hourly.apply(Contract(name="kept", table="orders", checks=(POSITIVE,)))
    assert hourly.look() == 0
    assert hourly.ask("contracts.schedules") == []
