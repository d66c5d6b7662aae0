"""A stream among processes that are killed; the test of an event log inherits the suite.

Pushers and workers are processes of their own over one log, one online store and one lake
on disk. They are killed with SIGKILL at random moments and started again. Each push has a
number of its own; what was acknowledged must be in the lake exactly once and in the tiles
exactly once, a push with a key that was killed is repeated and still counts once, and
what was not acknowledged counts at most once. A pusher also checks, after each ``online``
acknowledgement, that it reads its own events.
"""
# ruff: noqa: S101, S311 - this module is a test suite

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0

WORLD = """
import os, signal, sys, tempfile, threading, traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
import pyarrow as pa
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureService, FeatureView
from falaj.features.sources import Stream
from falaj.features.store import FeatureStore
from falaj.features.streams.worker import StreamWorker
from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.streams import TestKeys

def opened(folder, log, lake=None):
    card = Entity(name="card", keys={"card": "int64"})
    stream = Stream(name="payments", event_time="at", key=("card",), partitions=2,
        columns={"card": "int64", "at": "timestamp", "amount": "int64"})
    day = timedelta(days=1)
    spent = FeatureView(name="spent", entity=card, source="payments", event_time="at",
        aggregates=[Aggregate("n", "count", window=day),
                    Aggregate("sum", "sum", "amount", dtype="int64", window=day)])
    last = FeatureView(name="last", entity=card, source="payments", event_time="at",
        features=[Feature("amount", "int64")])
    service = FeatureService(name="all", features=[spent, last])
    return FeatureStore(GivenDefinitions(card, stream, spent, last, service),
        lake or DuckLake.in_folder(folder / "lake", threads=1), LmdbOnlineStore(folder / "online"),
        FixedSecrets(), SystemClock(), log=log, locks=folder / "locks")

folder = Path(sys.argv[1])
"""

PUSHER = """
def pusher(log, me, start):
    store = opened(folder, log)
    cards = [me * 10 + i for i in range(3)]
    told = os.open(folder / f"told {me}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for n in range(start, start + 1_000_000):
        number = me * 10_000_000 + n
        at = datetime.now(UTC)
        rows = pa.table({"card": cards, "at": pa.array([at] * 3, pa.timestamp("us", "UTC")),
                         "amount": [number] * 3})
        ack = "online" if n % 3 else "log"
        store.push("payments", rows, key=f"{me} {n}", ack=ack)
        if ack == "online":
            found = store.read_online("all", [{"card": card} for card in cards]).records()
            if any(one["last__amount"] != number for one in found):
                raise AssertionError(f"pushed {number}, read {found}")
        os.write(told, b"%d\\n" % n)
"""

WORKER = """
def worker(log):
    store = opened(folder, log)
    (folder / "ready").touch()
    StreamWorker(store.streams, lake_seconds=0.1).run_until(threading.Event())
"""

NURSERY = """
def warmed():
    # What a process loads and compiles at its first use is there before it is forked.
    with tempfile.TemporaryDirectory() as name:
        store = opened(Path(name), None, MemoryLake())
        row = {"card": [1], "at": pa.array([datetime.now(UTC)], pa.timestamp("us", "UTC")),
               "amount": [1]}
        store.push("payments", pa.table(row))
        store.read_online("all", [{"card": 1}])
        store.online.close()

warmed()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("warm", flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    child = os.fork()
    if not child:
        try:
            WHAT[what](make_log(), *map(int, numbers))
        except BaseException:
            (folder / "wrong").write_text(traceback.format_exc())
        finally:
            os._exit(1)
    print(child, flush=True)
"""

ENDED = """
from collections import Counter
store = opened(folder, make_log())
store.streams.settle("payments")
rows = store.lake.scan("payments")
print(sorted(Counter(zip(rows["card"].to_pylist(), rows["amount"].to_pylist())).items()))
cards = sorted(set(rows["card"].to_pylist()))
found = store.read_online("all", [{"card": card} for card in cards]).records()
print([(card, one["spent__n"], one["spent__sum"]) for card, one in zip(cards, found)])
"""


