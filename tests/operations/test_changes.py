from __future__ import annotations

import threading
from typing import Any

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.database import Database
from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from falaj.operations.changes import Changes
from falaj.operations.model import Change, ChangeState
from falaj.testing.calls import opened_call

MODEL = AssetRef("model_version", "delay/3")
catalog = Catalog()


def promote(call: Call, change: Change) -> None:
    catalog.record(call, change.subject, attributes={"stage": change.payload["to"]})


changes = Changes(catalog, {"promotion": promote})


@pytest.fixture
def subject(database: Database, make_call: Any) -> Database:
    with make_call(database) as call:
        catalog.record(call, MODEL, classification=Classification.PERSONAL, region="ae")
    return database


def _asked(database: Database, by: str = "user:amina", **given: Any) -> Change:
    with opened_call(database, by) as call:
        return changes.open(
            call,
            **{
                "kind": "promotion",
                "subject": MODEL,
                "title": "Promote delay 3",
                "reason": "AUC 0.756 against 0.709",
                "evidence": {"auc": 0.756},
                "payload": {"to": "production"},
                **given,
            },
        )


def _stage(database: Database) -> str | None:
    with database.reading() as connection:
        found: str | None = catalog.get(connection, MODEL).attributes.get("stage")
        return found


def test_a_change_waits_with_its_evidence(subject: Database) -> None:
    change = _asked(subject)
    with subject.reading() as connection:
        kept = changes.get(connection, change.id)
        asset = catalog.get(connection, change.ref)
    assert kept == change
    assert (kept.state, kept.evidence, kept.payload) == (
        ChangeState.WAITING, {"auc": 0.756}, {"to": "production"},
    )  # fmt: skip
    assert [(entry.what, entry.by) for entry in kept.history] == [("asked", "user:amina")]
    assert (asset.classification, asset.region) == (Classification.PERSONAL, "ae")
    assert _stage(subject) is None


def test_an_approval_by_another_carries_the_change_out(subject: Database) -> None:
    change = _asked(subject)
    with opened_call(subject, "user:omar") as call:
        approved = changes.approve(call, change.id, "The gates pass")
    assert (approved.state, approved.decided_by) == (ChangeState.APPROVED, "user:omar")
    assert approved.decision == "The gates pass"
    assert [entry.what for entry in approved.history] == ["asked", "approved"]
    assert _stage(subject) == "production"
    with subject.reading() as connection:
        (edge,) = catalog.upstream(connection, MODEL)
    assert (edge.source, edge.relation) == (change.ref, Relation.APPROVED)
    assert "change.approved" in [event.type for event in call.events]


def test_nobody_decides_on_their_own_change(subject: Database) -> None:
    change = _asked(subject)
    for decide in (changes.approve, changes.reject):
        with pytest.raises(Forbidden, match="yourself"), opened_call(subject) as call:
            decide(call, change.id, "Trust me")
    assert _stage(subject) is None
    with subject.reading() as connection:
        assert changes.get(connection, change.id).state is ChangeState.WAITING


def test_a_rejected_change_is_not_carried_out(subject: Database) -> None:
    change = _asked(subject)
    with opened_call(subject, "user:omar") as call:
        rejected = changes.reject(call, change.id, "The slice by carrier is worse")
    assert rejected.state is ChangeState.REJECTED
    assert _stage(subject) is None


def test_only_who_asked_may_withdraw(subject: Database) -> None:
    change = _asked(subject)
    with pytest.raises(Forbidden, match="asked for by"), opened_call(subject, "user:omar") as call:
        changes.withdraw(call, change.id)
    with opened_call(subject) as call:
        assert changes.withdraw(call, change.id).state is ChangeState.WITHDRAWN


@pytest.mark.parametrize("again", ["approve", "reject"])
def test_a_decided_change_is_never_decided_again(subject: Database, again: str) -> None:
    change = _asked(subject)
    with opened_call(subject, "user:omar") as call:
        changes.reject(call, change.id, "No")
    told = "rejected by user:omar"
    with pytest.raises(Conflict, match=told), opened_call(subject, "user:sara") as call:
        getattr(changes, again)(call, change.id, "Yes")
    with pytest.raises(Conflict), opened_call(subject) as call:
        changes.withdraw(call, change.id)


def test_two_approvals_at_once_carry_it_out_once(subject: Database) -> None:
    done: list[str] = []
    counting = Changes(catalog, {"promotion": lambda call, change: done.append(change.id)})
    change = _asked(subject)
    barrier = threading.Barrier(4)
    refused: list[Conflict] = []

    def one(n: int) -> None:
        barrier.wait()
        try:
            with opened_call(subject, f"user:approver{n}") as call:
                counting.approve(call, change.id, "Yes")
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [change.id]
    assert len(refused) == 3


def test_a_handler_that_fails_leaves_the_change_waiting(subject: Database) -> None:
    def broken(call: Call, change: Change) -> None:
        promote(call, change)
        raise Conflict("The bundle does not verify.")

    change = _asked(subject)
    failing = Changes(catalog, {"promotion": broken})
    with pytest.raises(Conflict, match="bundle"), opened_call(subject, "user:omar") as call:
        failing.approve(call, change.id, "Yes")
    assert _stage(subject) is None
    with subject.reading() as connection:
        waiting = changes.get(connection, change.id)
        assert (waiting.state, len(waiting.history)) == (ChangeState.WAITING, 1)
        assert catalog.upstream(connection, MODEL) == []


def test_the_same_change_waits_only_once(subject: Database) -> None:
    first = _asked(subject)
    with pytest.raises(AlreadyExists, match="waits already"):
        _asked(subject, by="user:omar", title="Again")
    _asked(subject, payload={"to": "staging"})
    with opened_call(subject, "user:omar") as call:
        changes.reject(call, first.id, "Not yet")
    assert _asked(subject).id != first.id


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"kind": "surprise"}, InvalidInput, "not a kind of change; there are: promotion"),
        ({"reason": " "}, InvalidInput, "reason is empty"),
        ({"title": "x" * 4001}, InvalidInput, "4001 characters"),
        ({"subject": AssetRef("model_version", "no/1")}, NotFound, "no/1"),
    ],
)
def test_a_malformed_change_is_refused(
    subject: Database, given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        _asked(subject, **given)
    with subject.reading() as connection:
        assert changes.listed(connection) == []


def test_a_decision_needs_a_reason(subject: Database) -> None:
    change = _asked(subject)
    with pytest.raises(InvalidInput, match="reason"), opened_call(subject, "user:omar") as call:
        changes.approve(call, change.id, "")


def test_changes_are_listed_by_state_the_newest_first(subject: Database) -> None:
    one = _asked(subject)
    two = _asked(subject, payload={"to": "staging"})
    with opened_call(subject, "user:omar") as call:
        changes.reject(call, one.id, "No")
        assert [change.id for change in changes.listed(call.connection)] == [two.id, one.id]
        (waiting,) = changes.listed(call.connection, state=ChangeState.WAITING)
        assert waiting.id == two.id
        with pytest.raises(NotFound):
            changes.get(call.connection, "change_none")
