from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from falaj.kernel.clock import SetClock
from falaj.monitoring.series import HOUR, MINUTE, MeterSeries, place_of
from falaj.serving.counted import FAILED, LATENCY, Counted, histogram

NOW = datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC)  # clocks in Europe jump half an hour later


class Place:
    """A machine's meters: counts that only grow."""

    def __init__(self, name):
        self.name = name
        self.counts = {}

    def served(self, n, *, failed=0, seconds=0.01, endpoint="late", variant="v1"):
        one = self.counts.setdefault((endpoint, variant), Counted())
        one.histograms[LATENCY] += histogram(np.full(n, seconds, np.float32))
        one.counters[FAILED] += failed


@pytest.fixture
def clock():
    return SetClock(NOW)


@pytest.fixture
def kept(sqlite_database, clock):
    return MeterSeries(sqlite_database, clock)


def look(kept, place):
    return kept.look(place.name, lambda: place.counts)


def told(kept, since, until, seconds=MINUTE, endpoint="late"):
    with kept._database.reading() as connection:
        return kept.series(connection, endpoint, since, until, seconds)


MINUTE_1 = NOW.replace(second=0)


def minutes(kept, n):
    return told(kept, MINUTE_1, MINUTE_1 + timedelta(minutes=n))


def test_each_minute_holds_what_was_counted_in_it(kept, clock):
    here = Place("a")
    here.served(1000)  # before anybody looked
    assert look(kept, here) == 0
    here.served(30, failed=10, seconds=0.1)
    assert look(kept, here) == 0  # the minute has not passed
    clock.move(timedelta(minutes=1))
    assert look(kept, here) == 1
    clock.move(timedelta(minutes=1))
    look(kept, here)
    series = minutes(kept, 3)
    assert series.requests[:2].tolist() == [40, 0]
    assert np.isnan(series.requests[2])
    assert series.errors[0] == 0.25
    assert np.isnan(series.errors[1])
    assert series.latency[0] == pytest.approx(0.1, rel=0.07)


def test_variants_and_machines_add_up_and_endpoints_do_not(kept, clock):
    one, other = Place("a"), Place("b")
    look(kept, one)
    look(kept, other)
    one.served(5)
    one.served(6, variant="v2")
    one.served(100, endpoint="other")
    other.served(7)
    clock.move(timedelta(minutes=1))
    look(kept, one)
    look(kept, other)
    assert minutes(kept, 1).requests.tolist() == [18]


def test_what_ran_behind_the_answers_is_no_traffic(kept, clock):
    here = Place("a")
    look(kept, here)
    here.served(50)
    here.served(50, seconds=3.0, variant="shadow/v2")
    clock.move(timedelta(minutes=1))
    look(kept, here)
    series = minutes(kept, 1)
    assert series.requests.tolist() == [50]
    assert series.latency[0] < 0.1


def test_two_processes_of_a_machine_count_once(kept, clock, sqlite_database):
    here, beside = Place("a"), MeterSeries(sqlite_database, clock)
    look(kept, here)
    here.served(9)
    clock.move(timedelta(minutes=1))
    assert (look(kept, here), look(beside, here)) == (1, 0)
    assert minutes(kept, 1).requests.tolist() == [9]


def test_a_look_that_is_late_spreads_what_came_and_one_that_is_too_late_leaves_a_gap(kept, clock):
    here = Place("a")
    look(kept, here)
    here.served(10, failed=1)
    clock.move(timedelta(minutes=3))
    look(kept, here)
    here.served(500)
    clock.move(timedelta(minutes=30))
    look(kept, here)
    series = minutes(kept, 33)
    assert series.requests[:3].sum() == 11
    assert np.isnan(series.requests[3:]).all()


def test_meters_that_began_anew_are_counted_from_nothing(kept, clock, tmp_path):
    here = Place(place_of(tmp_path))
    here.served(50)
    look(kept, here)
    here.counts = {}
    here.served(8)
    clock.move(timedelta(minutes=1))
    look(kept, here)
    assert minutes(kept, 1).requests.tolist() == [8]
    assert place_of(tmp_path) == here.name
    (tmp_path / "place").unlink()
    assert place_of(tmp_path) != here.name


def test_minutes_become_hours_without_losing_a_count_and_old_hours_go(kept, clock):
    here = Place("a")
    look(kept, here)
    for _ in range(70):
        here.served(2, seconds=0.5)
        clock.move(timedelta(minutes=1))
        look(kept, here)
    first = MINUTE_1.replace(minute=0) + timedelta(hours=1)
    before = told(kept, first, first + timedelta(hours=2), HOUR)
    assert before.requests[0] == 120
    clock.move(timedelta(days=4))
    assert kept.roll_up() == 3
    assert kept.roll_up() == 0
    after = told(kept, first, first + timedelta(hours=2), HOUR)
    assert after.requests[0] == 120
    assert after.latency[0] == before.latency[0]
    assert np.isnan(after.requests[1])  # nine minutes are no hour
    assert np.isnan(told(kept, first, first + timedelta(hours=1)).requests).all()
    clock.move(timedelta(days=401))
    kept.roll_up()
    assert np.isnan(told(kept, first, first + timedelta(hours=1), HOUR).requests[0])


def test_an_hour_with_some_unseen_minutes_is_told_as_if_they_were_like_the_others(kept, clock):
    here = Place("a")
    clock.move(timedelta(seconds=30))  # to one o'clock
    look(kept, here)
    for minute in range(60):
        here.served(3)
        clock.move(timedelta(minutes=1))
        if not 20 <= minute < 29:
            look(kept, here)
    hour = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert told(kept, hour, hour + timedelta(hours=1), HOUR).requests[0] == pytest.approx(180)
