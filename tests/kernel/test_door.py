"""The door: checked, authorised, done and audited in one transaction, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import Column, String, Table, insert, select

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database, metadata
from falaj.kernel.door import Backend, LocalDoor, Services, face
from falaj.kernel.errors import (
    Conflict,
    FalajError,
    Forbidden,
    InvalidInput,
    NotFound,
    StepUpRequired,
    Unavailable,
)
from falaj.kernel.outbox import Outbox, outbox_events
from falaj.kernel.ports import Outcome
from falaj.kernel.telemetry import Telemetry
from falaj.testing.fakes import AllowAll, DenyAll, MemoryAudit, MemoryResources, RulePolicy

notes_table = Table("test_notes", metadata, Column("text", String(100), primary_key=True))
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Note(BaseModel):
    text: str
    by: str


class Notes(Service):
    """Notes on the wall."""

    name = "notes"

    @action(post="/notes/{text}", on="note")
    def write(self, text: str, *, fail: bool = False, password: SecretStr | None = None) -> Note:
        """Write a note."""
        self.call.connection.execute(insert(notes_table).values(text=text))
        self.call.emit("note.written", text=text)
        self.call.note(length=len(text))
        if fail:
            raise Conflict("The wall is full.", hint="Take a note down.")
        return Note(text=text, by=self.call.principal.id)

    @action(get="/notes")
    def list(self) -> list[str]:
        """All notes."""
        return list(self.call.connection.execute(select(notes_table.c.text)).scalars())

    @action(post="/notes/{text}/copies", on="note", reads_first=True)
    def copy(self, text: str, *, fail: bool = False) -> list[str]:
        """Write a note that says how many there are."""
        n = self.call.connection.execute(select(notes_table.c.text)).all()
        self.meanwhile()
        told: list[str] = []

        def written() -> None:
            row = {"text": f"{text} {len(n)}"}
            self.call.connection.execute(insert(notes_table).values(**row))
            self.call.emit("note.written", **row)
            if fail:
                raise Conflict("The wall is full.")
            told.append(row["text"])

        self.call.after_reading(written)
        return told

    def meanwhile(self) -> None:
        """What others do while a note is read."""

    @action(post="/notes/{text}/burning", on="note", step_up=True)
    def burn(self, text: str) -> None:
        """Burn a note."""


class World:
    def __init__(self, database: Database, policy: Any) -> None:
        self.database = database
        self.audit = MemoryAudit()
        self.clock = SetClock(NOW)
        self.backend = Backend(
            services=Services([Notes()]),
            database=database,
            policy=policy,
            audit=self.audit,
            resources=MemoryResources({AssetRef("note", "known"): {"owner": "user:omar"}}),
            events=Outbox(),
            clock=self.clock,
            telemetry=Telemetry(),
        )

    def notes(self, mfa_at: datetime | None = None) -> Notes:
        caller = Caller(Principal("user:amina", PrincipalKind.USER, ("viewer",)), mfa_at=mfa_at)
        return face(Notes, LocalDoor(self.backend, caller))

    def written(self) -> list[str]:
        with self.database.reading() as connection:
            return list(connection.execute(select(notes_table.c.text)).scalars())

    def events(self) -> list[str]:
        with self.database.reading() as connection:
            return list(connection.execute(select(outbox_events.c.type)).scalars())


@pytest.fixture
def world(database: Database) -> World:
    return World(database, AllowAll())


def test_a_call_does_its_work_and_leaves_one_record_and_its_events(world: World) -> None:
    note = world.notes().write("salaam")
    assert note == Note(text="salaam", by="user:amina")
    assert world.written() == ["salaam"]
    assert world.events() == ["note.written"]
    (entry,) = world.audit.entries
    assert (entry.action, entry.resource, entry.outcome) == (
        "notes.write",
        "note:salaam",
        Outcome.DONE,
    )
    assert entry.details == {"length": 6}
    assert entry.at == NOW


def test_a_failed_call_is_undone_and_recorded(world: World) -> None:
    with pytest.raises(Conflict, match="wall is full"):
        world.notes().write("lost", fail=True)
    assert world.written() == []
    assert world.events() == []
    (entry,) = world.audit.entries
    assert entry.outcome is Outcome.FAILED
    assert entry.details == {"error": "conflict"}


def test_the_work_is_undone_when_its_record_cannot_be_written(world: World) -> None:
    world.audit.broken = True
    with pytest.raises(Unavailable):
        world.notes().write("unrecorded")
    assert world.written() == []
    assert world.events() == []


def test_a_refused_call_is_recorded_and_does_nothing(database: Database) -> None:
    world = World(database, DenyAll())
    with pytest.raises(FalajError):
        world.notes().write("known")
    assert world.written() == []
    (entry,) = world.audit.entries
    assert entry.outcome is Outcome.REFUSED
    assert entry.reasons == ("deny-all",)


def test_missing_and_forbidden_look_the_same_to_one_who_may_not_know(database: Database) -> None:
    notes = World(database, DenyAll()).notes()
    with pytest.raises(NotFound) as known:
        notes.write("known")
    with pytest.raises(NotFound) as unknown:
        notes.write("other")
    assert known.value.message.replace("known", "X") == unknown.value.message.replace("other", "X")
    assert known.value.hint == unknown.value.hint


def test_one_who_may_see_a_thing_is_told_that_it_is_forbidden(database: Database) -> None:
    world = World(database, RulePolicy(lambda _c, act, _r, _s: act == "assets.get"))
    with pytest.raises(Forbidden, match=r"notes\.write"):
        world.notes().write("known")


def test_a_sensitive_action_needs_a_second_factor_of_the_last_five_minutes(world: World) -> None:
    with pytest.raises(StepUpRequired):
        world.notes().burn("known")
    with pytest.raises(StepUpRequired):
        world.notes(mfa_at=NOW - timedelta(minutes=5, microseconds=1)).burn("known")
    world.notes(mfa_at=NOW - timedelta(minutes=5)).burn("known")
    assert [entry.outcome for entry in world.audit.entries] == [
        Outcome.REFUSED,
        Outcome.REFUSED,
        Outcome.DONE,
    ]


def test_a_second_factor_from_the_future_does_not_count(world: World) -> None:
    with pytest.raises(StepUpRequired):
        world.notes(mfa_at=NOW + timedelta(seconds=1)).burn("known")


def test_a_policy_that_would_permit_after_step_up_asks_for_it(database: Database) -> None:
    world = World(database, RulePolicy(lambda _c, _a, _r, stepped_up: stepped_up))
    with pytest.raises(StepUpRequired):
        world.notes().list()


def test_wrong_arguments_are_named_and_recorded(world: World) -> None:
    with pytest.raises(InvalidInput, match="fail: Input should be a valid boolean"):
        world.notes().write("x", fail="perhaps")  # type: ignore[arg-type]
    (entry,) = world.audit.entries
    assert entry.outcome is Outcome.FAILED
    assert entry.details == {"error": "invalid-input"}


def test_unknown_arguments_are_refused(world: World) -> None:
    door = LocalDoor(world.backend, Caller(Principal("user:amina", PrincipalKind.USER)))
    with pytest.raises(InvalidInput, match="colour"):
        door.call(world.backend.services.actions["notes.list"], {"colour": "red"})


def test_a_secret_never_reaches_the_record(world: World) -> None:
    world.notes().write("quiet", password=SecretStr("hunter2"))
    (entry,) = world.audit.entries
    assert entry.arguments["password"] == "(secret)"
    assert "hunter2" not in str(entry)


def test_a_repeat_with_the_same_key_returns_the_first_answer(world: World) -> None:
    first = world.notes().write("once", idempotency_key="k1")  # type: ignore[call-arg]
    again = world.notes().write("once", idempotency_key="k1")  # type: ignore[call-arg]
    assert again == first
    assert world.written() == ["once"]
    assert world.events() == ["note.written"]
    assert world.audit.entries[1].details == {"repeats": world.audit.entries[0].call_id}


def test_a_key_cannot_be_used_for_another_call(world: World) -> None:
    world.notes().write("once", idempotency_key="k1")  # type: ignore[call-arg]
    with pytest.raises(Conflict, match="k1"):
        world.notes().write("twice", idempotency_key="k1")  # type: ignore[call-arg]
    assert world.written() == ["once"]


def test_an_inner_call_joins_the_transaction_and_is_its_parents_child(world: World) -> None:
    write = world.backend.services.actions["notes.write"]
    caller = Caller(Principal("user:amina", PrincipalKind.USER))
    with (
        pytest.raises(ZeroDivisionError),
        world.database.transaction() as connection,
    ):
        from falaj.kernel.call import Call

        parent = Call(caller=caller, action="x.y", now=NOW, connection=connection)
        LocalDoor(world.backend, caller).call(write, {"text": "inner"}, parent=parent)
        raise ZeroDivisionError
    assert world.written() == []


def test_the_events_of_an_inner_call_are_kept_with_its_parents_at_the_end(world: World) -> None:
    write = world.backend.services.actions["notes.write"]
    caller = Caller(Principal("user:amina", PrincipalKind.USER))
    calls = Calls(world.database, world.audit, Outbox(), world.clock)
    with calls.opened("x.y", "user:amina") as parent:
        parent.emit("outer.begun")
        LocalDoor(world.backend, caller).call(write, {"text": "inner"}, parent=parent)
        parent.emit("outer.ended")
        # Written now, they would hold up every other commit on PostgreSQL until the parent ends.
        assert parent.connection.execute(select(outbox_events.c.type)).all() == []
    assert world.events() == ["outer.begun", "note.written", "outer.ended"]


def test_an_unknown_verb_is_an_attribute_error_that_lists_what_there_is(world: World) -> None:
    with pytest.raises(AttributeError, match="write, list, copy, burn"):
        world.notes().erase()  # type: ignore[attr-defined]
    assert dir(world.notes()) == ["burn", "copy", "list", "write"]
    assert repr(world.notes()) == "<notes: write, list, copy, burn>"


def test_a_service_is_not_reached_past_the_door() -> None:
    with pytest.raises(RuntimeError, match="through a door"):
        Notes().list()


def test_calls_are_counted_with_their_outcome(world: World) -> None:
    world.notes().list()
    with pytest.raises(Conflict):
        world.notes().write("x", fail=True)
    text = world.backend.telemetry.exposition().decode()
    assert 'falaj_actions_total{action="notes.list",outcome="done"} 1.0' in text
    assert 'falaj_actions_total{action="notes.write",outcome="failed"} 1.0' in text


def test_calls_that_end_the_same_way_are_counted_together(world: World) -> None:
    for _ in range(3):
        world.notes().list()
    text = world.backend.telemetry.exposition().decode()
    assert 'falaj_actions_total{action="notes.list",outcome="done"} 3.0' in text
    assert 'falaj_action_seconds_count{action="notes.list"} 3.0' in text


def test_rows_of_data_never_stand_in_the_record(world: World) -> None:
    write = world.backend.services.actions["notes.write"]
    assert write.recorded({"rows": [{"name": "Amina"}]}) == {"rows": "(1 items)"}
    assert write.recorded({"tags": ["a", "b"]}) == {"tags": ["a", "b"]}
    assert write.recorded({"blob": b"123", "long": "x" * 600}) == {
        "blob": "(3 bytes)",
        "long": "x" * 500 + "…",
    }


def test_each_call_is_a_span_of_a_trace(world: World) -> None:
    from opentelemetry import trace

    seen: list[str] = []

    class Spans(trace.NoOpTracer):
        def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:
            seen.append(f"{name} {kwargs['attributes']['principal']}")
            return super().start_as_current_span(name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer", lambda _name: Spans())
        world.notes().list()
    assert seen == ["notes.list user:amina"]


class Meanwhile(Notes):
    """Notes, while somebody does something else."""

    def __init__(self, act: Any) -> None:
        self.meanwhile = act  # type: ignore[method-assign]


def busy(world: World, act: Any) -> Notes:
    world.backend.services = Services([Meanwhile(act)])
    return world.notes()


def test_others_write_while_an_action_reads_and_it_writes_afterwards(world: World) -> None:
    def other() -> None:
        with world.database.transaction() as connection:
            connection.execute(insert(notes_table).values(text="other"))

    assert busy(world, other).copy("mine") == ["mine 0"]
    assert sorted(world.written()) == ["mine 0", "other"]
    assert world.events() == ["note.written"]
    (entry,) = world.audit.entries
    assert (entry.action, entry.outcome) == ("notes.copy", Outcome.DONE)


def test_what_was_forbidden_while_an_action_read_is_not_written(world: World) -> None:
    def forbid() -> None:
        world.backend.policy = DenyAll()

    with pytest.raises(FalajError):
        busy(world, forbid).copy("mine")
    assert world.written() == []
    (entry,) = world.audit.entries
    assert entry.outcome is Outcome.REFUSED


def test_what_an_action_that_reads_first_wrote_is_undone_when_it_fails(world: World) -> None:
    with pytest.raises(Conflict):
        world.notes().copy("mine", fail=True)
    assert (world.written(), world.events()) == ([], [])
    (entry,) = world.audit.entries
    assert entry.outcome is Outcome.FAILED


def test_a_repeat_of_an_action_that_reads_first_reads_nothing(world: World) -> None:
    seen: list[int] = []
    notes = busy(world, lambda: seen.append(1))
    for _ in range(2):
        assert notes.copy("mine", idempotency_key="k") == ["mine 0"]  # type: ignore[call-arg]
    assert (world.written(), seen) == (["mine 0"], [1])
