"""One commit for many: threads that wait to write share a transaction, and its sync.

A durable commit costs a sync of the disk, whatever stands in it. While one thread commits,
others queue; the first of them then does the work of all that wait, each behind a savepoint
of its own, keeps all their audit records in one go, commits once, and wakes them. So

- a call is answered only after the commit that holds its work *and* its record;
- what one call raises undoes that call alone;
- a commit that fails fails every call that shared it.

Work is handed over as a function and runs on the thread of whoever leads, in the context
(``contextvars``) of whoever asked. It must be short: all that share a commit wait for it.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection

from falaj.kernel.clock import monotonic
from falaj.kernel.database import Database
from falaj.kernel.errors import Unavailable
from falaj.kernel.ports import AuditEntry, AuditLog

T = TypeVar("T")
Work = Callable[[Connection, list[AuditEntry]], T]
"""Works through the connection and adds its audit records, oldest first, to the list."""

MOST = 128
"""How many calls share a commit at most."""
LONGEST_SECONDS = 0.002
"""How long a transaction takes in more calls: what the first of them waits beyond its own."""
AT_ONCE = 3
"""How many of those who shared a commit get up at the same time: while one of them is being woken
(tens of microseconds where a core has gone to sleep), the others use the interpreter."""


class AuditFailed(Exception):
    """The audit records could not be written; the work was rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


_NOWHERE = contextvars.Context()


class _Ask:
    """One call that waits for a commit."""

    __slots__ = (
        "after",
        "context",
        "done",
        "entries",
        "error",
        "gone",
        "last",
        "result",
        "waiting",
        "woken",
        "work",
    )

    def __init__(self, work: Work[Any] | None, entries: list[AuditEntry]) -> None:
        self.work = work
        self.entries = entries
        self.context = contextvars.copy_context() if work is not None else _NOWHERE
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.waiting = False
        self.gone = False
        """Whether its thread was interrupted, and waits no more."""
        self.woken = threading.Lock()
        self.after: _Ask | None = None
        """Whom to wake next."""
        self.last = False
        """Whether it is the last of those who wake each other, and nobody is told so yet."""

    def wake(self) -> None:
        """Let whoever waits for this call go on."""
        self.waiting = False
        self.woken.release()


