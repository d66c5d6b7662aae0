"""What starts runs: the clock, new data, events, back-fills; each once, as whoever asked."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.clock import SetClock
from falaj.kernel.cron import Cron
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.training.pipelines.schedules import Schedules

HEAD = "from falaj.declare import Cron, FromTable, NewData, OnEvent, Pipeline, step\n"
BODY = """
def told(since, until, event):
    return [since, until, event]

NAME = Pipeline.of("NAME", told, parameters={"since": "", "until": "", "event": {}},
                   triggers=(TRIGGER,))
"""
DAY = timedelta(days=1)
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "wanted"),
    [
        ("30 2 * * *", "Europe/Berlin", "2025-03-29T12:00",
         ["2025-03-30T01:00", "2025-03-31T00:30"]),
        ("30 2 * * *", "Europe/Berlin", "2025-10-25T12:00",
         ["2025-10-26T00:30", "2025-10-27T01:30"]),
        ("0 0 29 2 *", "UTC", "2025-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("0 6 1 * mon", "Asia/Dubai", "2025-03-30T00:00", ["2025-03-31T02:00", "2025-04-01T02:00"]),
        ("*/30 9 * * 1-5", "UTC", "2025-03-28T09:00", ["2025-03-28T09:30", "2025-03-31T09:00"]),
        ("@monthly", "UTC", "2025-01-31T10:00", ["2025-02-01T00:00", "2025-03-01T00:00"]),
    ],
)  # fmt: skip
def test_a_cron_expression_means_local_times_with_changes_of_clocks(
    expression, zone, after, wanted
):
    found = islice(Cron(expression, zone).after(datetime.fromisoformat(after + "+00:00")), 2)
    assert [one.strftime("%Y-%m-%dT%H:%M") for one in found] == wanted


@pytest.mark.parametrize(
    "wrong", ["* * * *", "60 * * * *", "0 0 30 2 *", "a * * * *", "*/0 * * * *", "5-1 * * * *", ""]
)
def test_what_is_no_cron_expression_is_refused(wrong):
    with pytest.raises(InvalidInput):
        Cron(wrong)
    with pytest.raises(InvalidInput):
        Cron("0 0 * * *", "Mars/Olympus")


@settings(max_examples=30, deadline=None)
@given(
    minute=st.integers(0, 59), hour=st.integers(0, 23), day=st.integers(0, 700),
    zone=st.sampled_from(["UTC", "Asia/Dubai", "America/New_York", "Australia/Lord_Howe"]),
)  # fmt: skip
def test_a_daily_time_comes_once_each_local_day(minute, hour, day, zone):
    begin = BEGIN + timedelta(days=day)
    times = list(islice(Cron(f"{minute} {hour} * * *", zone).after(begin), 30))
    assert all(a < b for a, b in pairwise(times))
    gaps = [(b - a).total_seconds() / 3600 for a, b in pairwise(times)]
    assert all(22 <= gap <= 26 for gap in gaps)


@pytest.fixture
def clock(house, monkeypatch):
    found = SetClock(datetime.now(UTC) - 20 * DAY)
    monkeypatch.setattr(house.made.calls, "_clock", found)
    return found


def declared(house, name, trigger):
    return house.declare(HEAD + BODY.replace("NAME", name).replace("TRIGGER", trigger))


def scheduled(house, name, clock):
    """Schedule a pipeline as of the set clock."""
    with house.made.calls.opened("test.schedule", "user:amina") as call:
        pipeline = house.made.pipelines.runs.pipeline(call.connection, name)
        return house.made.pipelines.schedules.begin(call, pipeline)


def results(house, name):
    house.work()
    runs = house.platform.pipelines.runs(name)
    return [house.platform.pipelines.read(one.id, "told") for one in reversed(runs)]


@pytest.mark.parametrize(("missed", "n_runs"), [("last", 1), ("all", 4), ("none", 0)])
def test_times_that_were_missed_run_as_the_pipeline_says(house, clock, missed, n_runs):
    name = declared(house, f"clock_{missed}", f'Cron(expression="0 6 * * *", missed="{missed}")')
    scheduled(house, name, clock)
    clock.move(4 * DAY)
    schedules = house.made.pipelines.schedules
    assert schedules.run_once() == n_runs
    assert schedules.run_once() == 0, "each time once"
    found = results(house, name)
    assert len(found) == n_runs
    for (_, until, _), (since, _, _) in pairwise(found):
        assert until == since
    house.platform.pipelines.pause(name)
    clock.move(4 * DAY)
    assert schedules.run_once() == 0


def test_a_time_that_comes_while_somebody_looks_is_not_missed(house, clock):
    name = declared(house, "minutely", 'Cron(expression="* * * * *", missed="none")')
    schedule = scheduled(house, name, clock)
    assert schedule.next_at > clock.now()
    clock.move(schedule.next_at - clock.now() + timedelta(seconds=2))
    assert house.made.pipelines.schedules.run_once() == 1
    house.platform.pipelines.pause(name)


def test_rows_that_come_start_one_run(house, clock):
    name = declared(house, "data", 'NewData(table="incoming")')
    scheduled(house, name, clock)
    schedules = house.made.pipelines.schedules
    assert schedules.run_once() == 0
    house.made.lake.append("incoming", pa.table({"x": [1]}))
    assert (schedules.run_once(), schedules.run_once()) == (1, 0)
    house.made.lake.append("incoming", pa.table({"x": [2]}))
    assert schedules.run_once() == 1
    assert len(results(house, name)) == 2
    house.platform.pipelines.pause(name)


def test_two_that_look_at_one_table_start_no_run_twice(house, clock):
    name = declared(house, "looked", 'NewData(table="looked_at")')
    scheduled(house, name, clock)
    quick, lake = house.made.pipelines.schedules, house.made.lake

    def slow(table):
        """What the table reaches now; the other looks once more before it is told."""
        found = quick._extent(table)
        if lake.count("looked_at") == 1:
            lake.append("looked_at", pa.table({"x": [2]}))
            assert quick.run_once() == 1
        return found

    lake.append("looked_at", pa.table({"x": [1]}))
    other = Schedules(quick._runs, house.made.calls, house.made.catalog, slow)
    assert (other.run_once(), quick.run_once(), other.run_once()) == (0, 0, 0)
    assert len(results(house, name)) == 1
    lake.append("looked_at", pa.table({"x": [3]}))
    assert (other.run_once(), quick.run_once()) == (1, 0)
    house.platform.pipelines.pause(name)


def test_an_event_starts_one_run_with_its_facts_and_others_start_none(house):
    name = declared(
        house, "events", 'OnEvent(event="model_version.registered", where={"model": "late"})'
    )
    events = house.made.pipelines.events()
    while events.deliver():
        pass
    house.platform.pipelines.schedule(name)
    for model in ("late", "early"):
        with house.made.calls.opened("test.register", "user:omar") as call:
            call.emit("model_version.registered", model=model, version=3)
    while events.deliver():
        pass
    ((_, _, event),) = results(house, name)
    assert (event["model"], event["version"]) == ("late", 3)
    (run,) = house.platform.pipelines.runs(name)
    assert (run.trigger, run.principal) == ("event", "user:amina")
    house.platform.pipelines.pause(name)


def test_code_that_somebody_else_applied_does_not_run_as_the_one_who_scheduled_it(house, clock):
    name = declared(house, "changed", 'Cron(expression="0 6 * * *")')
    scheduled(house, name, clock)
    with house.made.calls.opened("test.apply", "user:mallory") as call:
        pipeline = house.made.pipelines.runs.pipeline(call.connection, name).document()
        pipeline["steps"][0]["source"] += "# of another\n"
        house.made.definitions.apply(call, [pipeline])
    clock.move(2 * DAY)
    assert house.made.pipelines.schedules.run_once() == 0
    (found,) = [one for one in house.platform.pipelines.schedules() if one.pipeline == name]
    assert "schedule it anew" in found.waits
    scheduled(house, name, clock)
    clock.move(2 * DAY)
    assert house.made.pipelines.schedules.run_once() == 1
    house.platform.pipelines.pause(name)


def _other_source(document):
    document["steps"][0]["source"] += "# of another\n"


def _other_default(document):
    document["parameters"]["since"] = "chosen by another"


def _other_function(document):
    document["steps"][0]["function"] = "len"


def _other_input(document):
    document["steps"][0]["takes"]["since"] = {"take": "table", "table": "flights"}


def _other_target(document):
    document["steps"][0]["writes"] = {"table": "of_another"}


@pytest.mark.parametrize(
    "change", [_other_source, _other_default, _other_function, _other_input, _other_target]
)
def test_nothing_of_a_pipeline_that_somebody_else_changed_runs_as_its_scheduler(
    house, clock, change
):
    name = declared(house, f"by{change.__name__}", 'Cron(expression="0 6 * * *")')
    scheduled(house, name, clock)
    with house.made.calls.opened("test.apply", "service:deploy") as call:
        pipeline = house.made.pipelines.runs.pipeline(call.connection, name).document()
        change(pipeline)
        house.made.definitions.apply(call, [pipeline])
    clock.move(2 * DAY)
    assert house.made.pipelines.schedules.run_once() == 0
    (found,) = [one for one in house.platform.pipelines.schedules() if one.pipeline == name]
    assert "schedule it anew" in found.waits
    house.platform.pipelines.pause(name)


def test_what_is_applied_between_the_look_and_the_run_does_not_run(house, clock, monkeypatch):
    name = declared(house, "between", 'Cron(expression="0 6 * * *")')
    scheduled(house, name, clock)
    clock.move(2 * DAY)
    schedules = house.made.pipelines.schedules
    by_clock = schedules._by_clock

    def late(row_name, pipeline, trigger):
        with house.made.calls.opened("test.apply", "user:mallory") as call:
            document = house.made.pipelines.runs.pipeline(call.connection, name).document()
            _other_default(document)
            house.made.definitions.apply(call, [document])
        return by_clock(row_name, pipeline, trigger)

    with monkeypatch.context() as patched:
        patched.setattr(schedules, "_by_clock", late)
        assert schedules.run_once() == 0
    assert schedules.run_once() == 0
    assert house.platform.pipelines.runs(name) == []
    house.platform.pipelines.pause(name)


def test_other_triggers_of_the_same_pipeline_need_no_new_schedule(house, clock):
    name = declared(house, "retimed", 'Cron(expression="0 6 * * *")')
    scheduled(house, name, clock)
    with house.made.calls.opened("test.apply", "user:mallory") as call:
        document = house.made.pipelines.runs.pipeline(call.connection, name).document()
        document["triggers"][0]["expression"] = "0 7 * * *"
        house.made.definitions.apply(call, [document])
    clock.move(2 * DAY)
    assert house.made.pipelines.schedules.run_once() == 1
    house.platform.pipelines.pause(name)


def test_what_declares_no_trigger_or_was_never_scheduled_is_told_so(house):
    name = house.declare(HEAD + "def f(): return 1\nquiet = Pipeline.of('quiet', f)")
    with pytest.raises(Conflict):
        house.platform.pipelines.schedule(name)
    with pytest.raises(NotFound):
        house.platform.pipelines.pause(name)


FILL = """
def told(since, until, bad):
    if since.startswith(bad):
        raise ValueError("this day is bad")
    return [since[:10], until[:10]]

