"""What all senders share: how long they wait, and that one message's trouble is its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Any

import pytest
from sqlalchemy import Row, insert, select, update

from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox
from falaj.operations.model import DeliveryState
from falaj.operations.sending import Answer, Sender, Waits
from falaj.operations.webhooks_tables import webhook_deliveries
from falaj.testing.fakes import MemoryAudit

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Boxes:
    """What is sent, of which some breaks in an unforeseen way."""

    rows = webhook_deliveries
    action = "boxes.send"
    sender = "system:boxes"

    def due(self, now: datetime) -> Any:
        return select(self.rows).where(
            self.rows.c.state == DeliveryState.WAITING, self.rows.c.next_at <= now
        )

    def send(self, row: Row[Any]) -> Answer:
        return Answer("", {"well": 200}[row.body])

    def facts(self, row: Row[Any]) -> tuple[str, dict[str, Any]]:
        return "webhook:box", {}

    def kept(self, answer: Answer) -> dict[str, Any]:
        return {"status": answer.status}

    def ended(self, call: Any, row: Row[Any], answer: Answer, *, dead: bool) -> None:
        call.note(dead=dead)


class Boxed(Boxes):
    """What does as a test says while a message is sent.

    Args:
        sends: called with the id of each.
    """

    def __init__(self, sends: Callable[[str], None]) -> None:
        self._sends = sends
        self.told: list[str] = []

    def due(self, now: datetime) -> Any:
        return super().due(now).order_by(self.rows.c.id)

    def send(self, row: Row[Any]) -> Answer:
        self._sends(row.id)
        return Answer("", row.body)  # the status of HTTP, or what is none

    def kept(self, answer: Answer) -> dict[str, Any]:
        return {"status": int(answer.status or 0)}

    def ended(self, call: Any, row: Row[Any], answer: Answer, *, dead: bool) -> None:
        self.told.append(row.id)


def put(database: Database, clock: SetClock | None = None, **bodies: str) -> Calls:
    """Let deliveries wait; returns what opens calls."""
    waiting = {
        "webhook": "box", "event": "event_1", "topic": "webhook.test", "attempts": 0, "error": "",
        "state": DeliveryState.WAITING, "created_at": AT, "next_at": AT,
    }  # fmt: skip
    with database.transaction() as connection:
        for name, body in bodies.items():
            connection.execute(insert(webhook_deliveries).values(id=name, body=body, **waiting))
    return Calls(database, MemoryAudit(), Outbox(), clock or SetClock(AT))


def states(database: Database) -> dict[str, DeliveryState]:
    with database.reading() as connection:
        return {row.id: row.state for row in connection.execute(select(webhook_deliveries))}


def test_what_was_sent_is_recorded_while_another_one_still_hangs(
    sqlite_database: Database,
) -> None:
    seen: list[dict[str, DeliveryState]] = []

    def sends(name: str) -> None:
        end = monotonic() + 10
        while name == "a" and monotonic() < end:
            seen.append(states(sqlite_database))
            if DeliveryState.WAITING not in (seen[-1]["b"], seen[-1]["c"]):
                return
            sleep(0.01)

    calls = put(sqlite_database, a="200", b="200", c="200")
    assert Sender(Boxed(sends), calls, attempts=2).run_once() == 3
    assert seen[-1] == {
        "a": DeliveryState.WAITING, "b": DeliveryState.DELIVERED,
        "c": DeliveryState.DELIVERED,
    }  # fmt: skip
    assert set(states(sqlite_database).values()) == {DeliveryState.DELIVERED}


def test_what_cannot_be_recorded_leaves_the_record_of_the_others(
    sqlite_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = put(sqlite_database, a="no status", b="200")
    assert Sender(Boxed(lambda _name: None), calls, attempts=2).run_once() == 2
    assert states(sqlite_database) == {"a": DeliveryState.WAITING, "b": DeliveryState.DELIVERED}
    assert "sent, but not recorded" in "".join(capsys.readouterr())


def test_a_sender_that_was_held_up_beyond_its_claim_writes_nothing(
    sqlite_database: Database,
) -> None:
    def sends(_name: str) -> None:
        # Meanwhile the claim ran out, and another process is at the second attempt.
        with sqlite_database.transaction() as connection:
            connection.execute(update(webhook_deliveries).values(attempts=2))

    boxes, calls = Boxed(sends), put(sqlite_database, a="200")
    assert Sender(boxes, calls, attempts=3).run_once() == 1
    assert states(sqlite_database) == {"a": DeliveryState.WAITING}
    assert boxes.told == []


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 20), (3, 80), (6, 3600), (20, 3600), (10_000, 3600)]
)
def test_waits_grow_fourfold_up_to_the_longest(attempts: int, seconds: int) -> None:
    assert Waits(longest=timedelta(hours=1)).after(attempts) == timedelta(seconds=seconds)


def test_a_message_that_breaks_its_sender_is_tried_again_and_holds_up_no_other(
    sqlite_database: Database,
) -> None:
    clock = SetClock(AT)
    calls = put(sqlite_database, clock, unknown="unknown", well="well")
    sender = Sender(Boxes(), calls, attempts=2)
    assert sender.run_once() == 2
    with sqlite_database.reading() as connection:
        rows = {row.id: row for row in connection.execute(select(webhook_deliveries))}
    assert (rows["well"].state, rows["well"].status) == (DeliveryState.DELIVERED, 200)
    assert rows["unknown"].error == "KeyError; the log tells more"
    assert rows["unknown"].next_at == AT + timedelta(seconds=5)
    clock.move(timedelta(seconds=5))
    assert sender.run_once() == 1
    with sqlite_database.reading() as connection:
        states = connection.execute(select(webhook_deliveries.c.state)).scalars().all()
    assert sorted(states) == [DeliveryState.DEAD, DeliveryState.DELIVERED]