class Commits:
    """Does work with its audit records in durable transactions, shared where that is allowed.

    Args:
        database: whose transactions.
        audit: gives the log that keeps the records, at each commit.

    On SQLite, work of many threads shares a transaction. On PostgreSQL each work has a
    transaction and a connection of its own, so that slow work holds nobody up, and records
    that stand alone share one.
    """

    def __init__(self, database: Database, audit: Callable[[], AuditLog]) -> None:
        self._database = database
        self._audit = audit
        self._lock = threading.Lock()
        self._queue: deque[_Ask] = deque()
        self._led = False
        self._chains = 0
        """How many chains of calls are being woken, each by the one before it."""
        self._all_awake = threading.Event()
        self._leader = 0
        """The thread that leads, by its identity; 0 if none does."""

    def do(self, work: Work[T], *, joins: bool) -> T:
        """Do work in a transaction; returns when it is durable.

        Args:
            work: raises to be undone.
            joins: whether it may share its transaction: for work that takes milliseconds.

        Raises:
            AuditFailed: the records could not be kept, so nothing was done.
            Unavailable, LimitExceeded: the transaction failed, so nothing was done.
            Exception: whatever the work raises.
        """
        if joins and self._database.is_sqlite:
            return cast("T", self._asked(_Ask(work, [])))
        with self._database.transaction() as connection:
            entries: list[AuditEntry] = []
            result = work(connection, entries)
            self._keep(connection, entries)
        return result

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """Keep records that stand alone; returns when they are durable.

        Raises:
            AuditFailed, Unavailable, LimitExceeded: they could not be kept.
        """
        self._asked(_Ask(None, list(entries)))

    def _asked(self, ask: _Ask) -> Any:
        if self._leader == threading.get_ident():
            raise Unavailable(  # it would wait for itself
                "A call was made inside another call's transaction, but not as its child.",
                hint="Give it its parent, or make it after the other one.",
            )
        with self._lock:
            self._queue.append(ask)
            leads = not self._led
            if leads:
                self._led = True
            else:
                ask.waiting = ask.woken.acquire()
        if not leads:
            self._wait(ask)
        if not ask.done:
            self._lead(ask)
        if ask.error is not None:
            raise ask.error
        return ask.result

    def _wait(self, ask: _Ask) -> None:
        """Sleep until the call is done, or it is this thread's turn to lead."""
        try:
            ask.woken.acquire()
            if ask.after is not None:
                ask.after.wake()
                ask.after = None
            elif ask.last:
                self._awake(ask)
        except BaseException:  # interrupted: nobody may wait for a thread that went away
            with self._lock:
                ask.gone = True
                if ask in self._queue:
                    self._queue.remove(ask)
                chosen = not ask.waiting and not ask.done
                after, ask.after = ask.after, None
            if after is not None:
                after.wake()
            elif ask.last:
                self._awake(ask)
            if chosen:
                self._pass_on()
            raise

    def _lead(self, own: _Ask) -> None:
        """Commit what waits, this thread's own call first, then let another one lead."""
        taken: list[_Ask] = []
        try:
            if self._chains:  # they come back with their next calls: one commit, not two
                self._all_awake.wait(LONGEST_SECONDS)
            self._leader = threading.get_ident()
            self._commit(taken)
        except BaseException as error:
            shown = error if isinstance(error, Exception) else _interrupted()
            if own not in taken:  # no transaction could be begun: it failed all that wait
                with self._lock:
                    taken += self._queue
                    self._queue.clear()
            for ask in taken:
                ask.error = shown
            if not isinstance(error, Exception):
                raise
        finally:
            self._leader = 0
            self._wake(taken)
            self._pass_on()

    def _wake(self, taken: Sequence[_Ask]) -> None:
        """Wake those whose calls are done: the first few, each of whom wakes another, and so on.

        Woken all at once, they would all run to wait for the interpreter's lock, and then again.
        Woken one by one, they would leave that lock to nobody while each of them gets up.
        """
        heads: list[_Ask] = []
        with self._lock:
            for ask in taken:
                ask.done = True
            waiting = [ask for ask in taken if ask.waiting and not ask.gone]
            for first in range(min(AT_ONCE, len(waiting))):
                chain = waiting[first::AT_ONCE]
                for one, other in pairwise(chain):
                    one.after = other
                chain[-1].last = True
                heads.append(chain[0])
            if heads:
                self._chains += len(heads)
                self._all_awake.clear()
        for ask in heads:
            ask.wake()

    def _awake(self, ask: _Ask) -> None:
        """The last of those who are woken one by one is awake."""
        with self._lock:
            if ask.last:
                ask.last = False
                self._chains -= 1
                if not self._chains:
                    self._all_awake.set()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._queue:
                self._led = False
                return
            self._queue[0].wake()

    def _next(self, taken: list[_Ask]) -> Iterator[_Ask]:
        until = monotonic() + LONGEST_SECONDS
        queue = self._queue
        while not taken or monotonic() <= until:
            with self._lock:
                some = [queue.popleft() for _ in range(min(len(queue), MOST - len(taken)))]
            if not some:
                return
            some.reverse()
            try:
                while some:
                    ask = some.pop()
                    taken.append(ask)
                    yield ask
                    if ask.work is not None and monotonic() > until:
                        return
            finally:
                if some:
                    with self._lock:
                        queue.extendleft(some)

    def _commit(self, taken: list[_Ask]) -> None:
        with self._database.transaction() as connection:
            entries: list[AuditEntry] = []
            for ask in self._next(taken):
                if ask.work is not None:
                    _worked(connection, ask.work, ask)
                if ask.error is None:
                    entries += ask.entries
            self._keep(connection, entries)

    def _keep(self, connection: Connection, entries: Sequence[AuditEntry]) -> None:
        if not entries:
            return
        try:
            self._audit().append_many(connection, entries)
        except Exception as error:
            raise AuditFailed(error) from error


def _worked(connection: Connection, work: Work[Any], ask: _Ask) -> None:
    """Do one call's work behind a savepoint; only what dooms the transaction is raised."""
    raw = cast("Any", connection.connection.driver_connection)
    raw.execute("SAVEPOINT falaj_call")
    try:
        ask.result = ask.context.run(work, connection, ask.entries)
    except Exception as error:
        if not raw.in_transaction:  # SQLite gave the whole transaction up (a full disk)
            raise
        raw.execute("ROLLBACK TO falaj_call")
        ask.error = error
    if not raw.in_transaction:
        raise Unavailable(
            "The database gave the transaction up, so nothing was done.",
            hint="See `falaj doctor`; the call may be repeated.",
        )
    raw.execute("RELEASE falaj_call")


def _interrupted() -> Unavailable:
    return Unavailable(
        "The commit was interrupted, so nothing was done.", hint="The call may be repeated."
    )


__all__ = ["AuditFailed", "Commits", "Work"]
