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

import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60.0

WORLD = """
import random, sys, threading
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
from falaj.testing.features import FixedSecrets, GivenDefinitions
from falaj.testing.streams import TestKeys

def opened(folder, log):
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
        DuckLake.in_folder(folder / "lake", threads=1), LmdbOnlineStore(folder / "online"),
        FixedSecrets(), SystemClock(), log=log, locks=folder / "locks")

folder = Path(sys.argv[1])
"""

PUSHER = """
store = opened(folder, log)
me, start = int(sys.argv[2]), int(sys.argv[3])
cards = [me * 10 + i for i in range(3)]
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
            print("wrong", number, found, flush=True)
            sys.exit(3)
    print(n, flush=True)
"""

WORKER = """
store = opened(folder, log)
print("ready", flush=True)
StreamWorker(store.streams, lake_seconds=0.1).run_until(threading.Event())
"""

ENDED = """
from collections import Counter
store = opened(folder, log)
store.streams.settle("payments")
rows = store.lake.scan("payments")
print(sorted(Counter(zip(rows["card"].to_pylist(), rows["amount"].to_pylist())).items()))
cards = sorted(set(rows["card"].to_pylist()))
found = store.read_online("all", [{"card": card} for card in cards]).records()
print([(card, one["spent__n"], one["spent__sum"]) for card, one in zip(cards, found)])
"""


class _Process:
    """One process that is killed and started again."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        """Its next line; fails the test if it has died."""
        stream: Any = self.running.stdout
        ready, _, _ = select.select([stream], [], [], SECONDS)
        line: str = stream.readline() if ready else ""
        if not line or line.startswith("wrong"):
            self.running.kill()
            pytest.fail(f"{line} {self.running.communicate()[1]}")
        return line

    def killed(self) -> list[str]:
        """Kill it; returns the whole lines that it had still told."""
        self.running.send_signal(signal.SIGKILL)
        told, errors = self.running.communicate()
        if "wrong" in told or "Traceback" in errors:
            pytest.fail(f"{told} {errors}")
        return [line for line in told.splitlines(keepends=True) if line.endswith("\n")]


class StreamKillSuite:
    """Inherit it and give ``log_program``: Python that makes ``log`` from ``folder``."""

    n_kills = 10

    @pytest.fixture
    def log_program(self) -> str:
        """Python that makes ``log`` from ``folder``."""
        raise NotImplementedError

    def test_kills_lose_nothing_and_count_nothing_twice(
        self, tmp_path: Path, log_program: str
    ) -> None:
        self.survives(tmp_path, log_program, self.n_kills)

    def survives(self, folder: Path, log_program: str, n_kills: int) -> None:
        """Kill so many processes; then everything must be there once."""
        chance, begin = random.Random(n_kills), WORLD + log_program
        told = {1: -1, 2: -1}

        def pusher(me: int) -> _Process:
            return _Process(begin + PUSHER, str(folder), str(me), str(told[me] + 1))

        def worker() -> _Process:
            return _Process(begin + WORKER, str(folder))

        pushers, helper = {me: pusher(me) for me in told}, worker()
        try:
            helper.line()
            for me, one in pushers.items():
                told[me] = int(one.line())
            for number in range(n_kills):
                time.sleep(chance.uniform(0.0, 0.4))
                who = number % 3
                if who == 0:
                    helper.killed()
                    helper = worker()
                else:
                    lines = pushers[who].killed()
                    told[who] = max([told[who], *map(int, lines)])
                    pushers[who] = pusher(who)
            for me, one in pushers.items():
                told[me] = max(told[me], int(one.line()), *map(int, one.killed()), -1)
            helper.killed()
        finally:
            for one in (*pushers.values(), helper):
                one.running.kill()
                one.running.wait()
        self._everything_once(begin, folder, told)

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


def _literal(line: str) -> Any:
    import ast

    return ast.literal_eval(line)


def on_segments(folder: str = "log") -> str:
    """The program that opens the embedded log."""
    return (
        "from falaj.ingest.adapters.eventlog_segments import SegmentLog\n"
        f"log = SegmentLog(folder / {folder!r}, TestKeys())\n"
    )

