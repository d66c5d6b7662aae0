"""What a worker has to do: its busy share and how long requests wait, in shared memory.

Each worker keeps one small mapped file; whoever decides how many workers there should be
reads it. Nothing is done for a request but one comparison in its lane; ten times a second
the event loop notes how long its own thread (or the scoring thread, if that is busier) has
run on a processor, how late this very note comes (what waits in a socket's buffer waits as
long), and the longest wait in the lanes since the note before.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from falaj.serving.scaling import Observation

PID, NOTED_NS, BUSY_NS, INSIDE, SHED = range(5)
_FIRST_BUCKET = 16
_SUB = 8
"""Buckets in each power of two: a quantile is exact within 12.5 %."""
_BUCKETS = 240
_SLOTS = _FIRST_BUCKET + _BUCKETS
_BYTES = _SLOTS * 8
NOTES_SECONDS = 0.1


def bucket_of(microseconds: int) -> int:
    """The bucket of a duration: exact below 8 µs, then eight to each power of two."""
    if microseconds < _SUB:
        return max(microseconds, 0)
    octave = microseconds.bit_length() - 4
    place = (octave << 3) + (microseconds >> octave)
    return min(place, _BUCKETS - 1)


def upper_of(bucket: int) -> int:
    """The duration (µs) that is just above everything in a bucket."""
    if bucket < 2 * _SUB:
        return bucket + 1
    octave = (bucket >> 3) - 1
    return ((bucket & 7) + _SUB + 1) << octave


class Waits(Protocol):
    """A lane, as the sampler sees it."""

    inside: int
    longest_wait: float
    """Seconds; the longest that a request waited to be scored, since it was set to 0."""


class Workload:
    """The page of one worker.

    Args:
        path: the file; made anew, for a name may have belonged to another process.
    """

    def __init__(self, path: Path) -> None:
        begun = path.with_name(f".{path.name}.{os.getpid()}")
        begun.write_bytes(bytes(_BYTES))
        descriptor = os.open(begun, os.O_RDWR)
        try:
            self._page = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self.slots = memoryview(self._page).cast("Q")
        self.slots[PID] = os.getpid()
        begun.replace(path)
        self.folder = path.parent
        """Where the pages of all workers of this machine stand."""

    def shed(self) -> None:
        """Count one request that was refused, or came too late, for want of a worker."""
        self.slots[SHED] += 1

    def note(self, *, at_ns: int, busy_ns: int, waited: float, inside: int) -> None:
        """Write down a tenth of a second.

        Args:
            at_ns: when it ended, ``time.monotonic_ns()``.
            busy_ns: how long the busiest thread ran in it.
            waited: the longest time that a request waited in it, in seconds.
            inside: requests in work.
        """
        slots = self.slots
        slots[BUSY_NS] += busy_ns
        slots[_FIRST_BUCKET + bucket_of(int(waited * 1e6))] += 1
        slots[INSIDE] = inside
        slots[NOTED_NS] = at_ns


class Sampler:
    """Writes a worker's page from its event loop.

    Args:
        workload: the page.
        lanes: the lanes that there are now.
        threads: identities of further threads whose time may be what is short.
    """

    def __init__(
        self, workload: Workload, lanes: Callable[[], Iterable[Waits]], threads: Iterable[int] = ()
    ) -> None:
        self._workload = workload
        self._lanes = lanes
        own = [threading.get_ident(), *threads]
        self._clocks = [time.pthread_getcpuclockid(one) for one in own]
        self._loop = asyncio.get_running_loop()
        self._busy = [time.clock_gettime_ns(clock) for clock in self._clocks]
        self._workload.slots[NOTED_NS] = time.monotonic_ns()
        self._due = self._loop.time() + NOTES_SECONDS
        self._timer = self._loop.call_at(self._due, self._note)

    def stop(self) -> None:
        """Note nothing more."""
        self._timer.cancel()

    def _note(self) -> None:
        now = self._loop.time()
        waited, inside = max(0.0, now - self._due), 0
        for lane in self._lanes():
            inside += lane.inside
            waited = max(waited, lane.longest_wait)
            lane.longest_wait = 0.0
        busy = [time.clock_gettime_ns(clock) for clock in self._clocks]
        longest = max(new - old for new, old in zip(busy, self._busy, strict=True))
        self._busy = busy
        self._workload.note(
            at_ns=time.monotonic_ns(), busy_ns=longest, waited=waited, inside=inside
        )
        self._due = now + NOTES_SECONDS
        self._timer = self._loop.call_at(self._due, self._note)


@dataclass(frozen=True, slots=True)
class Reading:
    """A worker's page at one moment."""

    slots: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> Reading | None:
        """The page in a file; None if there is none (yet)."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return cls(tuple(memoryview(data).cast("Q"))) if len(data) == _BYTES else None

    def since(self, before: Reading | None) -> Reading:
        """What was added to the counters since an earlier reading of the same process."""
        if before is None or before.slots[PID] != self.slots[PID]:
            return self
        changes = [new - old for new, old in zip(self.slots, before.slots, strict=True)]
        changes[PID], changes[INSIDE] = self.slots[PID], self.slots[INSIDE]
        return Reading(tuple(changes))


class Observer:
    """Turns the pages of a pool's workers into observations, one for each call."""

    def __init__(self) -> None:
        self._before: dict[str, Reading] = {}

    def observe(
        self, at: float, readings: Mapping[str, Reading], *, workers: int
    ) -> Observation | None:
        """What the workers did since the call before; None if nothing can be told yet.

        Args:
            at: now, in seconds of a clock that never goes back.
            readings: of every worker that answers, by name.
            workers: how many there are to be, with those that have crashed just now.
        """
        before, self._before = self._before, dict(readings)
        changes = [
            reading.since(before[name])
            for name, reading in readings.items()
            if name in before and before[name].slots[PID] == reading.slots[PID]
        ]
        if not changes or len(changes) < len(readings):
            return None  # one has only just begun
        buckets = [
            sum(one.slots[place] for one in changes) for place in range(_FIRST_BUCKET, _SLOTS)
        ]
        return Observation(
            at=at,
            workers=workers,
            utilisation=tuple(
                min(1.0, one.slots[BUSY_NS] / one.slots[NOTED_NS]) if one.slots[NOTED_NS] else 1.0
                # A loop that has noted nothing is held up by its work.
                for one in changes
            ),
            queue_p90=_quantile(buckets, 0.9),
            queue_p99=_quantile(buckets, 0.99),
            inside=sum(one.slots[INSIDE] for one in changes),
            shed=sum(one.slots[SHED] for one in changes),
        )


