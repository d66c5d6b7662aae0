"""The metadata database: whole transactions, exact instants, clear errors."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, Table, func, insert, select, text

from falaj.kernel.call import Event
from falaj.kernel.database import Database, Instant, Json, metadata, retried
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.kernel.outbox import Outbox, Subscription

things = Table(
    "test_things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Instant),
    Column("facts", Json),
)


def test_instants_and_json_come_back_as_they_went(database: Database) -> None:
    at = datetime(2026, 11, 23, 1, 2, 3, 456789, tzinfo=UTC)
    with database.transaction() as connection:
        connection.execute(insert(things).values(id=1, at=at, facts={"a": [1, None]}))
        connection.execute(insert(things).values(id=2))
    with database.reading() as connection:
        rows = connection.execute(select(things).order_by(things.c.id)).all()
    assert (rows[0].at, rows[0].facts) == (at, {"a": [1, None]})
    assert (rows[1].at, rows[1].facts) == (None, None)


def test_an_instant_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="no time zone"), database.transaction() as connection:
        connection.execute(insert(things).values(id=1, at=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        connection.execute(insert(things).values(id=1))
        raise ZeroDivisionError
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(things)).scalar() == 0


def test_writers_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    def add(first: int) -> None:
        for number in range(first, first + 20):
            with database.transaction() as connection:
                connection.execute(insert(things).values(id=number))

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(things)).scalar() == 80


def test_a_database_that_was_not_set_up_says_so(tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(Unavailable, match="falaj init"), empty.reading() as connection:
        connection.execute(select(things))
    empty.close()


def test_a_database_that_another_process_keeps_locked_says_so_and_serves_afterwards(
    tmp_path: Path,
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'locked.db'}", busy_seconds=0.1)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
    other = sqlite3.connect(tmp_path / "locked.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"), database.transaction():
        raise AssertionError("a transaction without its lock")
    other.execute("ROLLBACK")
    other.close()
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
    with database.reading() as connection:
        assert connection.execute(text("SELECT a FROM t")).scalars().all() == [1]
    database.close()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    away = Database("postgresql+psycopg://u:secret@127.0.0.1:1/x")
    with pytest.raises(Unavailable, match="does not answer") as told, away.transaction():
        pass
    assert "secret" not in str(told.value)
    assert "secret" not in away.shown_url


@pytest.mark.parametrize("url", ["nonsense", "oracleish://x/y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="database"):
        Database(url)


def test_work_is_repeated_while_a_component_is_away() -> None:
    tries: list[int] = []

    def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("away")
        return "there"

    assert retried(work, first_wait=0.0001) == "there"
    with pytest.raises(Unavailable):
        retried(lambda: (_ for _ in ()).throw(Unavailable("away")), attempts=2, first_wait=0.0001)


def test_each_subscriber_gets_every_event_once_and_in_order(database: Database) -> None:
    outbox = Outbox()
    with database.transaction() as connection:
        outbox.append(
            connection,
            [
                Event(f"event_{n}", "tick", datetime(2026, 1, 1, tzinfo=UTC), {"n": n})
                for n in range(5)
            ],
        )
    seen: dict[str, list[Any]] = {"a": [], "b": []}
    for name in ("a", "b"):
        subscription = Subscription(
            database, name, lambda _c, event, name=name: seen[name].append(event.payload["n"])
        )
        assert subscription.deliver(limit=3) == 3
        assert subscription.deliver() == 2
        assert subscription.deliver() == 0
    assert seen == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}


def test_an_event_whose_handling_fails_is_delivered_again(database: Database) -> None:
    with database.transaction() as connection:
        Outbox().append(
            connection, [Event("event_1", "tick", datetime(2026, 1, 1, tzinfo=UTC), {})]
        )

    def fail(_connection: Any, _event: Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Subscription(database, "a", fail).deliver()
    seen: list[str] = []
    Subscription(database, "a", lambda _c, event: seen.append(event.id)).deliver()
    assert seen == ["event_1"]
