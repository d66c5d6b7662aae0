"""Error budgets and burn rates: the workbook's figures, and when an alert is raised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definition, Definitions
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox
from falaj.monitoring.servedseries import ServedMinutes, ServedRecorder, served_by
from falaj.operations.alerts import Alerts
from falaj.operations.budgets import (
    BY_THE_BOOK,
    Served,
    ServiceLevel,
    budget_left,
    burn_rate,
    status,
)
from falaj.operations.exposed import OperationsMetrics
from falaj.operations.incidents import Incidents
from falaj.operations.service_levels import BurnWatch, ServiceLevels, alert_name
from falaj.serving.counted import histogram
from falaj.serving.model import SeriesCounts
from falaj.testing.fakes import MemoryAudit

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


def _level(**given: Any) -> ServiceLevel:
    fields = {"name": "late-answers", "endpoint": "late", "objective": 0.999, **given}
    return ServiceLevel.model_validate(fields)


@pytest.mark.parametrize(("place", "rate"), [(0, 14.4), (1, 6.0), (2, 1.0)])
def test_the_burn_rates_of_thirty_days_are_those_of_the_workbook(place: int, rate: float) -> None:
    """Google, The Site Reliability Workbook, chapter 5, table 5-8."""
    assert BY_THE_BOOK[place].rate(timedelta(days=30)) == pytest.approx(rate)


def test_a_rate_of_one_spends_the_budget_in_one_window() -> None:
    served = Served(total=100_000, good=99_900)
    assert burn_rate(served, 0.999) == pytest.approx(1)
    assert budget_left(served, 0.999) == pytest.approx(0)
    assert budget_left(Served(100_000, 99_950), 0.999) == pytest.approx(0.5)
    assert budget_left(Served(100_000, 99_800), 0.999) == pytest.approx(-1)


def test_where_nothing_is_asked_nothing_burns() -> None:
    assert (burn_rate(Served(), 0.999), budget_left(Served(), 0.999)) == (0, 1)
    found = status(_level(), lambda start, end: Served(), AT)
    assert (found.attained, [one.burning for one in found.burns]) == (None, [False] * 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.5, 0.9999))
def test_more_bad_requests_never_leave_more_of_the_budget(
    n_good: int, n_bad: int, objective: float
) -> None:
    less = budget_left(Served(n_good + n_bad + 1, n_good), objective)
    assert less <= budget_left(Served(n_good + n_bad, n_good), objective) + 1e-9


def _rates(long: float, short: float, n: int = 10_000) -> Any:
    def counting(start: datetime, end: datetime) -> Served:
        rate = long if end - start >= timedelta(hours=1) else short
        return Served(n, round(n * (1 - rate * 0.001)))

    return counting


@pytest.mark.parametrize(
    ("long", "short", "n", "burning"),
    [(20, 20, 10_000, True), (20, 0, 10_000, False), (5, 20, 10_000, False), (20, 20, 19, False)],
)
def test_both_windows_must_burn_and_there_must_be_enough_requests(
    long: float, short: float, n: int, burning: bool
) -> None:
    level = _level(window_days=30, alerts=[BY_THE_BOOK[0]])
    (burn,) = status(level, _rates(long * (1 if n > 19 else 50), short * (1 if n > 19 else 50), n),
                     AT).burns  # fmt: skip
    assert burn.burning is burning


@given(st.floats(0.001, 0.9999), st.floats(1, 90))
def test_an_outage_of_everything_raises_every_alert_whatever_the_objective(
    objective: float, days: float
) -> None:
    alerts = [one for one in BY_THE_BOOK if one.hours <= days * 24]
    level = _level(objective=objective, window_days=days, alerts=alerts)
    found = status(level, lambda start, end: Served(1000, 0), AT)
    assert all(one.burning for one in found.burns)


def test_objectives_near_one_keep_the_burn_rates_of_the_workbook() -> None:
    level = _level(objective=0.95, window_days=30)
    assert [level.limit(one) for one in BY_THE_BOOK] == pytest.approx([14.4, 6, 1])
    assert level.limit(BY_THE_BOOK[0]) < 1 / (1 - 0.95)


@pytest.mark.parametrize(
    "malformed",
    [
        {"objective": 1.0},
        {"indicator": "latency"},
        {"threshold_ms": 10},
        {"window_days": 1, "alerts": [BY_THE_BOOK[2]]},
        {"alerts": [BY_THE_BOOK[0], BY_THE_BOOK[0]]},
    ],
)
def test_a_service_level_that_says_nothing_is_refused(malformed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _level(**malformed)


def _counts(**given: Any) -> SeriesCounts:
    return SeriesCounts(**{"endpoint": "late", "variant": "a", "requests": 0, **given})


def test_only_answers_of_5xx_are_unavailable() -> None:
    counts = [
        _counts(requests=90, refused=50, shed=2),
        _counts(variant="", failed=10),
        _counts(endpoint="other", requests=7),
    ]
    assert served_by(_level(), counts) == Served(total=100, good=90)


def test_what_a_variant_failed_on_and_another_answered_was_available() -> None:
    """And a 5xx is counted once: of its variant, and of the endpoint, are one answer."""
    counts = [
        _counts(variant="champion", requests=95, failed=5),
        _counts(variant="challenger", requests=0, failed=20),
        _counts(variant="", failed=5),
    ]
    assert served_by(_level(), counts) == Served(total=100, good=95)


@pytest.mark.parametrize("slow", [{}, {"indicator": "latency", "threshold_ms": 10}])
def test_what_ran_behind_the_answer_was_served_to_nobody(slow: dict[str, Any]) -> None:
    shadow = _counts(variant="next", shadow=True, requests=50, failed=9, latency=[(0, 50)])
    assert served_by(_level(**slow), [shadow]) == Served()


@given(st.lists(st.floats(0.0001, 2.0), max_size=50), st.floats(1, 1000))
def test_a_request_above_the_threshold_never_counts_as_good(
    seconds: list[float], limit: float
) -> None:
    import numpy as np

    buckets = histogram(np.array(seconds, np.float32))
    latency = [(int(n), int(buckets[n])) for n in np.flatnonzero(buckets)]
    level = _level(indicator="latency", threshold_ms=limit)
    found = served_by(level, [_counts(latency=latency)])
    truly = sum(one <= limit / 1000 for one in seconds)
    surely = sum(one * 1.0626 <= limit / 1000 for one in seconds)
    assert found.total == len(seconds)
    assert surely <= found.good <= truly


class Watched:
    """A platform whose counters are set by hand."""

    def __init__(self, database: Database, level: ServiceLevel) -> None:
        self.counts: list[SeriesCounts] = []
        self.clock = SetClock(AT)
        catalog = Catalog()
        self.calls = Calls(database, MemoryAudit(), Outbox(), self.clock)
        kinds: dict[str, type[Definition]] = {ServiceLevel.kind: ServiceLevel}
        self.definitions = Definitions(catalog, kinds, {})
        self.levels = ServiceLevels(self.definitions, ServedMinutes())
        self.alerts = Alerts(catalog, Incidents(catalog))
        self.watch = BurnWatch(self.levels, self.alerts, self.calls)
        self.recorder = self.machine("one")
        with self.calls.opened("test", "user:amina") as call:
            catalog.record(call, AssetRef("endpoint", "late"))
            self.definitions.apply(call, [level])

    def machine(self, name: str) -> ServedRecorder:
        return ServedRecorder(self.definitions, lambda: self.counts, self.calls, lambda: name)

    def count(self, good: int, bad: int) -> None:
        self.counts = [_counts(requests=good), _counts(variant="", failed=bad)]

    def later(self, minutes: float) -> None:
        self.clock.move(timedelta(minutes=minutes))

    def total(self) -> tuple[int, int]:
        with self.calls.database.reading() as connection:
            found = self.levels.status(connection, "late-answers", self.clock.now())
        return found.n_requests, found.n_good


@pytest.fixture
def watched(database: Database) -> Watched:
    return Watched(database, _level())


def test_what_was_served_is_kept_by_minute_and_counted_once(watched: Watched) -> None:
    watched.count(1000, 5)
    assert watched.recorder.run_once() == 0, "what was before the first look is not known by minute"
    for good, bad, minutes in [(1100, 5, 1), (1100, 5, 1), (1200, 15, 1), (1250, 15, 0.1)]:
        watched.later(minutes)
        watched.count(good, bad)
        watched.recorder.run_once()
    watched.later(1)
    assert watched.total() == (260, 250)
    watched.later(28 * 24 * 60 + 10)
    assert watched.total() == (0, 0)


def test_counters_that_begin_anew_and_other_machines_are_added(watched: Watched) -> None:
    other = watched.machine("two")
    watched.count(100, 0)
    assert (watched.recorder.run_once(), other.run_once()) == (0, 0)
    watched.later(1)
    watched.count(10, 0)
    assert watched.recorder.run_once() == 1, "all of it is new"
    watched.count(140, 0)
    assert other.run_once() == 1
    watched.later(1)
    assert watched.total() == (50, 50)


def test_what_came_in_a_pause_of_the_worker_process_is_spread_over_it(watched: Watched) -> None:
    watched.count(0, 0)
    watched.recorder.run_once()
    watched.later(6 * 60)
    watched.count(3000, 7)
    watched.recorder.run_once()
    watched.later(1)
    assert watched.total() == (3007, 3000)
    with watched.calls.database.reading() as connection:
        level, now = watched.levels.declared(connection)[0], watched.clock.now()
        parts = [
            ServedMinutes().served(connection, level, now - timedelta(hours=n + 1),
                                   now - timedelta(hours=n))
            for n in range(6)
        ]  # fmt: skip
    assert {part.good for part in parts} == {500}
    assert all(part.total - part.good in (1, 2) for part in parts)


def test_what_has_no_name_yet_is_not_looked_at(watched: Watched) -> None:
    nowhere = watched.machine("")
    watched.count(100, 0)
    nowhere.run_once()
    watched.later(1)
    watched.count(200, 0)
    assert nowhere.run_once() == 0


def test_another_threshold_begins_anew(watched: Watched) -> None:
    watched.count(100, 0)
    watched.recorder.run_once()
    with watched.calls.opened("test", "user:amina") as call:
        watched.definitions.apply(call, [_level(objective=0.9)])
    watched.count(200, 0)
    assert watched.recorder.run_once() == 0
    watched.count(300, 0)
    assert watched.recorder.run_once() == 1


def test_a_budget_that_burns_raises_an_alert_which_ends_with_it(watched: Watched) -> None:
    watched.count(0, 0)
    watched.recorder.run_once()
    watched.later(1)
    watched.count(900, 100)
    watched.recorder.run_once()
    watched.later(1)
    assert watched.watch.run_once() == 3, "a tenth of all fails: every window burns"
    assert watched.watch.run_once() == 0
    endpoint = AssetRef("endpoint", "late")
    with watched.calls.database.reading() as connection:
        alert = watched.alerts.standing(connection, alert_name("late-answers", 1), endpoint)
    assert alert is not None
    assert "burns 100.0 times too fast over 1 h" in alert.message
    watched.later(6)
    watched.count(90_000, 100)
    watched.recorder.run_once()
    watched.later(1)
    watched.watch.run_once()
    with watched.calls.database.reading() as connection:
        assert watched.alerts.standing(connection, alert.name, endpoint) is None


@pytest.mark.parametrize(
    "changed",
    [{"alerts": [BY_THE_BOOK[1].model_copy(update={"hours": 12})]}, {"endpoint": "early"}],
)
def test_an_alert_that_no_level_declares_any_more_ends(
    watched: Watched, changed: dict[str, Any]
) -> None:
    watched.count(0, 0)
    watched.recorder.run_once()
    watched.later(1)
    watched.count(900, 100)
    watched.recorder.run_once()
    watched.later(1)
    assert watched.watch.run_once() == 3
    with watched.calls.opened("test", "user:amina") as call:
        watched.definitions.apply(call, [_level(**changed)])
    watched.watch.run_once()
    with watched.calls.database.reading() as connection:
        declared = watched.levels.declared(connection)[0]
        names = {alert_name(declared.name, one.hours) for one in declared.alerts}
        standing = watched.alerts.unresolved(connection)
    assert all(one.name in names and one.subject.key == declared.endpoint for one in standing)


def test_prometheus_reads_alerts_incidents_and_budgets(watched: Watched) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    watched.count(0, 0)
    watched.recorder.run_once()
    watched.later(1)
    watched.count(900, 100)
    watched.recorder.run_once()
    watched.later(1)
    watched.watch.run_once()
    registry = CollectorRegistry()
    registry.register(OperationsMetrics(watched.calls.database, watched.levels, watched.clock))
    lines = generate_latest(registry).decode().splitlines()
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines
            if not line.startswith("#")}  # fmt: skip
    level = 'endpoint="late",level="late-answers"'
    assert (
        told[
            'falaj_alerts{alertname="service-level.late-answers.1h",severity="critical",state="open"}'
        ]
        == 1
    )
    assert told['falaj_incidents{acknowledged="no",priority="1"}'] == 1
    assert told[f"falaj_error_budget_left{{{level}}}"] == pytest.approx(-99)
    assert told[
        'falaj_burn_rate{endpoint="late",hours="1",level="late-answers",window="long"}'
    ] == pytest.approx(100)