def _quantile(buckets: list[int], share: float) -> float:
    """Seconds; 0 if there is nothing."""
    total, seen = sum(buckets), 0
    for place, count in enumerate(buckets):
        seen += count
        if count and seen >= share * total:
            return upper_of(place) / 1e6
    return 0.0


_COUNTERS = (
    ("falaj_worker_busy_seconds_total", "Seconds in which a worker's thread ran.", BUSY_NS, 1e9),
    ("falaj_worker_shed_total", "Requests refused, or answered too late.", SHED, 1),
)
_GAUGES = (("falaj_worker_inside", "Requests in work.", INSIDE, 1),)


def exposition(folder: Path) -> bytes:
    """What the workers of this machine have to do, in Prometheus' text format."""
    found = {path.name: Reading.of(path) for path in sorted(folder.glob("[!.]*"))}
    pages = {name: reading.slots for name, reading in found.items() if reading is not None}
    lines = []
    for kind, metrics in (("counter", _COUNTERS), ("gauge", _GAUGES)):
        for name, told, slot, unit in metrics:
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
            lines += [
                f'{name}{{worker="{who}"}} {page[slot] / unit:g}' for who, page in pages.items()
            ]
    name = "falaj_worker_wait_seconds"
    lines += [
        f"# HELP {name} The longest wait of a request in each tenth of a second.",
        f"# TYPE {name} gauge",
    ]
    for who, page in pages.items():
        for share in (0.9, 0.99):
            value = _quantile(list(page[_FIRST_BUCKET:]), share)
            lines.append(f'{name}{{worker="{who}",quantile="{share:g}"}} {value:g}')
    return ("\n".join(lines) + "\n").encode()
