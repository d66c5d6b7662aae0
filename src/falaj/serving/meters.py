"""Counters and latency of each endpoint, in memory that all processes of a machine share.

Each worker writes a small mapped file for each endpoint; anybody may add the files up.
Counting costs about 0.1 µs, and a worker that is killed loses no count.
"""

from __future__ import annotations

import mmap
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from falaj.serving.model import Traffic

REQUESTS, PREDICTIONS, REFUSED, FAILED, UNLOGGED, SHED, MICROSECONDS = range(7)
_FIRST_BUCKET = 16
_SUB = 8
"""Buckets in each power of two: a quantile is exact within 6.25 %."""
_BUCKETS = 240
_SLOTS = _FIRST_BUCKET + _BUCKETS
_BYTES = _SLOTS * 8


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


class Meter:
    """The counters of one endpoint in one worker."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.ftruncate(descriptor, _BYTES)
            self._page = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self.slots = memoryview(self._page).cast("Q")
        """Counters by their constant; the histogram begins at 16."""

    def answered(self, n_rows: int, seconds: float) -> None:
        """Count one answered request."""
        slots = self.slots
        microseconds = int(seconds * 1e6)
        slots[REQUESTS] += 1
        slots[PREDICTIONS] += n_rows
        slots[MICROSECONDS] += microseconds
        slots[_FIRST_BUCKET + bucket_of(microseconds)] += 1

    def refused(self, status: int) -> None:
        """Count one request that got an error status."""
        self.slots[REQUESTS] += 1
        self.slots[REFUSED if status < 500 else FAILED] += 1
        if status == 503:
            self.slots[SHED] += 1

    def unlogged(self, n_rows: int) -> None:
        """Count predictions that the log could not take."""
        self.slots[UNLOGGED] += n_rows


class Meters:
    """The meters of all endpoints in a directory.

    Args:
        directory: shared by all workers of the machine.
        worker: the name under which this process counts.
    """

    def __init__(self, directory: Path, worker: str) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._worker = worker
        self._own: dict[str, Meter] = {}

    def of(self, endpoint: str) -> Meter:
        """This worker's meter of an endpoint."""
        meter = self._own.get(endpoint)
        if meter is None:
            meter = self._own[endpoint] = Meter(self._directory / f"{endpoint}.{self._worker}")
        return meter

    def totals(self) -> dict[str, list[int]]:
        """All workers' counters, added up by endpoint."""
        found: dict[str, list[int]] = defaultdict(lambda: [0] * _SLOTS)
        for path in sorted(self._directory.iterdir()):
            data = path.read_bytes()
            if len(data) < _BYTES:
                continue  # made in this very moment
            slots = memoryview(data).cast("Q")
            total = found[path.name.partition(".")[0]]
            for place in range(_SLOTS):
                total[place] += slots[place]
        return dict(found)

    def traffic(self, endpoint: str) -> Traffic:
        """The counts and quantiles of one endpoint over all workers."""
        slots = self.totals().get(endpoint, [0] * _SLOTS)
        buckets = slots[_FIRST_BUCKET:]
        return Traffic(
            requests=slots[REQUESTS],
            predictions=slots[PREDICTIONS],
            refused=slots[REFUSED],
            failed=slots[FAILED],
            unlogged=slots[UNLOGGED],
            p50_ms=quantile_ms(buckets, 0.5),
            p99_ms=quantile_ms(buckets, 0.99),
        )

    def exposition(self) -> bytes:
        """The counters in Prometheus' text format."""
        totals = self.totals()
        lines: list[str] = []
        for name, slot, told in _COUNTERS:
            lines += [f"# HELP {name} {told}", f"# TYPE {name} counter"]
            lines += [
                f'{name}{{endpoint="{endpoint}"}} {slots[slot]}'
                for endpoint, slots in sorted(totals.items())
            ]
        name = "falaj_endpoint_seconds"
        lines += [
            f"# HELP {name} Time from the arrival of a request to its answer.",
            f"# TYPE {name} histogram",
        ]
        for endpoint, slots in sorted(totals.items()):
            lines += _histogram_lines(name, endpoint, slots)
        return ("\n".join(lines) + "\n").encode()


_COUNTERS = (
    ("falaj_endpoint_requests_total", REQUESTS, "Requests that were answered in any way."),
    ("falaj_endpoint_predictions_total", PREDICTIONS, "Predictions that were answered."),
    ("falaj_endpoint_refused_total", REFUSED, "Requests answered with a 4xx status."),
    ("falaj_endpoint_failed_total", FAILED, "Requests answered with a 5xx status."),
    ("falaj_endpoint_shed_total", SHED, "Requests told to come back later (503)."),
    ("falaj_endpoint_unlogged_total", UNLOGGED, "Predictions that the full log did not take."),
)


def quantile_ms(buckets: Iterable[int], share: float) -> float | None:
    """A quantile of the latency in milliseconds; None before the first request."""
    counts = list(buckets)
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    seen = 0
    for place, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return upper_of(place) / 1000
    return upper_of(len(counts) - 1) / 1000


def _histogram_lines(name: str, endpoint: str, slots: list[int]) -> list[str]:
    lines = []
    seen = 0
    for place, count in enumerate(slots[_FIRST_BUCKET:]):
        seen += count
        if place & 3 == 3 and place >= 24:  # edges a factor of about 1.4 apart, from 64 µs
            edge = upper_of(place) / 1e6
            lines.append(f'{name}_bucket{{endpoint="{endpoint}",le="{edge:g}"}} {seen}')
            if edge > 60:
                break
    total = sum(slots[_FIRST_BUCKET:])
    lines.append(f'{name}_bucket{{endpoint="{endpoint}",le="+Inf"}} {total}')
    lines.append(f'{name}_sum{{endpoint="{endpoint}"}} {slots[MICROSECONDS] / 1e6:g}')
    lines.append(f'{name}_count{{endpoint="{endpoint}"}} {total}')
    return lines
