from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Classification
from falaj.kernel.call import AssetRef, Call, Caller
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.door import LocalDoor, face
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound, StepUpRequired
from falaj.kernel.ports import Outcome, Resource
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incident_service import IncidentService
from falaj.operations.incidents import Incidents
from falaj.operations.model import Alert, Change, ChangeState, Severity
from falaj.operations.service import AlertService, ChangeService
from falaj.testing.calls import make_caller, make_door
from falaj.testing.fakes import MemoryAudit, RulePolicy

MODEL = AssetRef("model_version", "delay/3")
SECRET = AssetRef("model_version", "salary/1")
AT = datetime(2026, 1, 1, tzinfo=UTC)
catalog = Catalog()
incidents = Incidents(catalog)
alerts = Alerts(catalog, incidents)


def promote(call: Call, change: Change) -> None:
    catalog.record(call, change.subject, attributes={"stage": "production"})


changes = Changes(catalog, {"promotion": promote})


def _may(caller: Caller, resource: Resource) -> bool:
    sensitive = resource.attributes.get("classification") == Classification.SENSITIVE
    return not sensitive or "steward" in caller.principal.roles


def _visible(call: Call, resource: Resource) -> bool:
    return _may(call.caller, resource)


def _door(
    database: Database, who: str = "user:omar", *roles: str, fresh: bool = False, **given: Any
) -> LocalDoor:
    return make_door(
        database,
        [
            ChangeService(changes, catalog, _visible),
            AlertService(alerts, catalog, _visible),
            IncidentService(incidents, catalog, _visible),
        ],
        caller=make_caller(who, roles=roles, mfa_at=AT if fresh else None),
        policy=RulePolicy(lambda caller, _name, resource, _up: _may(caller, resource)),
        resources=catalog,
        clock=SetClock(AT),
        **given,
    )


@pytest.fixture
def asked(database: Database, make_call: Any) -> dict[str, Change]:
    with make_call(database, now=AT) as call:
        catalog.record(call, MODEL)
        catalog.record(call, SECRET, classification=Classification.SENSITIVE)
        return {
            ref.key: changes.open(call, kind="promotion", subject=ref, title="Promote",
                                  reason="Better", evidence={"auc": 0.75}, payload={})
            for ref in (MODEL, SECRET)
        }  # fmt: skip


@pytest.fixture
def raised(database: Database, make_call: Any) -> dict[str, Alert]:
    with make_call(database, "system:monitor", now=AT) as call:
        catalog.record(call, MODEL)
        catalog.record(call, SECRET, classification=Classification.SENSITIVE)
        return {
            ref.key: alerts.raise_alert(call, name="drift", subject=ref, message="PSI 0.4",
                                        severity=Severity.CRITICAL, evidence={"psi": 0.4})
            for ref in (MODEL, SECRET)
        }  # fmt: skip


def test_an_approval_needs_a_fresh_second_factor(
    database: Database, asked: dict[str, Change]
) -> None:
    change = asked[MODEL.key]
    with pytest.raises(StepUpRequired):
        face(ChangeService, _door(database)).approve(change.id, reason="Yes")
    approved = face(ChangeService, _door(database, fresh=True)).approve(change.id, reason="Yes")
    assert approved.state is ChangeState.APPROVED
    with database.reading() as connection:
        assert catalog.get(connection, MODEL).attributes["stage"] == "production"


def test_who_asked_is_refused_also_with_a_fresh_second_factor(
    database: Database, asked: dict[str, Change]
) -> None:
    audit = MemoryAudit()
    mine = face(ChangeService, _door(database, "user:amina", fresh=True, audit=audit))
    with pytest.raises(Forbidden, match="yourself"):
        mine.approve(asked[MODEL.key].id, reason="Trust me")
    (entry,) = audit.entries
    assert entry.outcome is not Outcome.DONE
    assert mine.withdraw(asked[MODEL.key].id).state is ChangeState.WITHDRAWN


