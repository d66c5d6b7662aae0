from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.operations.model import (
    Alert,
    AlertState,
    Incident,
    IncidentState,
    Scale,
    Severity,
    priority_of,
)
from falaj.testing.calls import opened_call

ENDPOINT = AssetRef("endpoint", "flight-delay")
MODEL = AssetRef("model_version", "delay/3")
TABLE = AssetRef("table", "flights")
LONELY = AssetRef("table", "lonely")
AT = datetime(2026, 1, 1, tzinfo=UTC)
catalog = Catalog()
incidents = Incidents(catalog)
alerts = Alerts(catalog, incidents)


@pytest.fixture
def subjects(database: Database, make_call: Any) -> Database:
    with make_call(database) as call:
        for ref in (ENDPOINT, MODEL, TABLE, LONELY):
            catalog.record(call, ref, classification=Classification.PERSONAL)
        catalog.link(call, TABLE, MODEL, Relation.TRAINED)
    return database


def _raised(
    database: Database,
    severity: Severity = Severity.WARNING,
    *,
    subject: AssetRef = ENDPOINT,
    name: str = "drift.wind",
    events: list[str] | None = None,
    **given: Any,
) -> Alert:
    call_options = {"now": given.pop("now")} if "now" in given else {}
    with opened_call(database, "system:monitor", **call_options) as call:
        alert = alerts.raise_alert(
            call,
            name=name,
            subject=subject,
            severity=severity,
            message=given.get("message", "PSI 0.31 of wind_speed"),
            evidence=given.get("evidence", {"psi": 0.31}),
        )
        if events is not None:
            events += [event.type for event in call.events]
    return alert


def _incidents(database: Database, **wanted: Any) -> list[Incident]:
    with database.reading() as connection:
        return incidents.listed(connection, **wanted)


def test_an_alert_that_lasts_is_told_once_and_counted(subjects: Database) -> None:
    events: list[str] = []
    first = _raised(subjects, now=AT, events=events)
    again = _raised(subjects, now=AT + timedelta(hours=1), events=events,
                    message="PSI 0.4 of wind_speed", evidence={"psi": 0.4})  # fmt: skip
    assert again.id == first.id
    assert (again.n_seen, again.raised_at, again.last_seen_at) == (2, AT, AT + timedelta(hours=1))
    assert (again.message, again.evidence) == ("PSI 0.4 of wind_speed", {"psi": 0.4})
    assert Counter(events)["alert.raised"] == 1


def test_another_name_or_subject_is_another_alert(subjects: Database) -> None:
    ids = {
        _raised(subjects).id,
        _raised(subjects, name="drift.gust").id,
        _raised(subjects, subject=TABLE).id,
    }
    assert len(ids) == 3


def test_alerts_are_found_by_how_their_names_begin_however_many_are_newer(
    subjects: Database,
) -> None:
    mine = _raised(subjects, name="monitor_a.drift")
    _raised(subjects, name="monitor%a.drift")
    for number in range(5):
        _raised(subjects, name=f"monitor_b.{number}")
    with subjects.reading() as connection:
        found = alerts.listed(connection, subjects=[ENDPOINT], named="monitor_a.", limit=3)
        assert [one.id for one in found] == [mine.id]
        assert len(alerts.listed(connection, named="monitor", limit=100)) == 7
        assert alerts.listed(connection, named="%") == []


def test_a_resolved_alert_opens_anew(subjects: Database) -> None:
    first = _raised(subjects)
    with opened_call(subjects, "user:omar") as call:
        resolved = alerts.resolve(call, first.id, "The sensor was replaced")
    assert (resolved.state, resolved.resolved_by) == (AlertState.RESOLVED, "user:omar")
    second = _raised(subjects)
    assert second.id != first.id
    assert second.n_seen == 1


def test_the_news_of_an_end_say_that_it_is_over(subjects: Database) -> None:
    first = _raised(subjects)
    with opened_call(subjects, "user:omar") as call:
        alerts.resolve(call, first.id, "The sensor was replaced")
        (told,) = [event.payload for event in call.events if event.type == "alert.resolved"]
    assert told["title"] == f"It is over. Before: {first.message}"


def test_an_acknowledged_alert_stays_open(subjects: Database) -> None:
    first = _raised(subjects)
    for _ in range(2):
        with opened_call(subjects, "user:omar") as call:
            alert = alerts.acknowledge(call, first.id)
    assert (alert.state, alert.acknowledged_by) == (AlertState.ACKNOWLEDGED, "user:omar")
    assert _raised(subjects).id == first.id
    with subjects.reading() as connection:
        assert [one.id for one in alerts.listed(connection)] == [first.id]
        assert alerts.listed(connection, state=AlertState.OPEN) == []


def test_a_resolved_alert_is_closed_to_more(subjects: Database) -> None:
    alert = _raised(subjects)
    with opened_call(subjects) as call:
        alerts.resolve(call, alert.id, "Over")
    for more in (lambda call: alerts.resolve(call, alert.id, "Over"),
                 lambda call: alerts.acknowledge(call, alert.id)):  # fmt: skip
        with pytest.raises(Conflict, match="already"), opened_call(subjects) as call:
            more(call)


def test_severity_rises_and_never_falls_while_it_lasts(subjects: Database) -> None:
    events: list[str] = []
    _raised(subjects, Severity.INFO, events=events)
    assert _raised(subjects, Severity.WARNING, events=events).severity is Severity.WARNING
    assert _raised(subjects, Severity.INFO, events=events).severity is Severity.WARNING
    assert Counter(events)["alert.escalated"] == 1


