"""Standard changes are carried out at once, emergency changes are reviewed afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, FalajError, Forbidden, NotFound
from falaj.kernel.outbox import Outbox
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incidents import Incidents
from falaj.operations.model import AlertState, Change, ChangeState, ChangeType, Verdict
from falaj.operations.reviews import ALERT, OverdueReviews
from falaj.operations.standard import Bound, ChangeTemplate, OutsideBounds
from falaj.testing.calls import opened_call
from falaj.testing.fakes import MemoryAudit

MODEL = AssetRef("model", "flight-delay")
AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
catalog = Catalog()
definitions = Definitions(catalog, {"change_template": ChangeTemplate}, {})
alerts = Alerts(catalog, Incidents(catalog))


def retrained(call: Call, change: Change) -> None:
    if change.payload.get("fail"):
        raise Conflict("The training set is gone.")
    catalog.record(call, change.subject, attributes={"trained": change.payload["rows"]})


changes = Changes(catalog, {"retraining": retrained}, definitions)
TEMPLATE = ChangeTemplate(
    name="retraining",
    change="retraining",
    subjects=("model:*",),
    bounds=(Bound(fact="payload.rows", at_least=100), Bound(fact="evidence.auc", at_least=0.7)),
    most_per_day=2,
    owner="user:amina",
)


@pytest.fixture
def platform(database: Database, make_call: Any) -> Database:
    """A model, and a template that omar has approved."""
    with make_call(database, "user:omar") as call:
        catalog.record(call, MODEL)
        definitions.apply(call, [TEMPLATE])
    return database


def _standard(database: Database, *, rows: int = 500, now: datetime = AT, **payload: Any) -> Change:
    with opened_call(database, "system:retraining", now=now) as call:
        return changes.carry_out_standard(
            call,
            "retraining",
            kind="retraining",
            subject=MODEL,
            title="Retrain",
            reason="Drift of wind_speed",
            evidence={"auc": 0.75},
            payload={"rows": rows, **payload},
        )


def _trained(database: Database) -> Any:
    with database.reading() as connection:
        return catalog.get(connection, MODEL).attributes.get("trained")


def _emergency(database: Database, by: str = "system:rollouts", now: datetime = AT) -> Change:
    with opened_call(database, by, now=now) as call:
        return changes.record_emergency(
            call,
            kind="rollback",
            subject=MODEL,
            title="Rolled back to 3",
            reason="The error rate was breached",
            evidence={"error_rate": 0.2},
            payload={"to": 3},
        )


def test_a_standard_change_is_carried_out_at_once_and_names_who_approved(
    platform: Database,
) -> None:
    change = _standard(platform)
    assert _trained(platform) == 500
    assert (change.type, change.state) == (ChangeType.STANDARD, ChangeState.APPROVED)
    assert (change.template, change.decided_by) == ("retraining@1", "user:omar")
    assert "proposed by user:amina and approved by user:omar" in change.decision
    with platform.reading() as connection:
        edges = catalog.upstream(connection, change.ref)
    assert [(edge.source, edge.relation) for edge in edges] == [(TEMPLATE.ref, Relation.APPROVED)]


def test_a_change_outside_of_its_template_is_not_carried_out(platform: Database) -> None:
    with pytest.raises(OutsideBounds, match=r"payload\.rows is 5, below 100") as refused:
        _standard(platform, rows=5)
    assert refused.value.details["broken"] == ["payload.rows is 5, below 100"]
    assert _trained(platform) is None
    with platform.reading() as connection:
        assert changes.listed(connection) == []


def test_a_standard_change_that_fails_leaves_nothing(platform: Database) -> None:
    with pytest.raises(Conflict, match="training set is gone"):
        _standard(platform, fail=True)
    with platform.reading() as connection:
        assert changes.listed(connection) == []


def test_a_template_permits_so_many_changes_in_a_day(platform: Database) -> None:
    _standard(platform)
    _standard(platform, now=AT + timedelta(hours=5))
    with pytest.raises(OutsideBounds, match="used 2 times"):
        _standard(platform, now=AT + timedelta(hours=23))
    assert _standard(platform, now=AT + timedelta(hours=25)).state is ChangeState.APPROVED


def test_without_a_template_nothing_is_carried_out(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        catalog.record(call, MODEL)
    with pytest.raises(NotFound, match="retraining"):
        _standard(database)
    assert _trained(database) is None


def test_an_emergency_change_waits_for_a_review_of_another_person(platform: Database) -> None:
    change = _emergency(platform)
    assert (change.type, change.state) == (ChangeType.EMERGENCY, ChangeState.IN_REVIEW)
    assert change.review_due_at == AT + timedelta(hours=24)
    with opened_call(platform, "user:omar", now=AT + timedelta(hours=1)) as call:
        reviewed = changes.review(call, change.id, Verdict.JUSTIFIED, "It could not wait")
    assert (reviewed.state, reviewed.verdict) == (ChangeState.REVIEWED, Verdict.JUSTIFIED)
    assert (reviewed.decided_by, reviewed.decision) == ("user:omar", "It could not wait")
    assert [entry.what for entry in reviewed.history] == ["recorded", "reviewed: justified"]
    assert [event.type for event in call.events] == ["change.reviewed"]


@pytest.mark.parametrize("who", ["user:sara", "service:ci", "system:rollouts"])
def test_neither_who_did_it_nor_a_program_reviews(platform: Database, who: str) -> None:
    change = _emergency(platform, by="user:sara")
    with pytest.raises(Forbidden), opened_call(platform, who) as call:
        changes.review(call, change.id, Verdict.JUSTIFIED, "Fine")


@pytest.mark.parametrize("decide", ["approve", "reject", "withdraw"])
def test_an_emergency_change_is_not_decided_on_as_if_it_waited(
    platform: Database, decide: str
) -> None:
    change = _emergency(platform)
    who = "system:rollouts" if decide == "withdraw" else "user:omar"
    with (
        pytest.raises(Conflict, match="carried out in an emergency"),
        opened_call(platform, who) as call,
    ):
        getattr(changes, decide)(call, change.id, "No")


def test_a_review_is_given_once_and_only_to_emergencies(platform: Database) -> None:
    emergency, standard = _emergency(platform), _standard(platform)
    with opened_call(platform, "user:omar") as call:
        changes.review(call, emergency.id, Verdict.UNJUSTIFIED, "The alarm was false")
    for change in (emergency, standard):
        with pytest.raises(FalajError) as refused, opened_call(platform, "user:sara") as call:
            changes.review(call, change.id, Verdict.JUSTIFIED, "No, it was not")
        assert isinstance(refused.value, Conflict)


def test_an_overdue_review_raises_one_alert_which_the_review_resolves(platform: Database) -> None:
    clock = SetClock(AT)
    watch = OverdueReviews(changes, alerts, Calls(platform, MemoryAudit(), Outbox(), clock))
    change = _emergency(platform)
    clock.move(timedelta(hours=24))
    assert watch.run_once() == 0
    clock.move(timedelta(seconds=1))
    assert (watch.run_once(), watch.run_once()) == (1, 0)
    with platform.reading() as connection:
        (alert,) = alerts.unresolved(connection, name=ALERT)
    assert (alert.subject, alert.n_seen) == (change.ref, 1)
    with opened_call(platform, "user:omar", now=clock.now()) as call:
        changes.review(call, change.id, Verdict.JUSTIFIED, "Late, but fine")
    assert (watch.run_once(), watch.run_once()) == (1, 0)
    with platform.reading() as connection:
        assert alerts.get(connection, alert.id).state is AlertState.RESOLVED
