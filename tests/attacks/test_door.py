"""Ways around the rules of the door: classifications, purposes, records, other people's jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from falaj.features.model import FeatureService
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput, NotFound
from falaj.kernel.resources import Resources, Used
from falaj.models.model import ModelPolicy
from falaj.monitoring.model import Monitor
from falaj.monitoring.scheduletables import check_rows
from falaj.serving.model import Endpoint
from falaj.training.costs.ledger import Ledger
from falaj.training.costs.model import Grouping
from falaj.trust.audit_tables import audit_records

COLUMNS = {"name": "text", "salary": "integer", "paid_at": "instant"}


def source(name: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "source", "name": name, "path": "people.csv", "columns": COLUMNS,
        "format": "csv", **{"table": "people", **more},
    }  # fmt: skip


@pytest.fixture(scope="module")
def people(site: Any) -> Any:
    """A sensitive table, declared by its steward and loaded."""
    rows = "name,salary,paid_at\namina,10,2026-01-01T00:00:00Z\n"
    (site.folder / "people.csv").write_text(rows, encoding="utf-8")
    steward = site.caller("steward", name="sam")
    declared = source("people", classification="sensitive")
    site.ask(steward, "definitions.apply", documents=[declared])
    site.ask(site.caller("ml_engineer", name="ida"), "sources.load", source="people")
    site.run_jobs()
    return site


def classification_of(site: Any, kind: str, key: str) -> str | None:
    with site.premises.database.reading() as connection:
        return site.premises.catalog.get(connection, AssetRef(kind, key)).classification


def test_an_engineer_cannot_lower_a_classification_and_then_read(people: Any) -> None:
    engineer = people.caller("ml_engineer")
    for lower in ("public", "personal"):
        with pytest.raises(Forbidden, match="lower"):
            people.ask(
                engineer, "assets.describe", kind="table", key="people", classification=lower
            )
    with pytest.raises(Forbidden):
        people.ask(engineer, "tables.read", table="people")


def test_a_second_source_of_the_same_table_cannot_lower_it(people: Any) -> None:
    engineer = people.caller("ml_engineer")
    second = source("people-again", classification="public")
    people.ask(engineer, "definitions.apply", documents=[second])
    assert classification_of(people, "table", "people") == "sensitive"


@pytest.mark.parametrize("lower", ["public", None])
def test_a_definition_cannot_be_applied_with_a_lower_classification(
    people: Any, lower: str | None
) -> None:
    engineer = people.caller("ml_engineer")
    with pytest.raises(Forbidden, match="lower"):
        people.ask(
            engineer,
            "definitions.apply",
            documents=[source("people", classification=lower, description="harmless")],
        )


def test_a_steward_may_lower_what_was_raised_too_far(people: Any) -> None:
    ref = {"kind": "source", "key": "raised"}
    engineer, steward = people.caller("ml_engineer"), people.caller("steward", name="sam")
    declared = source("raised", table="raised")
    people.ask(engineer, "definitions.apply", documents=[declared])
    people.ask(engineer, "assets.describe", **ref, classification="sensitive")
    people.ask(steward, "assets.describe", **ref, classification="internal")
    assert classification_of(people, "source", "raised") == "internal"


def test_a_feature_view_does_not_hand_out_a_sensitive_table_as_harmless(people: Any) -> None:
    entity = {"kind": "entity", "name": "person", "keys": {"name": "string"}}
    view = {
        "kind": "feature_view", "name": "pay", "entity": "person", "source": "people",
        "event_time": "paid_at", "features": [{"name": "salary", "dtype": "int64"}],
    }  # fmt: skip
    with pytest.raises(InvalidInput, match="sensitive table"):
        people.ask(people.caller("ml_engineer"), "definitions.apply", documents=[entity, view])


def test_a_table_that_the_catalogue_does_not_know_is_not_read(people: Any) -> None:
    import pyarrow as pa

    people.premises.lake.append("stray", pa.table({"name": ["amina"]}))
    for action in ("tables.read", "tables.get", "tables.snapshots"):
        for name in ("stray", "PEOPLE"):
            with pytest.raises(NotFound):
                people.ask(people.caller("ml_engineer"), action, table=name)


def test_a_viewer_sees_nothing_of_other_peoples_jobs(people: Any) -> None:
    theirs = people.ask(people.caller("operator", name="omar"), "jobs.list")
    assert theirs
    for role in ("viewer", "data_scientist", "service"):
        caller = people.caller(role, name="vi")
        with pytest.raises(NotFound):
            people.ask(caller, "jobs.get", job_id=theirs[0].id)
    assert people.ask(people.caller("viewer", name="vi"), "jobs.list") == []


def test_a_purpose_that_opened_data_is_on_record(people: Any) -> None:
    caller = people.caller("steward", name="sam", factor=True, purpose="payroll audit")
    people.ask(caller, "tables.read", table="people")
    assert json.loads(last_record(people).body)["details"]["purpose"] == "payroll audit"


def last_record(site: Any) -> Any:
    with site.premises.database.reading() as connection:
        query = select(audit_records).order_by(audit_records.c.seq.desc())
        return connection.execute(query).first()


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_name_that_no_database_holds_is_refused_and_recorded(site: Any, text: str) -> None:
    before = last_record(site).seq
    with pytest.raises(FalajError):
        site.ask(site.caller("viewer"), "changes.approve", id=text, reason="x")
    record = last_record(site)
    assert record.seq == before + 1
    assert (record.action, record.outcome) == ("changes.approve", "failed")


def test_an_administrator_cannot_reset_and_invite_the_own_account(site: Any) -> None:
    administrator = site.caller("administrator", name="owner", factor=True)
    with pytest.raises(Forbidden):
        site.ask(administrator, "accounts.invite", name="owner", roles=("approver", "ml_engineer"))


@pytest.mark.parametrize("how", ["table", "query", "upper case"])
def test_a_training_set_is_no_way_around_the_rules_of_reading(people: Any, how: str) -> None:
    spines = {
        "table": {"spine": "people"},
        "query": {"spine_query": "SELECT name, salary AS y, paid_at AS timestamp FROM people"},
        "upper case": {"spine_query": 'SELECT * FROM "PEOPLE"'},
    }
    spec = {
        "feature_service": "nothing", "label": "y", **spines[how],
        "split": {
            "train_until": "2026-01-01T00:00:00Z", "validation_until": "2026-02-01T00:00:00Z"
        },
    }  # fmt: skip
    for role in ("data_scientist", "ml_engineer"):
        caller = people.caller(role)
        with pytest.raises(Forbidden, match="train on table:people"):
            people.ask(caller, "training.prepare", spec=spec)
        with pytest.raises(Forbidden, match="train on table:people"):
            people.ask(caller, "training.train", request={"model": "m", "spec": spec})


def test_labels_that_may_not_be_read_are_not_told_by_a_report_either(people: Any) -> None:
    with pytest.raises(Forbidden, match="table:people"):
        people.ask(
            people.caller("ml_engineer"), "monitors.performance",
            endpoint="any", label_table="people", label="salary",
        )  # fmt: skip


def test_the_checks_of_a_monitor_are_hidden_with_its_endpoint(site: Any) -> None:
    viewer = site.caller("viewer")
    monitor = Monitor(name="hidden-watch", endpoint="hidden-late", schedule={"every": 3600})
    with site.premises.calls.opened("test.prepare", "user:owner") as call:
        fields = FeatureService(name="hidden-fields", request_fields={"x": "float64"})
        model = ModelPolicy(name="hidden-late", feature_service="hidden-fields", label="late")
        endpoint = Endpoint(name="hidden-late", model="hidden-late")
        site.premises.definitions.apply(call, [fields, model, endpoint, monitor])
        call.connection.execute(
            check_rows.insert().values(
                id="check_1", monitor="hidden-watch", tick=call.now, job="job_1",
                principal="user:owner", state="done", asked_at=call.now, ended_at=call.now,
                result={"findings": ["wind has drifted"]},
            )
        )  # fmt: skip
    (check,) = site.ask(viewer, "monitors.checks", name="hidden-watch")
    assert check.result == {"findings": ["wind has drifted"]}
    with site.premises.calls.opened("test.prepare", "user:owner") as call:
        ref = AssetRef("endpoint", "hidden-late")
        site.premises.catalog.describe(call, ref, classification="personal")
    for action in ("monitors.show", "monitors.checks"):
        with pytest.raises(NotFound, match="no monitor 'hidden-watch'"):
            site.ask(viewer, action, name="hidden-watch")


@pytest.mark.parametrize("by", list(Grouping))
def test_a_cost_by_month_does_not_tell_of_a_model_that_is_hidden(site: Any, by: Grouping) -> None:
    ledger, name = Ledger(), f"hidden-{by}"
    with site.premises.calls.opened("test.prepare", "user:owner") as call:
        site.premises.catalog.record(call, AssetRef("model", name))
        usage = ledger.begin(
            call.connection, run="run_1", model=name, team="amber", job=f"job_{by}",
            resources=Resources(), limited=True, now=call.now,
        )  # fmt: skip
        used = Used(wall_seconds=1)
        ledger.close(call.connection, usage, now=call.now, used=used, outcome="done")
    viewer = site.caller("viewer")
    (line,) = site.ask(viewer, "costs.report", by=by, model=name).lines
    assert line.n_attempts == 1
    with site.premises.calls.opened("test.prepare", "user:owner") as call:
        ref = AssetRef("model", name)
        site.premises.catalog.describe(call, ref, classification="personal")
    for hidden in (name, "which-never-was"):
        with pytest.raises(NotFound, match=f"no model '{hidden}'"):
            site.ask(viewer, "costs.report", by=by, model=hidden)
