"""Asks at a steady pace and finds stale answers; a process of its own beside the load.

It shares two counters with whoever switches releases: how many switches have begun, and
how many have returned. Switch ``k`` made the release active that stands at ``k`` modulo its
length in the order that it is given. An answer is stale if its release was replaced, and the
switch had returned, before the request was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from stand.load import whole
from stand.processes import pinned

BEGUN, RETURNED = 0, 1
SCORED_EVERY = 10


class Switches:
    """The two counters in a file that is mapped into memory."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self.buffer = b""
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if whole(self.buffer) is not None:
            answer, self.buffer = self.buffer, b""
            self._checker.answered(self, answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            self._checker.errors.append(f"the connection broke: {error}")


class Checker:
    """Sends the requests and judges the answers."""

    def __init__(self, given: argparse.Namespace) -> None:
        told = json.loads(given.told.read_text())
        self._asked = [one.encode("latin-1") for one in told["asked"]]
        self._releases = [one.encode() for one in told["releases"]]
        self._scores = told["scores"]
        self._words = Switches(given.switches).words
        self._order = [int(one) for one in given.order.split(",")]
        self.n = self.stale = self.wrong = self.missed = 0
        self.errors: list[str] = []
        self._sent: dict[_Connection, tuple[int, int]] = {}

    async def run(self, port: int, connections: int, rate: float, seconds: float) -> None:
        """Ask for so long."""
        loop = asyncio.get_running_loop()
        pool = [
            (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        began = time.perf_counter()
        count = 0
        while (now := time.perf_counter() - began) < seconds:
            while count < now * rate:
                free = next((one for one in pool if not one.busy), None)
                if free is None:
                    self.missed += 1
                else:
                    place = count % len(self._asked)
                    self._sent[free] = (place, self._words[RETURNED])
                    free.busy = True
                    # The longest unused is next: a server closes those that ask nothing.
                    pool.remove(free)
                    pool.append(free)
                    free.transport.write(self._asked[place])
                count += 1
            await asyncio.sleep(0.001)
        until = time.perf_counter() + 10
        while any(one.busy for one in pool) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        for one in pool:
            if one.busy:
                self.errors.append("no answer in 10 s")
            one.transport.close()

    def answered(self, connection: _Connection, answer: bytes) -> None:
        """Judge one answer."""
        place, returned = self._sent[connection]
        begun = self._words[BEGUN]
        connection.busy = False
        self.n += 1
        if not answer.startswith(b"HTTP/1.1 200"):
            self.errors.append(answer[:300].decode("latin-1"))
            return
        found = [number for number, name in enumerate(self._releases) if name in answer]
        order = self._order
        may = {order[number % len(order)] for number in range(returned, begun + 1)}
        if len(found) != 1 or found[0] not in may:
            self.stale += 1
        elif self.n % SCORED_EVERY == 0:
            told = json.loads(answer.partition(b"\r\n\r\n")[2])
            score = told["predictions"][0]["score"]
            if abs(score - self._scores[found[0]][place]) > 1e-5:
                self.wrong += 1


def main() -> None:
    """Check, and print what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--told", type=Path, required=True)
    parser.add_argument("--switches", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--order", required=True, help="the releases that are switched to")
    given = parser.parse_args()
    pinned(given.core)
    checker = Checker(given)
    uvloop.run(checker.run(given.port, given.connections, given.rate, given.seconds))
    json.dump(
        {
            "n": checker.n,
            "stale": checker.stale,
            "wrong": checker.wrong,
            "missed": checker.missed,
            "errors": len(checker.errors),
            "first_errors": checker.errors[:3],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