class _Nursery:
    """A process in which everything is loaded; it forks pushers and workers."""

    def __init__(self, program: str, folder: Path) -> None:
        self._folder = folder
        self._running = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._line()

    def begin(self, what: str, *numbers: int) -> int:
        """Fork a process; returns its id."""
        stream: Any = self._running.stdin
        stream.write(" ".join([what, *map(str, numbers)]) + "\n")
        stream.flush()
        return int(self._line())

    def kill(self, process: int) -> None:
        """Kill one, and wait until it is gone."""
        os.kill(process, signal.SIGKILL)
        until = time.monotonic() + SECONDS
        while Path(f"/proc/{process}").exists() and time.monotonic() < until:
            time.sleep(0.001)
        self.check()

    def check(self) -> None:
        """Fail the test if a process has."""
        wrong = self._folder / "wrong"
        if wrong.exists():
            pytest.fail(wrong.read_text())

    def close(self) -> None:
        """End it."""
        self._running.kill()
        self._running.communicate()

    def _line(self) -> str:
        stream: Any = self._running.stdout
        line: str = stream.readline()
        assert line, "the nursery has died"
        return line


class StreamKillSuite:
    """Inherit it and give ``log_program``: Python with ``make_log()`` over ``folder``."""

    n_kills = 5

    @pytest.fixture
    def log_program(self) -> str:
        """Python that defines ``make_log()``, which opens the log of this world."""
        raise NotImplementedError

    def test_kills_lose_nothing_and_count_nothing_twice(
        self, tmp_path: Path, log_program: str
    ) -> None:
        self.survives(tmp_path, log_program, self.n_kills)

    def survives(self, folder: Path, log_program: str, n_kills: int) -> None:
        """Kill so many processes; then everything must be there once."""
        chance = random.Random(n_kills)
        begin = WORLD + PUSHER + WORKER + log_program
        begin += "WHAT = {'pusher': pusher, 'worker': worker}\n"
        nursery = _Nursery(begin + NURSERY, folder)
        running: dict[int, int] = {}

        def start(who: int) -> None:
            if who:
                running[who] = nursery.begin("pusher", who, _told(folder, who) + 1)
            else:
                running[who] = nursery.begin("worker")

        def wait(done: Callable[[], bool]) -> None:
            until = time.monotonic() + SECONDS
            while not done() and time.monotonic() < until:
                nursery.check()
                time.sleep(0.002)

        try:
            for who in range(3):
                start(who)
            wait((folder / "ready").exists)
            for number in range(n_kills):
                who = number % 3
                before = _told(folder, 1) + _told(folder, 2)
                wait(_more_than(folder, before))
                time.sleep(chance.uniform(0.0, 0.25))
                nursery.kill(running.pop(who))
                start(who)
            reached = _told(folder, 1), _told(folder, 2)
            wait(lambda: all(_told(folder, i + 1) > reached[i] for i in range(2)))
        finally:
            for process in running.values():
                nursery.kill(process)
            nursery.close()
        self._everything_once(begin, folder, {who: _told(folder, who) for who in (1, 2)})

    def _everything_once(self, begin: str, folder: Path, told: dict[int, int]) -> None:
        done = subprocess.run(
            [sys.executable, "-c", begin + ENDED, str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        in_lake, online = (_literal(line) for line in done.stdout.splitlines())
        assert {count for _, count in in_lake} == {1}
        there = {pair for pair, _ in in_lake}
        for me, last in told.items():
            for card in range(me * 10, me * 10 + 3):
                numbers = sorted(amount - me * 10_000_000 for c, amount in there if c == card)
                assert numbers[: last + 1] == list(range(last + 1))
                assert len(numbers) <= last + 2  # at most the push at which it was killed
        counts, sums = Counter(card for card, _ in there), Counter[int]()
        for card, amount in there:
            sums[card] += amount
        assert online == [(card, counts[card], float(sums[card])) for card in sorted(counts)]


def _told(folder: Path, who: int) -> int:
    """The last push of a pusher that was acknowledged; -1 before the first."""
    path = folder / f"told {who}"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return int(lines[-1]) if lines else -1


def _more_than(folder: Path, before: int) -> Callable[[], bool]:
    return lambda: _told(folder, 1) + _told(folder, 2) > before


def _literal(line: str) -> Any:
    return ast.literal_eval(line)


def on_segments(folder: str = "log") -> str:
    """The program that opens the embedded log."""
    return (
        "from falaj.ingest.adapters.eventlog_segments import SegmentLog\n"
        f"def make_log(): return SegmentLog(folder / {folder!r}, TestKeys())\n"
    )
