"""An ``OnlineStore`` among processes that are killed; an adapter's test inherits the suite.

Writers and readers are processes of their own. Each writer writes numbered changes of many
rows, in one ``Write`` each: rows that only it writes, rows that all writers want, and
counters. A reader checks, in every state that it sees, that no change is seen in part and
that nothing ever goes back. Writers are killed with SIGKILL in the middle and repeat the
change at which they were killed. A change that was not acknowledged may appear later than
the kill, with the next change of another writer, but then whole.
"""
# ruff: noqa: S101, S311 - this module is a test suite

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from falaj.features.order import ORDER_BYTES
from falaj.features.ports import OnlineStore

_WRITERS, _READERS, _ROWS = 2, 2, 5

_SHARED = """
import sys
from falaj.features.order import ORDER_BYTES, order_of
from falaj.features.ports import Merge, Write

def row(at, body, recorded_at=0):
    return order_of(at, recorded_at) + body

def number(stored):
    return int(stored[ORDER_BYTES:].split()[0]) if stored else 0

def wrong(told):
    print("wrong:", told, flush=True)
    sys.exit(3)
"""

_WRITER = """
me, start = int(sys.argv[1]), int(sys.argv[2])

def add(stored):
    return [row(0, b"%d" % (number(one) + 1)) for one in stored]

def text(n):
    return b"%d " % n * (1 + n % 400)

def next_place(stored):
    return [b"place %d %d" % (me, number(stored[0]) % 7)] if len(stored) == 1 else []

def counted(stored):
    return [row(0, b"%d" % (number(one) + 1)) for one in stored]

mine = [b"row %d %d" % (me, i) for i in range(5)]
for n in range(start, start + 1_000_000):
    rows = [(key, row(n, text(n))) for key in mine]
    rows += [(b"shared %d" % i, row(n, b"%d %d" % (n, me), me)) for i in range(5)]
    merges = [Merge([b"count %d" % me, b"total"], add),
              Merge([b"steps %d" % me], counted, next_place)]
    store.write(Write(newer=rows, merges=merges, once=b"write %d %d" % (me, n)))
    print(n, flush=True)
    seen = store.read([*mine, b"shared 3"])
    newest = number(seen[0])
    if newest < n or (newest > n and n > start) or seen[:5] != [row(newest, text(newest))] * 5:
        wrong("a writer of %d reads %r" % (n, [number(one) for one in seen]))
    if seen[5] < row(n, b"", me):
        wrong("a shared row is older than what was acknowledged")
"""

_READER = """
import select
n_writers = int(sys.argv[1])
keys = [b"row %d %d" % (w, i) for w in range(n_writers) for i in range(5)]
keys += [b"shared %d" % i for i in range(5)]
keys += [b"count %d" % w for w in range(n_writers)]
keys += [b"steps %d" % w for w in range(n_writers)] + [b"total"]
keys += [b"place %d %d" % (w, i) for w in range(n_writers) for i in range(7)]
newest, reads = [b""] * len(keys), 0
while not select.select([sys.stdin], [], [], 0)[0]:
    found = store.read(keys)
    reads += 1
    groups = [found[w * 5 : w * 5 + 5] for w in range(n_writers + 1)]
    if any(len(set(group)) != 1 for group in groups):
        wrong("a change was seen in part: %r" % [[number(o) for o in g] for g in groups])
    rest = found[5 * (n_writers + 1):]
    counts, steps = rest[:n_writers], rest[n_writers : 2 * n_writers]
    places = [rest[2 * n_writers + 1:][7 * w : 7 * w + 7] for w in range(n_writers)]
    told = [number(group[0]) for group in groups[:-1]]
    if not (list(map(number, counts)) == list(map(number, steps)) == told
            == [sum(map(number, one)) for one in places]
            and sum(told) == number(rest[2 * n_writers])):
        wrong("counters do not stand where the rows stand: %r" % [number(o) for o in found])
    for before, row_now in zip(newest, found):
        if (number(row_now) if row_now else 0) < (number(before) if before else 0):
            wrong("a row went back: %d after %d" % (number(row_now), number(before)))
    newest = [one or b"" for one in found]
print("reads", reads, flush=True)
"""


