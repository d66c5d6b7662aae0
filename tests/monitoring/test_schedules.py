"""Monitors that check by themselves: each time once, and failures are told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import delete, select, update

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.tables import definition_versions
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.errors import NotFound, Unavailable
from falaj.kernel.jobs import Jobs, Worker, job_rows
from falaj.kernel.outbox import Outbox
from falaj.monitoring.model import Monitor, NoPredictions
from falaj.monitoring.schedules import CheckJob, MonitorSchedules
from falaj.monitoring.schedulewords import CHECK_JOB, CheckSchedule, CheckState
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.operations.model import AlertState
from falaj.serving.model import Endpoint
from falaj.testing.fakes import MemoryAudit

BEGIN = datetime(2026, 11, 9, 8, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


class House:
    """The parts of schedules, with a door that answers what a test wants."""

    def __init__(self, database: Database) -> None:
        self.clock = SetClock(BEGIN)
        self.database = database
        self.catalog = Catalog()
        kinds = {"monitor": Monitor, "endpoint": Endpoint}
        self.definitions = Definitions(self.catalog, kinds, {})
        self.calls = Calls(database, MemoryAudit(), Outbox(), self.clock)
        self.jobs = Jobs(database, self.clock)
        self.alerts = Alerts(self.catalog, Incidents(self.catalog))
        self.schedules = self.other()
        self.error: Exception | None = None
        self.asked: list[tuple[Any, ...]] = []

    def other(self) -> MonitorSchedules:
        """The schedules as another process sees them."""
        return MonitorSchedules(self.calls, self.jobs, self.definitions, self.alerts)

    def declare(self, schedule: CheckSchedule | None, principal: str = "user:amina") -> None:
        with self.calls.opened("test.declare", principal) as call:
            self.catalog.record(call, AssetRef("model", "delay"))
            endpoint = Endpoint(name="delays", model="delay")
            watch = Monitor(name="watch", endpoint="delays", schedule=schedule)
            self.definitions.apply(call, [endpoint, watch])

    def asking(self, principal: str) -> Any:
        def ask(name: str, values: list[Any], named: dict[str, Any], key: str) -> Any:
            self.asked.append((principal, name, *values, named["until"], key))
            if self.error is not None:
                raise self.error
            return {"findings": []}

        return ask

    def work(self) -> None:
        worker = Worker(self.jobs, {CHECK_JOB: CheckJob(self.asking)}, name="test")
        while worker.run_one():
            pass

    def look(self, *, after: timedelta = HOUR) -> int:
        """Look after a while, and have done what was begun; how many checks that were."""
        self.clock.move(after)
        begun = self.schedules.run_once()
        self.work()
        self.schedules.run_once()
        return begun

    def alert_states(self) -> list[AlertState]:
        with self.database.reading() as connection:
            return [one.state for one in self.alerts.listed(connection)]


@pytest.fixture
def house(sqlite_database: Database) -> House:
    return House(sqlite_database)


def test_a_check_is_begun_when_its_time_has_come_as_whoever_applied_the_monitor(
    house: House,
) -> None:
    house.declare(CheckSchedule(cron="0 * * * *"), "user:omar")
    assert house.schedules.run_once() == 0
    assert house.look() == 1
    tick = "2026-11-09T09:00:00+00:00"
    assert house.asked == [("user:omar", "monitors.check", "watch", tick, f"check:watch:{tick}")]
    with house.database.reading() as connection:
        (check,) = house.schedules.checks(connection, "watch", limit=9)
        (told,) = house.schedules.listed(connection)
    assert (check.state, check.principal, check.result) == (
        CheckState.DONE, "user:omar", {"findings": []},
    )  # fmt: skip
    assert (told.next_at, told.last, told.n_failed) == (BEGIN + timedelta(hours=1.5), check, 0)


def test_times_that_were_missed_are_one_check_for_the_last_of_them(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    assert house.look(after=100 * HOUR) == 1
    assert house.look(after=timedelta(minutes=29)) == 0
    assert [one[3] for one in house.asked] == ["2026-11-13T12:00:00+00:00"]


def test_two_workers_that_see_one_time_begin_one_check(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    house.clock.move(HOUR)
    assert [house.other().run_once() for _ in range(3)] == [1, 0, 0]
    with house.database.reading() as connection:
        assert len(connection.execute(select(job_rows)).all()) == 1


def test_two_workers_that_both_saw_that_a_check_is_due_begin_one(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    house.clock.move(HOUR)
    first, second = house.other(), house.other()
    meant = second._calls

    class Between(Calls):
        """Lets the first worker begin its check after the second has looked."""

        def opened(self, *args: Any, **named: Any) -> Any:
            assert first.run_once() == 1
            return meant.opened(*args, **named)

    second._calls = Between(house.database, MemoryAudit(), Outbox(), house.clock)
    assert second.run_once() == 0
    with house.database.reading() as connection:
        assert len(connection.execute(select(job_rows)).all()) == 1


def test_two_workers_on_either_side_of_a_time_begin_one_check(database: Database) -> None:
    house = House(database)
    house.declare(CheckSchedule(every=HOUR))
    house.clock.move(HOUR)
    asked, other_ended = threading.Event(), threading.Event()

    class Slow(Jobs):
        """Lets another worker look before this one's check is committed."""

        def submit(self, *args: Any, **named: Any) -> Any:
            job = super().submit(*args, **named)
            asked.set()
            other_ended.wait(0.5)
            return job

    first, second = house.other(), house.other()
    first._jobs = Slow(database, house.clock)
    later = SetClock(house.clock.now() + HOUR)
    second._calls = Calls(database, MemoryAudit(), Outbox(), later)

    def look() -> int:
        assert asked.wait(30)
        begun = second.run_once()
        other_ended.set()
        return begun

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(look)
        assert (first.run_once(), other.result(30)) == (1, 0)
    with database.reading() as connection:
        (check,) = house.schedules.checks(connection, "watch", limit=9)
    assert check.tick == BEGIN + HOUR / 2


