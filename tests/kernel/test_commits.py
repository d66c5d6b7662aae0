"""Shared commits: each call's promise stands, whoever's thread did the work."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, String, Table, event, insert, select
from sqlalchemy.engine import Connection

from falaj.kernel.commits import AT_ONCE, AuditFailed, Commits, _Ask
from falaj.kernel.database import Database, metadata
from falaj.kernel.door import Pace
from falaj.kernel.errors import Conflict, Unavailable
from falaj.kernel.ports import AuditEntry
from falaj.testing.audit import make_entry
from falaj.testing.fakes import MemoryAudit
from falaj.testing.installations import eventually

things = Table(
    "test_commit_things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("text", String(100)),
)


class World:
    """A database, a log in memory, and the number of commits."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.audit = MemoryAudit()
        self.commits = Commits(database, lambda: self.audit)
        self.n_commits = 0
        event.listen(database.engine, "commit", self._counted)

    def _counted(self, _connection: Connection) -> None:
        self.n_commits += 1

    def writing(self, number: int) -> Callable[[Connection, list[AuditEntry]], int]:
        def work(connection: Connection, records: list[AuditEntry]) -> int:
            connection.execute(insert(things).values(id=number, text=str(number)))
            records.append(make_entry(number))
            return number

        return work

    def kept(self) -> set[int]:
        with self.database.reading() as connection:
            return set(connection.execute(select(things.c.id)).scalars())

    def recorded(self) -> set[int]:
        return {entry.arguments["version"] for entry in self.audit.entries}

    def behind_one(self, *works: Callable[[], Any]) -> list[Any]:
        """What each returns or raises, when all queue while one transaction is open."""
        opened, close = threading.Event(), threading.Event()
        found: list[Any] = [None] * len(works)

        def holding(_connection: Connection, _records: list[AuditEntry]) -> None:
            opened.set()
            close.wait(20)

        def doing(at: int) -> None:
            try:
                found[at] = works[at]()
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what it tells is found
                found[at] = error

        def leading() -> None:
            with suppress(Exception, KeyboardInterrupt):  # it may share what fails
                self.commits.do(holding, joins=True)

        first = threading.Thread(target=leading)
        first.start()
        assert opened.wait(20)
        threads = []
        for at in range(len(works)):
            threads.append(threading.Thread(target=doing, args=(at,)))
            threads[-1].start()
            while len(self.commits._queue) + (1 if found[at] is not None else 0) <= at:
                close.wait(0.001)
        close.set()
        for thread in [first, *threads]:
            thread.join(20)
            assert not thread.is_alive()
        return found


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite alone: on PostgreSQL each work has a transaction of its own."""
    monkeypatch.setattr("falaj.kernel.commits.LONGEST_SECONDS", 60.0)  # on a slow machine too
    database = Database(f"sqlite:///{tmp_path / 'commits.db'}")
    metadata.create_all(database.engine)
    yield World(database)
    database.close()


def test_each_call_gets_its_own_result_and_its_record(world: World) -> None:
    found: list[int] = []

    def caller(start: int) -> None:
        for number in range(start, start + 10):
            found.append(world.commits.do(world.writing(number), joins=True))

    threads = [threading.Thread(target=caller, args=(n * 10,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(80))
    assert world.kept() == world.recorded() == set(range(80))


def test_work_is_durable_when_its_call_returns(world: World) -> None:
    world.commits.do(world.writing(1), joins=True)
    assert world.kept() == {1}


def test_calls_that_queue_share_one_commit(embedded: World) -> None:
    works = [
        lambda number=number: embedded.commits.do(embedded.writing(number), joins=True)
        for number in range(20)
    ]
    before = embedded.n_commits
    assert embedded.behind_one(*works) == list(range(20))
    assert embedded.n_commits - before <= 2
    assert embedded.kept() == set(range(20))


def test_what_one_call_raises_undoes_that_call_alone(embedded: World) -> None:
    def failing(connection: Connection, records: list[AuditEntry]) -> None:
        embedded.writing(2)(connection, records)
        raise Conflict("No.", hint="Try another.")

    one, two, three = embedded.behind_one(
        lambda: embedded.commits.do(embedded.writing(1), joins=True),
        lambda: embedded.commits.do(failing, joins=True),
        lambda: embedded.commits.do(embedded.writing(3), joins=True),
    )
    assert (one, three) == (1, 3)
    assert isinstance(two, Conflict)
    assert embedded.kept() == embedded.recorded() == {1, 3}


def test_a_commit_that_fails_fails_every_call_that_shared_it(embedded: World) -> None:
    embedded.audit.broken = True
    found = embedded.behind_one(
        lambda: embedded.commits.do(embedded.writing(1), joins=True),
        lambda: embedded.commits.do(embedded.writing(2), joins=True),
    )
    assert [type(one) for one in found] == [AuditFailed, AuditFailed]
    assert embedded.kept() == set()
    embedded.audit.broken = False
    assert embedded.commits.do(embedded.writing(3), joins=True) == 3
    assert embedded.kept() == embedded.recorded() == {3}


@pytest.mark.parametrize("given_up", ["ROLLBACK", "RELEASE falaj_call"])
def test_a_transaction_that_the_database_gave_up_is_nobodys_success(
    embedded: World, given_up: str
) -> None:
    def full(connection: Connection, _records: list[AuditEntry]) -> None:
        raw: Any = connection.connection.driver_connection
        raw.execute(given_up)  # as SQLite does by itself when its disk is full

    one, two = embedded.behind_one(
        lambda: embedded.commits.do(embedded.writing(1), joins=True),
        lambda: embedded.commits.do(full, joins=True),
    )
    assert isinstance(one, Unavailable)
    assert isinstance(two, Unavailable)
    assert embedded.kept() == embedded.recorded() == set()
    assert embedded.commits.do(embedded.writing(3), joins=True) == 3


def test_an_interrupted_leader_leaves_nobody_waiting(embedded: World) -> None:
    def interrupted(_connection: Connection, _records: list[AuditEntry]) -> None:
        raise KeyboardInterrupt

    found = embedded.behind_one(
        lambda: embedded.commits.do(embedded.writing(1), joins=True),
        lambda: embedded.commits.do(interrupted, joins=True),
        lambda: embedded.commits.do(embedded.writing(3), joins=True),
    )
    assert any(isinstance(one, KeyboardInterrupt | Unavailable) for one in found)
    assert None not in found
    assert embedded.commits.do(embedded.writing(9), joins=True) == 9


def test_a_transaction_that_cannot_be_begun_fails_all_that_wait(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'busy.db'}", busy_seconds=0.3)
    metadata.create_all(database.engine)
    world = World(database)
    found: list[Any] = []

    def asking(number: int) -> None:
        try:
            found.append(world.commits.do(world.writing(number), joins=True))
        except Unavailable as error:
            found.append(error)

    threads = [threading.Thread(target=asking, args=(number,)) for number in range(8)]
    with database._writing:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert [type(one) for one in found] == [Unavailable] * 8
    assert world.kept() == world.recorded() == set()
    assert world.commits.do(world.writing(9), joins=True) == 9
    assert world.kept() == world.recorded() == {9}
    database.close()


def test_who_leads_is_served_however_late_it_is(
    embedded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falaj.kernel.commits.LONGEST_SECONDS", -1.0)
    works = [
        lambda number=number: embedded.commits.do(embedded.writing(number), joins=True)
        for number in range(6)
    ]
    assert embedded.behind_one(*works) == list(range(6))
    assert embedded.kept() == embedded.recorded() == set(range(6))


def test_a_call_inside_anothers_work_is_refused_and_waits_for_nothing(embedded: World) -> None:
    def within(_connection: Connection, _records: list[AuditEntry]) -> None:
        embedded.commits.do(embedded.writing(1), joins=True)

    with pytest.raises(Unavailable, match="not as its child"):
        embedded.commits.do(within, joins=True)
    assert embedded.commits.do(embedded.writing(2), joins=True) == 2
    assert embedded.kept() == {2}


def test_work_runs_in_the_context_of_whoever_asked(embedded: World) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    def asking(name: str) -> str:
        who.set(name)
        return embedded.commits.do(lambda _connection, _records: who.get(), joins=True)

    assert embedded.behind_one(lambda: asking("amina"), lambda: asking("omar")) == ["amina", "omar"]


def test_slow_work_shares_no_transaction(embedded: World) -> None:
    embedded.commits.do(embedded.writing(1), joins=False)
    assert embedded.kept() == embedded.recorded() == {1}


def test_records_that_stand_alone_share_commits_and_lose_nothing(world: World) -> None:
    before = world.n_commits

    def caller(start: int) -> None:
        for number in range(start, start + 20):
            world.commits.record([make_entry(number)])

    threads = [threading.Thread(target=caller, args=(n * 20,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.recorded() == set(range(320))
    assert world.n_commits - before < 320


def test_an_action_is_quick_once_it_was_and_slow_again_after_one_long_run() -> None:
    pace = Pace()
    assert not pace.quick("notes.write")
    pace.took("notes.write", 0.001)
    assert pace.quick("notes.write")
    pace.took("notes.write", 1.0)
    assert not pace.quick("notes.write")
    for _ in range(30):
        pace.took("notes.write", 0.001)
    assert pace.quick("notes.write")


def test_an_interrupted_waiter_leaves_nobody_behind_it_asleep(embedded: World) -> None:
    class Interrupted:
        def acquire(self) -> None:
            raise KeyboardInterrupt

    commits = embedded.commits
    ask, behind = _Ask(None, [make_entry(1)]), _Ask(None, [make_entry(2)])
    ask.waiting = behind.waiting = behind.woken.acquire()
    ask.woken, ask.after = Interrupted(), behind  # type: ignore[assignment]
    commits._led = True
    commits._queue.append(ask)
    with pytest.raises(KeyboardInterrupt):
        commits._wait(ask)
    assert not commits._queue
    assert not behind.woken.locked()
    commits._pass_on()
    commits.record([make_entry(3)])
    assert embedded.recorded() == {3}


def test_who_leads_waits_for_those_who_are_being_woken(
    embedded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falaj.kernel.commits.LONGEST_SECONDS", 20.0)
    commits = embedded.commits
    woken = _Ask(None, [])
    woken.last, commits._chains = True, 1
    before = embedded.n_commits
    threads = [
        threading.Thread(target=commits.record, args=([make_entry(number)],)) for number in (1, 2)
    ]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda number=number: len(commits._queue) == number + 1, seconds=10)
    commits._awake(woken)
    for thread in threads:
        thread.join(20)
    assert embedded.recorded() == {1, 2}
    assert embedded.n_commits == before + 1


def test_an_interrupted_last_one_holds_no_leader_up(embedded: World) -> None:
    class Interrupted:
        def acquire(self) -> None:
            raise KeyboardInterrupt

    commits = embedded.commits
    ask = _Ask(None, [])
    ask.done = ask.last = True
    commits._chains, ask.woken = 1, Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        commits._wait(ask)
    assert commits._chains == 0
    assert commits._all_awake.is_set()


@pytest.mark.parametrize("n_waiting", [1, 2, 3, 7, 64])
def test_a_few_of_those_who_wait_are_woken_at_once_and_each_wakes_another(
    embedded: World, n_waiting: int
) -> None:
    commits = embedded.commits
    asks = [_Ask(None, []) for _ in range(n_waiting)]
    for ask in asks:
        ask.waiting = ask.woken.acquire()
    commits._wake(asks)
    asleep = list(asks)
    while asleep:
        up = [ask for ask in asleep if not ask.woken.locked()]
        assert 1 <= len(up) <= AT_ONCE
        assert not commits._all_awake.is_set()
        for ask in up:
            asleep.remove(ask)
            commits._wait(ask)
    assert all(ask.done for ask in asks)
    assert commits._all_awake.is_set()
    assert commits._chains == 0


def test_those_who_went_away_are_left_out_when_the_others_are_woken(embedded: World) -> None:
    commits = embedded.commits
    asks = [_Ask(None, []) for _ in range(5)]
    for ask in asks:
        ask.waiting = ask.woken.acquire()
    asks[0].gone = asks[4].gone = True
    commits._wake(asks)
    for ask in asks[1:4]:
        assert not ask.woken.locked()
        commits._wait(ask)
    assert commits._chains == 0