def test_a_rejection_through_the_door(database: Database, asked: dict[str, Change]) -> None:
    door = face(ChangeService, _door(database, fresh=True))
    rejected = door.reject(asked[MODEL.key].id, reason="No")
    assert [entry.what for entry in door.get(rejected.id).history] == ["asked", "rejected"]


def test_changes_of_what_one_may_not_see_are_not_seen(
    database: Database, asked: dict[str, Change]
) -> None:
    mine, theirs = (
        face(ChangeService, _door(database, "user:omar", *roles)) for roles in ((), ("steward",))
    )
    assert [change.subject for change in mine.list()] == [MODEL]
    assert len(theirs.list(state=ChangeState.WAITING)) == 2
    with pytest.raises(NotFound):
        mine.get(asked[SECRET.key].id)


def test_alerts_through_the_door(database: Database, raised: dict[str, Alert]) -> None:
    door = face(AlertService, _door(database))
    (listed,) = door.list()
    assert listed.subject == MODEL
    assert door.get(listed.id).evidence == {"psi": 0.4}
    assert door.acknowledge(listed.id).acknowledged_by == "user:omar"
    assert door.resolve(listed.id, resolution="Over").resolution == "Over"
    with pytest.raises(NotFound):
        door.resolve(raised[SECRET.key].id, resolution="Over")


def test_lists_are_told_of_what_one_asks_about_and_may_see(
    database: Database, make_call: Any, asked: dict[str, Change], raised: dict[str, Alert]
) -> None:
    with make_call(database, "system:monitor", now=AT) as call:
        for place in range(3):
            ref = AssetRef("model_version", f"delay/{place + 10}")
            catalog.record(call, ref)
            alerts.raise_alert(call, name="drift", subject=ref, message="PSI 0.4",
                               severity=Severity.CRITICAL, evidence={})  # fmt: skip
    with database.reading() as connection:
        (found,) = alerts.listed(connection, subjects=[MODEL], limit=1)
    assert found.id == raised[MODEL.key].id
    door = _door(database)
    both = [str(MODEL), str(SECRET)]
    lists = (face(AlertService, door), face(IncidentService, door), face(ChangeService, door))
    for service in lists:
        assert [one.subject for one in service.list(subjects=both)] == [MODEL]
        assert service.list(subjects=[str(SECRET)]) == service.list(subjects=[]) == []
        with pytest.raises(InvalidInput, match="is no asset"):
            service.list(subjects=["nothing"])
    mine = face(ChangeService, door)
    ids = [one.id for one in asked.values()]
    assert [one.subject for one in mine.list(ids=ids)] == [MODEL]
    assert mine.list(ids=[]) == mine.list(ids=ids, subjects=[str(SECRET)]) == []


def test_incidents_about_a_subject_are_also_those_that_its_alerts_and_changes_belong_to(
    database: Database, make_call: Any, asked: dict[str, Change], raised: dict[str, Alert]
) -> None:
    door = face(IncidentService, _door(database, "user:sara", "steward"))
    mine, other = (
        next(one.id for one in door.list() if one.subject == ref) for ref in (MODEL, SECRET)
    )
    for belonging in (asked[MODEL.key].ref, raised[MODEL.key].ref):
        third = AssetRef("model_version", f"third/{belonging.kind}")
        with make_call(database, now=AT) as call:
            catalog.record(call, third)
        opened = door.open(str(third), title="Slow")
        door.link(opened.id, to=str(belonging))
        assert {one.id for one in door.list(subjects=[str(MODEL)])} >= {mine, opened.id}
    assert other not in {one.id for one in door.list(subjects=[str(MODEL)])}


def test_incidents_through_the_door(database: Database, raised: dict[str, Alert]) -> None:
    door = face(IncidentService, _door(database))
    (listed,) = door.list()
    assert listed.subject == MODEL
    door.note(listed.id, text="Looking")
    door.resolve(listed.id, resolution="Over")
    assert [entry.what for entry in door.get(listed.id).timeline] == [
        "opened", "note", "resolved",
    ]  # fmt: skip
    assert len(face(IncidentService, _door(database, "user:sara", "steward")).list()) == 2