class OnlineProcessesSuite:
    """Inherit it, and give the fixtures ``opening`` and ``opened``; the store is empty."""

    @pytest.fixture
    def opening(self) -> str:
        """Python statements that bind ``store`` to the store, in any process."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self) -> Callable[[], OnlineStore]:
        """Opens the store in this process; the suite closes it."""
        raise NotImplementedError

    @pytest.fixture
    def processes(self, opening: str) -> Iterator[Processes]:
        """Starts the writers and readers, and ends those that are left."""
        found = Processes(opening)
        yield found
        found.end()

    def test_killed_writers_lose_nothing_and_tear_nothing(
        self, processes: Processes, opened: Callable[[], OnlineStore]
    ) -> None:
        self.kills(processes, opened, 10)

    @pytest.mark.nightly
    def test_two_hundred_killed_writers_lose_nothing_and_tear_nothing(
        self, processes: Processes, opened: Callable[[], OnlineStore]
    ) -> None:
        self.kills(processes, opened, 200)

    def kills(self, processes: Processes, opened: Callable[[], OnlineStore], n_kills: int) -> None:
        """Kill writers so often, and check the store after each kill and at the end."""
        chance, store = random.Random(7), opened()
        try:
            for me in range(_WRITERS):
                processes.write(me, 1)
            for _ in range(_READERS):
                processes.read()
            for number in range(n_kills):
                me = number % _WRITERS
                acknowledged = processes.kill(me, after=chance.uniform(0, 0.05))
                written = self.written(store, me)
                assert written >= acknowledged, "an acknowledged write was lost"
                processes.write(me, max(written, 1))  # repeated, and counted once
            acknowledged_of = [processes.kill(me, after=0.02) for me in range(_WRITERS)]
            assert all(n_reads > 0 for n_reads in processes.stopped_reading())
            totals = [self.written(store, me) for me in range(_WRITERS)]
            assert all(w >= a for w, a in zip(totals, acknowledged_of, strict=True))
            (total,) = store.read([b"total"])
            assert _number(total) == sum(totals)
        finally:
            store.close()

    @staticmethod
    def written(store: OnlineStore, me: int) -> int:
        """The newest change of a writer; all its rows say the same."""
        keys = [b"row %d %d" % (me, i) for i in range(_ROWS)]
        rows = store.read([*keys, b"count %d" % me, b"steps %d" % me])
        assert len(set(rows[:_ROWS])) == 1, "a change was seen in part"
        assert len({_number(one) for one in rows}) == 1, "a counter is not where the rows are"
        return _number(rows[0])


def _number(row: bytes | None) -> int:
    return int(row[ORDER_BYTES:].split()[0]) if row else 0


class Processes:
    """Writers and readers of one store.

    Args:
        opening: statements that bind ``store``.
    """

    def __init__(self, opening: str) -> None:
        self._opening = opening
        self._writers: dict[int, subprocess.Popen[str]] = {}
        self._readers: list[subprocess.Popen[str]] = []

    def write(self, me: int, start: int) -> None:
        """Start a writer at a number."""
        self._writers[me] = self._started(_WRITER, str(me), str(start))

    def read(self) -> None:
        """Start a reader."""
        self._readers.append(self._started(_READER, str(_WRITERS)))

    def kill(self, me: int, *, after: float) -> int:
        """SIGKILL to a writer, some seconds after its first acknowledgement; returns its last."""
        process = self._writers.pop(me)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 60)
        first = process.stdout.readline() if ready else ""
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        told = (first + process.stdout.read()).splitlines(keepends=True)
        process.wait()
        process.stdout.close()
        whole = [line.strip() for line in told if line.endswith("\n")]
        assert whole, "a writer acknowledged nothing within a minute"
        assert not [line for line in whole if line.startswith("wrong")], whole[-1]
        return int(whole[-1])

    def stopped_reading(self) -> list[int]:
        """Stop the readers; of each, how many states it saw. Fails if one saw a wrong one."""
        reads = []
        for process in self._readers:
            told, _ = process.communicate(timeout=60)
            assert process.returncode == 0, told
            reads.append(int(told.split()[-1]))
        self._readers = []
        return reads

    def end(self) -> None:
        """Kill what is left."""
        for process in [*self._writers.values(), *self._readers]:
            process.kill()
            process.communicate()

    def _started(self, program: str, *given: str) -> subprocess.Popen[str]:
        text = f"{_SHARED}\n{self._opening}\n{program}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(
            [sys.executable, "-c", text, *given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
