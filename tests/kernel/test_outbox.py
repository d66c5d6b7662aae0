"""Events reach each subscriber, whatever order their transactions end in."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from falaj.kernel.call import Event
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox, Subscription

AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(name: str) -> Event:
    return Event(f"event_{name}", name, AT, {})


def test_an_event_whose_transaction_ends_late_is_delivered(database: Database) -> None:
    delivered: list[str] = []
    subscription = Subscription(database, "all", lambda _call, told: delivered.append(told.type))

    def tell_and_deliver() -> None:
        with database.transaction() as connection:
            Outbox().append(connection, [event("second")])
        subscription.deliver()

    other = threading.Thread(target=tell_and_deliver)
    with database.transaction() as connection:
        Outbox().append(connection, [event("first")])
        other.start()
        other.join(0.5)  # it ends here if it does not wait for this transaction
    other.join()
    subscription.deliver()
    assert delivered == ["first", "second"]


def test_an_event_whose_transaction_is_rolled_back_holds_nothing_up(database: Database) -> None:
    delivered: list[str] = []
    subscription = Subscription(database, "all", lambda _call, told: delivered.append(told.type))
    try:
        with database.transaction() as connection:
            Outbox().append(connection, [event("never")])
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    with database.transaction() as connection:
        Outbox().append(connection, [event("then")])
    assert subscription.deliver() == 1
    assert delivered == ["then"]
