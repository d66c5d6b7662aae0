"""Open-loop load: requests are sent when they are due, whatever becomes of those before.

It is a process of its own on the client's core. Arrivals are random (Poisson) at a stated
mean rate; each takes a keep-alive connection that is free. Latency counts from the instant
at which a request was due, so a client that falls behind shows in it; how far it fell
behind, and how many requests found no connection, is told too. Answers that come when the load
is over are counted by themselves: they were not given under it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from stand.load import whole
from stand.processes import child_of_ours

_TURN_SECONDS = 0.0005


@dataclass(frozen=True)
class Offered:
    """What became of the requests of one stretch of open-loop load."""

    offered: float
    """Requests that were sent, a second."""
    accepted: float
    """Answers with status 200, a second, while the load went on."""
    refused: float
    """Answers with status 429 or 503 that say when to come back, a second."""
    p50_ms: float
    p99_ms: float
    """Of the accepted."""
    afterwards: int
    """Answers with status 200 that came when nothing was sent any more."""
    errors: int
    """Other answers, refusals without Retry-After, broken connections."""
    crowded_out: int
    """Requests that were due and found no free connection: never sent."""
    late_ms: float
    """How much later than due the client sent, 99th percentile."""
    statuses: dict[str, int]


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._buffer = b""
        self.due = 0.0

    def connection_made(self, transport: Any) -> None:
        self.write = transport.write
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if whole(self._buffer) is not None:
            answer, self._buffer = self._buffer, b""
            self._load.answered(self, answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


class OpenLoad:
    """Sends, and counts what comes back."""

    def __init__(self, asked: list[bytes], rate: float, seconds: float) -> None:
        self._asked, self._rate, self._seconds = asked, rate, seconds
        self._free: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self.accepted: list[float] = []
        self.late: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.refused = self.errors = self.crowded_out = self.sent = self.afterwards = 0
        self._until = 0.0
        self._over = False

    async def run(self, port: int, connections: int) -> None:
        """Offer the load for its time, then wait for the last answers."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            made = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            self._free.append(made[1])
        chance = random.Random(1)
        began = time.perf_counter()
        self._until = began + self._seconds
        due = 0.0
        place = 0
        while due < self._seconds:
            now = time.perf_counter() - began
            while due <= now and due < self._seconds:
                self._send(began + due, now - due, self._asked[place])
                place = (place + 1) % len(self._asked)
                due += chance.expovariate(self._rate)
            await asyncio.sleep(_TURN_SECONDS)
        until = time.perf_counter() + 5
        while self._busy and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        self.errors += len(self._busy)
        self._over = True
        for one in (*self._free, *self._busy):
            one.transport.close()

    def _send(self, due: float, late: float, asked: bytes) -> None:
        if not self._free:
            self.crowded_out += 1
            return
        one = self._free.popleft()
        self._busy.add(one)
        one.due = due
        self.late.append(late)
        self.sent += 1
        one.write(asked)

    def answered(self, connection: _Connection, answer: bytes) -> None:
        """Count one answer."""
        self._busy.discard(connection)
        self._free.append(connection)
        status = answer[9:12]
        self.statuses[status.decode("latin-1")] += 1
        if status == b"200":
            now = time.perf_counter()
            if now > self._until:
                self.afterwards += 1
            else:
                self.accepted.append(now - connection.due)
        elif status in (b"429", b"503") and b"retry-after:" in answer.lower():
            self.refused += 1
        else:
            self.errors += 1

    def lost(self, connection: _Connection) -> None:
        """A connection has ended before the load was over."""
        if not self._over:
            self.errors += connection in self._busy
            self._busy.discard(connection)
            if connection in self._free:
                self._free.remove(connection)

    def told(self) -> Offered:
        """The figures."""
        times, late = sorted(self.accepted), sorted(self.late)
        return Offered(
            self.sent / self._seconds,
            len(times) / self._seconds,
            self.refused / self._seconds,
            times[len(times) // 2] * 1e3 if times else 0.0,
            times[int(0.99 * len(times))] * 1e3 if times else 0.0,
            self.afterwards,
            self.errors,
            self.crowded_out,
            late[int(0.99 * len(late))] * 1e3 if late else 0.0,
            dict(self.statuses),
        )


class Offering:
    """Open-loop load that goes on in a process of its own; ``result`` waits for its end."""

    def __init__(
        self, port: int, asked: list[bytes], folder: Path, *, rate: float, seconds: float,
        connections: int, core: int,
    ) -> None:  # fmt: skip
        file = folder / f"offered-{time.monotonic_ns()}.json"
        file.write_text(json.dumps([one.decode("latin-1") for one in asked]))
        command = [sys.executable, "-m", "stand.openloop", "--asked", str(file)]
        command += ["--port", str(port), "--rate", str(rate), "--seconds", str(seconds)]
        command += ["--connections", str(connections)]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            preexec_fn=lambda: child_of_ours(core),  # noqa: PLW1509 - nothing but system calls
        )

    def result(self) -> Offered:
        """What became of the load."""
        output, _ = self._process.communicate(timeout=300)
        if self._process.returncode:
            raise RuntimeError("the open-loop client failed; see above")
        return Offered(**json.loads(output))


def main() -> None:
    """Offer load, and print what became of it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--asked", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    given = parser.parse_args()
    asked = [one.encode("latin-1") for one in json.loads(given.asked.read_text())]
    load = OpenLoad(asked, given.rate, given.seconds)
    uvloop.run(load.run(given.port, given.connections))
    json.dump(load.told().__dict__, sys.stdout)


if __name__ == "__main__":
    main()
