"""Incidents with their times and links, and the problems that cause them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, FalajError, InvalidInput, NotFound
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incident_times import reported
from falaj.operations.incidents import Incidents
from falaj.operations.model import Incident, ProblemState, Scale, Severity
from falaj.operations.problems import Problems
from falaj.testing.calls import opened_call

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
TABLE = AssetRef("table", "flights")
catalog = Catalog()
incidents = Incidents(catalog)
alerts = Alerts(catalog, incidents)
changes = Changes(catalog, {"repair": lambda call, change: None})
problems = Problems(catalog, incidents, changes)


class Desk:
    """A database, and calls on it at minutes after noon."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with self.at(0) as call:
            catalog.record(call, TABLE)

    @contextmanager
    def at(self, minutes: float, who: str = "user:amina") -> Iterator[Call]:
        with opened_call(self.database, who, now=AT + timedelta(minutes=minutes)) as call:
            yield call

    def alarm(self, minutes: float = 0, **evidence: Any) -> Incident:
        with self.at(minutes, "system:checks") as call:
            alerts.raise_alert(
                call, name="empty", subject=TABLE, severity=Severity.CRITICAL,
                message="No rows came", evidence=evidence,
            )  # fmt: skip
            return incidents.listed(call.connection)[0]

    def get(self, incident: str) -> Incident:
        with self.database.reading() as connection:
            return incidents.get(connection, incident)


@pytest.fixture
def desk(sqlite_database: Database) -> Desk:
    return Desk(sqlite_database)


def test_an_incident_knows_its_alert_and_when_it_began(desk: Desk) -> None:
    began = (AT - timedelta(minutes=7)).isoformat()
    incident = desk.get(desk.alarm(began_at=began).id)
    assert incident.seconds_to_detect == 420
    with desk.database.reading() as connection:
        (alert,) = alerts.unresolved(connection)
    assert incident.alerts == [alert.id]


@pytest.mark.parametrize("began", ["soon", "2026-11-30T00:00:00", "2027-01-01T00:00:00+00:00"])
def test_a_beginning_that_makes_no_sense_is_when_the_alert_was_raised(
    desk: Desk, began: str
) -> None:
    assert desk.alarm(began_at=began).seconds_to_detect == 0