def test_an_alert_is_guarded_as_its_subject_is(subjects: Database) -> None:
    alert = _raised(subjects)
    with subjects.reading() as connection:
        asset = catalog.get(connection, alert.ref)
    assert asset.classification is Classification.PERSONAL
    assert asset.attributes["subject"] == "endpoint:flight-delay"


def test_an_alert_needs_a_recorded_subject_and_words(subjects: Database) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        _raised(subjects, subject=AssetRef("endpoint", "nowhere"))
    with pytest.raises(InvalidInput, match="message is empty"):
        _raised(subjects, message=" ")
    with subjects.reading() as connection:
        assert alerts.listed(connection) == []
        with pytest.raises(NotFound):
            alerts.get(connection, "alert_none")


def test_many_that_raise_the_same_alert_at_once_make_one(subjects: Database) -> None:
    barrier = threading.Barrier(4)
    ids: list[str] = []

    def one() -> None:
        barrier.wait()
        ids.append(_raised(subjects, Severity.CRITICAL).id)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1
    with subjects.reading() as connection:
        assert alerts.get(connection, ids[0]).n_seen == 4
    assert len(_incidents(subjects)) == 1


def test_a_critical_alert_opens_an_incident(subjects: Database) -> None:
    events: list[str] = []
    alert = _raised(subjects, Severity.CRITICAL, events=events)
    (listed,) = _incidents(subjects)
    with subjects.reading() as connection:
        incident = incidents.get(connection, listed.id)
    assert (incident.subject, incident.title) == (ENDPOINT, alert.message)
    assert (incident.impact, incident.urgency, incident.priority) == (Scale.HIGH, Scale.HIGH, 1)
    (opened,) = incident.timeline
    assert opened.what == "opened"
    assert alert.id in opened.text
    assert "incident.opened" in events


def test_a_lesser_alert_opens_none_until_it_becomes_critical(subjects: Database) -> None:
    _raised(subjects, Severity.WARNING)
    assert _incidents(subjects) == []
    _raised(subjects, Severity.CRITICAL)
    assert len(_incidents(subjects)) == 1


def test_a_second_alert_joins_the_open_incident_of_its_subject(subjects: Database) -> None:
    _raised(subjects, Severity.CRITICAL)
    _raised(subjects, Severity.CRITICAL, name="latency")
    (listed,) = _incidents(subjects)
    with subjects.reading() as connection:
        timeline = incidents.get(connection, listed.id).timeline
    assert [entry.what for entry in timeline] == ["opened", "alert"]


@pytest.mark.parametrize(
    ("subject", "impact", "priority"),
    [(ENDPOINT, Scale.HIGH, 1), (TABLE, Scale.MEDIUM, 2), (LONELY, Scale.LOW, 3)],
)
def test_the_impact_is_read_off_what_lies_downstream(
    subjects: Database, subject: AssetRef, impact: Scale, priority: int
) -> None:
    _raised(subjects, Severity.CRITICAL, subject=subject)
    (incident,) = _incidents(subjects)
    assert (incident.impact, incident.priority) == (impact, priority)


def test_what_feeds_an_endpoint_has_a_high_impact(subjects: Database) -> None:
    with opened_call(subjects) as call:
        catalog.link(call, MODEL, ENDPOINT, Relation.SERVES)
    _raised(subjects, Severity.CRITICAL, subject=TABLE)
    assert _incidents(subjects)[0].impact is Scale.HIGH


def test_an_incident_keeps_its_timeline_until_it_is_resolved_and_after(subjects: Database) -> None:
    _raised(subjects, Severity.CRITICAL)
    (listed,) = _incidents(subjects)
    with opened_call(subjects, "user:omar") as call:
        incidents.note(call, listed.id, "Rolled back to release 2")
        resolved = incidents.resolve(call, listed.id, "The station's clock was wrong")
        assert "incident.resolved" in [event.type for event in call.events]
    assert (resolved.state, resolved.resolved_by) == (IncidentState.RESOLVED, "user:omar")
    assert resolved.resolution == "The station's clock was wrong"
    with opened_call(subjects) as call:
        with pytest.raises(Conflict, match="already"):
            incidents.resolve(call, listed.id, "Again")
        noted = incidents.note(call, listed.id, "Told the weather service")
    assert [entry.what for entry in noted.timeline] == ["opened", "note", "resolved", "note"]
    _raised(subjects, Severity.CRITICAL, name="latency")
    assert len(_incidents(subjects)) == 2
    assert len(_incidents(subjects, state=IncidentState.OPEN)) == 1


def test_the_most_pressing_incidents_come_first(subjects: Database) -> None:
    for subject in (LONELY, ENDPOINT, TABLE):
        _raised(subjects, Severity.CRITICAL, subject=subject)
    assert [incident.priority for incident in _incidents(subjects)] == [1, 2, 3]


def test_a_missing_incident_is_named(subjects: Database) -> None:
    with pytest.raises(NotFound, match="incident_none"), opened_call(subjects) as call:
        incidents.note(call, "incident_none", "x")


@given(st.sampled_from(Scale), st.sampled_from(Scale), st.sampled_from(Scale))
def test_more_impact_or_urgency_is_never_less_pressing(a: Scale, b: Scale, c: Scale) -> None:
    low, high = sorted((a, b), key=lambda scale: scale.level)
    assert 1 <= priority_of(high, c) <= priority_of(low, c) <= 5
    assert priority_of(a, b) == priority_of(b, a)
