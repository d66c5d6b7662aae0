"""What all senders share: how long they wait, and that one message's trouble is its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Row, insert, select

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


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 20), (3, 80), (6, 3600), (20, 3600), (10_000, 3600)]
)
def test_waits_grow_fourfold_up_to_the_longest(attempts: int, seconds: int) -> None:
    assert Waits(longest=timedelta(hours=1)).after(attempts) == timedelta(seconds=seconds)


def test_a_message_that_breaks_its_sender_is_tried_again_and_holds_up_no_other(
    sqlite_database: Database,
) -> None:
    clock = SetClock(AT)
    calls = Calls(sqlite_database, MemoryAudit(), Outbox(), clock)
    waiting = {
        "webhook": "box", "event": "event_1", "topic": "webhook.test", "attempts": 0, "error": "",
        "state": DeliveryState.WAITING, "created_at": AT, "next_at": AT,
    }  # fmt: skip
    with sqlite_database.transaction() as connection:
        for body in ("unknown", "well"):
            connection.execute(insert(webhook_deliveries).values(id=body, body=body, **waiting))
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