def test_who_acknowledges_takes_it_on_unless_it_is_given_to_somebody(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(3, "user:omar") as call:
        incidents.acknowledge(call, one)
    with desk.at(4, "user:sara") as call:
        again = incidents.acknowledge(call, one)
    assert (again.acknowledged_by, again.assigned_to) == ("user:omar", "user:omar")
    assert again.seconds_to_acknowledge == 180
    with desk.at(5) as call:
        assert incidents.assign(call, one, "team:delays").assigned_to == "team:delays"
    with pytest.raises(InvalidInput, match="not an owner"), desk.at(6) as call:
        incidents.assign(call, one, "omar")


def test_an_escalation_makes_it_more_urgent_and_stands_in_the_timeline(desk: Desk) -> None:
    with desk.at(0) as call:
        one = incidents.open(call, TABLE, "Late rows", urgency=Scale.LOW)
        assert (one.impact, one.priority) == (Scale.LOW, 5)
    for n, (urgency, priority) in enumerate([(Scale.MEDIUM, 4), (Scale.HIGH, 3), (Scale.HIGH, 3)]):
        with desk.at(n + 1) as call:
            up = incidents.escalate(call, one.id, "It spreads", "user:omar")
        assert (up.urgency, up.priority, up.n_escalations) == (urgency, priority, n + 1)
    assert up.assigned_to == "user:omar"
    assert [entry.what for entry in up.timeline[:3]] == ["opened", "escalated", "priority 4"]
    assert "incident.escalated" in [event.type for event in call.events]


def test_a_more_pressing_alert_raises_the_priority_of_the_incident_that_it_joins(
    desk: Desk,
) -> None:
    with desk.at(0) as call:
        one = incidents.open(call, TABLE, "Late rows", urgency=Scale.LOW)
    joined = desk.alarm(1)
    assert joined.id == one.id
    assert (desk.get(one.id).urgency, desk.get(one.id).priority) == (Scale.HIGH, 3)


def test_a_resolved_incident_takes_notes_and_links_and_nothing_else(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(30) as call:
        done = incidents.resolve(call, one, "The source is back")
    assert done.seconds_to_resolve == 1800
    acts: list[Any] = [
        lambda call: incidents.acknowledge(call, one),
        lambda call: incidents.assign(call, one, "user:omar"),
        lambda call: incidents.escalate(call, one, "Up"),
        lambda call: incidents.prioritise(call, one, Scale.LOW, Scale.LOW, "Down"),
        lambda call: incidents.resolve(call, one, "Again"),
    ]
    for act in acts:
        with pytest.raises(Conflict, match="resolved by user:amina"), desk.at(31) as call:
            act(call)
    with desk.at(32) as call:
        incidents.note(call, one, "It was the firewall")


def test_the_end_of_an_alert_stands_in_the_timeline_of_its_open_incident(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(30, "system:checks") as call:
        alerts.clear(call, name="empty", subject=TABLE, resolution="load_7 brought 40 rows.")
    incident = desk.get(one)
    assert incident.state == "open"
    last = incident.timeline[-1]
    assert (last.what, last.by) == ("alert resolved", "system:checks")
    assert last.text.startswith("load_7 brought 40 rows.")


def test_a_resolved_incident_says_nothing_of_the_later_end_of_its_alert(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(30) as call:
        incidents.resolve(call, one, "The source is back")
    with desk.at(31) as call:
        alerts.clear(call, name="empty", subject=TABLE, resolution="All well.")
    assert desk.get(one).timeline[-1].what == "resolved"


@pytest.mark.parametrize(
    ("to", "error"),
    [(TABLE, InvalidInput), (AssetRef("change", "change_none"), NotFound)],
)
def test_what_does_not_belong_to_an_incident_is_not_linked(
    desk: Desk, to: AssetRef, error: type[FalajError]
) -> None:
    one = desk.alarm().id
    with pytest.raises(error), desk.at(1) as call:
        incidents.link(call, one, to)


def _repair(desk: Desk, *, approve: bool = True) -> str:
    with desk.at(40) as call:
        change = changes.open(
            call, kind="repair", subject=TABLE, title="A larger buffer", reason="It drops rows",
            evidence={}, payload={},
        ).id  # fmt: skip
    if approve:
        with desk.at(41, "user:omar") as call:
            changes.approve(call, change, "Do it")
    return change


def test_a_problem_becomes_a_known_error_and_is_resolved_by_a_change(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(10) as call:
        problem = problems.open(call, [one, one], "The exporter drops rows")
    assert (problem.incidents, problem.subject) == ([one], TABLE)
    assert desk.get(one).problem == problem.id
    with desk.at(20) as call:
        assert problems.diagnose(call, problem.id, "A buffer").state is ProblemState.OPEN
        known = problems.diagnose(call, problem.id, "A buffer", "Restart it")
    assert (known.state, known.workaround) == (ProblemState.KNOWN_ERROR, "Restart it")
    change = _repair(desk)
    with desk.at(50) as call:
        done = problems.resolve(call, problem.id, change, "The buffer grows")
    assert (done.state, done.change) == (ProblemState.RESOLVED, change)
    with pytest.raises(Conflict, match="resolved by"), desk.at(51) as call:
        problems.diagnose(call, problem.id, "Something else")


def test_a_change_that_was_not_carried_out_resolves_no_problem(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(10) as call:
        problem = problems.open(call, [one], "It drops rows").id
    waiting = _repair(desk, approve=False)
    with pytest.raises(Conflict, match="nothing was carried out"), desk.at(50) as call:
        problems.resolve(call, problem, waiting, "Done")


def test_an_incident_has_one_problem(desk: Desk) -> None:
    one = desk.alarm().id
    with desk.at(1) as call:
        problems.open(call, [one], "First")
    with pytest.raises(Conflict, match="belongs to"), desk.at(2) as call:
        problems.open(call, [one], "Second")
    with pytest.raises(InvalidInput), desk.at(3) as call:
        problems.open(call, [], "Of nothing")


def test_the_report_tells_times_by_priority_and_counts_what_is_open() -> None:
    def made(priority: int, **given: Any) -> Incident:
        return Incident.model_validate(
            {"id": "incident_x", "title": "x", "subject": TABLE, "impact": "low", "urgency": "low",
             "state": "open", "opened_by": "user:amina", "opened_at": AT, "priority": priority,
             **given}
        )  # fmt: skip

    def minutes(n: float) -> datetime:
        return AT + timedelta(minutes=n)

    listed = [
        made(1, began_at=minutes(-2), acknowledged_at=minutes(1), resolved_at=minutes(30)),
        made(1, began_at=minutes(-4), acknowledged_at=minutes(3)),
        made(4),
    ]
    report = reported(listed, AT, minutes(60))
    assert (report.all.n_opened, report.all.n_resolved) == (3, 1)
    assert [one.priority for one in report.by_priority] == [1, 4]
    first = report.by_priority[0]
    assert (first.to_detect.mean_seconds, first.to_detect.longest_seconds) == (180, 240)
    assert (first.to_acknowledge.median_seconds, first.to_resolve.n) == (120, 1)
    assert report.by_priority[1].to_resolve.mean_seconds is None