def test_while_a_check_waits_no_other_of_its_monitor_is_begun(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    house.clock.move(HOUR)
    assert house.schedules.run_once() == 1
    house.clock.move(5 * HOUR)
    assert house.schedules.run_once() == 0
    house.work()
    assert house.schedules.run_once() == 1


def test_failures_alert_after_as_many_in_a_row_as_declared_and_a_success_ends_the_alert(
    house: House,
) -> None:
    house.declare(CheckSchedule(every=HOUR, alert_after=2))
    house.error = NotFound("There is nothing to measure.")
    house.look()
    assert house.alert_states() == []
    house.look()
    assert house.alert_states() == [AlertState.OPEN]
    with house.database.reading() as connection:
        (alert,) = house.alerts.listed(connection)
        (told,) = house.schedules.listed(connection)
    assert "2 times in a row: There is nothing to measure." in alert.message
    assert told.n_failed == 2
    house.error = None
    house.look()
    assert house.alert_states() == [AlertState.RESOLVED]


def test_an_alert_tells_receivers_nothing_of_the_inside_of_what_failed(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR, alert_after=1))
    house.error = OSError("/secret/place on db.internal: no route")  # type: ignore[assignment]
    for _ in range(8):  # its job is tried again first
        house.look()
    with house.database.reading() as connection:
        (alert,) = house.alerts.listed(connection)
        known = house.schedules.checks(connection, "watch", limit=9)
    check = next(one for one in known if one.error is not None)
    for told in (alert.message, str(alert.evidence), str(check.error)):
        assert "secret" not in told
        assert "db.internal" not in told
    assert check.job in str(check.error)


def test_an_endpoint_without_predictions_is_no_failure_however_long(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR, alert_after=1))
    house.error = NoPredictions("'delays' has no logged predictions.")
    for _ in range(3):
        house.look()
    assert house.alert_states() == []
    with house.database.reading() as connection:
        (told,) = house.schedules.listed(connection)
    assert told.n_failed == 0
    assert told.last is not None
    assert (told.last.state, told.last.error) == (CheckState.NO_PREDICTIONS, None)
    assert told.last.result == {"nothing": ["'delays' has no logged predictions."]}


def test_what_may_pass_is_tried_again_within_one_check(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR, alert_after=1))
    house.error = Unavailable("The lake is away.")
    house.look()
    house.error = None
    house.clock.move(timedelta(minutes=1))
    house.work()
    house.schedules.run_once()
    assert len(house.asked) == 2
    assert len({one[-1] for one in house.asked}) == 1
    assert house.alert_states() == []


def test_a_monitor_without_a_schedule_is_the_document_that_it_was(house: House) -> None:
    assert "schedule" not in Monitor(name="watch", endpoint="delays").document()
    house.declare(None)
    assert house.look(after=100 * HOUR) == 0
    with house.database.reading() as connection:
        assert house.schedules.listed(connection) == []


def test_a_monitor_that_cannot_be_looked_after_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.declare(CheckSchedule(every=HOUR))
    with house.calls.opened("test.declare", "user:amina") as call:
        other = Monitor(name="a-first", endpoint="delays", schedule=CheckSchedule(every=HOUR))
        house.definitions.apply(call, [other])
    begin = MonitorSchedules._begin

    def broken(self: MonitorSchedules, version: Any, schedule: CheckSchedule) -> int:
        if version.name == "a-first":
            raise Unavailable("It is away.")
        return begin(self, version, schedule)

    monkeypatch.setattr(MonitorSchedules, "_begin", broken)
    house.clock.move(HOUR)
    assert house.schedules.run_once() == 1