NAME = Pipeline.of("NAME", step(told, retries=0),
                   parameters={"since": "", "until": "", "bad": "never"})
"""


def test_a_back_fill_runs_once_for_each_stretch_some_at_a_time(house):
    name = house.declare(HEAD + FILL.replace("NAME", "fill"))
    made = house.platform.pipelines.backfill(name, BEGIN, BEGIN + 4.5 * DAY, parallel=2)
    assert (made.n_runs, made.n_running, made.state) == (5, 2, "running")
    assert results(house, name) == [
        ["2025-01-01", "2025-01-02"], ["2025-01-02", "2025-01-03"], ["2025-01-03", "2025-01-04"],
        ["2025-01-04", "2025-01-05"], ["2025-01-05", "2025-01-05"],
    ]  # fmt: skip
    (done,) = house.platform.pipelines.backfills(name)
    assert (done.state, done.n_done, done.n_running) == ("done", 5, 0)


def test_a_back_fill_stops_at_what_fails_and_goes_on_from_there(house):
    name = house.declare(HEAD + FILL.replace("NAME", "stops"))
    made = house.platform.pipelines.backfill(
        name, BEGIN, BEGIN + 4 * DAY, parameters={"bad": "2025-01-02"}
    )
    house.work()
    (found,) = house.platform.pipelines.backfills(name)
    assert (found.state, found.n_done, found.n_failed, found.n_running) == ("failed", 1, 1, 0)
    (failed,) = [one for one in house.platform.pipelines.runs(name) if one.state == "failed"]
    with house.made.database.transaction() as connection:
        house.made.pipelines.runs.set(
            connection, failed.id, parameters={**failed.parameters, "bad": "never"}
        )
    house.platform.pipelines.resume_backfill(made.id)
    house.work()
    (found,) = house.platform.pipelines.backfills(name)
    # The others were begun with the bad day too, which is behind them.
    assert (found.state, found.n_done) == ("done", 4)


def test_a_cancelled_back_fill_begins_no_more(house):
    name = house.declare(HEAD + FILL.replace("NAME", "gone"))
    made = house.platform.pipelines.backfill(name, BEGIN, BEGIN + 9 * DAY, parallel=3)
    cancelled = house.platform.pipelines.cancel_backfill(made.id)
    house.work()
    assert (cancelled.state, cancelled.n_running) == ("cancelled", 0)
    assert len(house.platform.pipelines.runs(name)) == 3
    with pytest.raises(Conflict):
        house.platform.pipelines.cancel_backfill(made.id)


@pytest.mark.parametrize(
    ("since", "until", "every"),
    [(BEGIN, BEGIN, DAY), (BEGIN, BEGIN + 90_000 * DAY, DAY), (BEGIN, BEGIN + DAY, -DAY),
     (BEGIN.replace(tzinfo=None), BEGIN + DAY, DAY)],
)  # fmt: skip
def test_a_range_that_is_none_is_refused(house, since, until, every):
    name = house.declare(HEAD + FILL.replace("NAME", "range"))
    with pytest.raises(InvalidInput):
        house.platform.pipelines.backfill(name, since, until, every=every)