def test_a_monitor_that_no_longer_parses_is_logged_once_and_holds_up_no_other(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.declare(CheckSchedule(every=HOUR))
    with house.calls.opened("test.declare", "user:amina") as call:
        other = Monitor(name="a-first", endpoint="delays", schedule=CheckSchedule(every=HOUR))
        house.definitions.apply(call, [other])
    house.clock.move(HOUR)
    assert house.schedules.run_once() == 2
    house.work()
    broken = {"kind": "monitor", "name": "a-first", "endpoint": "delays", "gone": 1}
    with house.database.transaction() as connection:
        table = definition_versions
        connection.execute(update(table).where(table.c.name == "a-first").values(document=broken))
    assert [house.look() for _ in range(3)] == [1, 1, 1]
    with house.database.reading() as connection:
        (check,) = house.schedules.checks(connection, "a-first", limit=9)
        (listed,) = house.schedules.listed(connection)
    assert (check.state, listed.monitor) == (CheckState.DONE, "watch")
    assert "".join(capsys.readouterr()).count("no longer fits") == 1


def test_a_result_that_cannot_be_kept_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.declare(CheckSchedule(every=HOUR))
    with house.calls.opened("test.declare", "user:amina") as call:
        other = Monitor(name="a-first", endpoint="delays", schedule=CheckSchedule(every=HOUR))
        house.definitions.apply(call, [other])
    settle = MonitorSchedules._settle

    def broken(self: MonitorSchedules, name: str, check: Any) -> None:
        if name == "a-first":
            raise KeyError("results")
        settle(self, name, check)

    monkeypatch.setattr(MonitorSchedules, "_settle", broken)
    assert [house.look(), house.look()] == [2, 1]


def test_a_check_whose_job_is_no_more_has_failed_and_the_next_one_is_begun(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    house.clock.move(HOUR)
    assert house.schedules.run_once() == 1
    with house.database.transaction() as connection:
        connection.execute(delete(job_rows))
    assert house.look() == 1
    with house.database.reading() as connection:
        done, lost = house.schedules.checks(connection, "watch", limit=9)
    assert (done.state, lost.state) == (CheckState.DONE, CheckState.FAILED)
    assert lost.error == {
        "code": "not-found", "message": "The job of the check is no more on record.",
    }  # fmt: skip
    assert lost.ended_at == BEGIN + 2 * HOUR


YEAR = timedelta(days=365)


@pytest.mark.parametrize("done", [True, False])
def test_a_clock_that_was_ahead_for_a_while_keeps_no_check_and_no_alert_away(
    house: House, done: bool
) -> None:
    house.declare(CheckSchedule(every=HOUR, alert_after=2))
    house.clock.move(YEAR)
    assert house.schedules.run_once() == 1
    if done:
        house.work()
        house.schedules.run_once()
    house.clock.move(-YEAR)
    house.error = NotFound("There is nothing to measure.")
    assert [house.look(), house.look()] == [1, 1]
    assert house.alert_states() == [AlertState.OPEN]
    with house.database.reading() as connection:
        (told,) = house.schedules.listed(connection)
    assert told.n_failed == 2


@pytest.mark.parametrize("schedule", [CheckSchedule(every=HOUR), CheckSchedule(cron="0 * * * *")])
def test_a_monitor_that_was_applied_while_the_clock_was_ahead_is_checked_now(
    house: House, schedule: CheckSchedule
) -> None:
    house.clock.move(YEAR)
    house.declare(schedule)
    house.clock.move(-YEAR)
    assert [house.look(), house.look(), house.look(after=HOUR / 10)] == [1, 1, 0]


def test_a_monitor_that_is_applied_without_its_schedule_checks_no_more(house: House) -> None:
    house.declare(CheckSchedule(every=HOUR))
    house.declare(None)
    assert house.look(after=100 * HOUR) == 0


@pytest.mark.parametrize(
    "wrong", [{}, {"cron": "0 0 * * *", "every": HOUR}, {"cron": "0 0 30 2 *"}, {"every": 0}]
)
def test_what_is_no_schedule_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CheckSchedule.model_validate(wrong)


@given(seconds=st.integers(1, 10**6), after=st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_the_next_time_is_due_when_it_has_come_and_not_before(
    seconds: int, after: timedelta
) -> None:
    schedule, now = CheckSchedule(every=timedelta(seconds=seconds)), BEGIN + after
    following = schedule.after(now)
    assert now < following <= now + timedelta(seconds=seconds)
    assert schedule.due(now, following) == following
    assert schedule.due(now, following - timedelta(microseconds=1)) is None
