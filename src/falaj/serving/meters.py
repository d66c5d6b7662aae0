"""Counters and histograms of each endpoint's variant, in memory that all processes share.

Each worker writes one mapped file with a section for each endpoint and variant; anybody may
add the files up. A run of the model costs one packed write, and eight bytes for each request
in it, into a ring that is folded into histograms every 512 runs; who reads adds what is not
folded yet. So a worker that is killed, at any instant, loses no count.

A file is locked for as long as its worker lives. The counts of workers that have ended are
moved into one file when the next worker starts, each exactly once.

Beside it lies, of a worker that served a rollout, a file of the same counts by buckets of units
(``unitcounts``), which nobody reads but who judges a rollout.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from falaj.serving.counted import (
    ANOMALOUS,
    BUCKETS,
    ERRED,
    FAILED,
    LATE,
    LATENCY,
    MODEL,
    N_COUNTERS,
    N_HISTOGRAMS,
    QUEUE,
    REFUSED,
    SHADOW,
    SHED,
    TAGGED,
    UNLOGGED,
    UNTOLD,
    UNTRACED,
    Counted,
)
from falaj.serving.exposition import exposition
from falaj.serving.model import SeriesCounts, Traffic, VariantTraffic
from falaj.serving.unitcounts import SUFFIX as UNITS
from falaj.serving.unitcounts import UnitCells, UnitFile, add_cells, add_file, packed, unpacked

if TYPE_CHECKING:
    from falaj.serving.counted import Counts
    from falaj.serving.predictions import Parsed

RUN = np.dtype(
    [
        ("begun", "<f8"),
        ("done", "<f8"),
        ("model", "<f8"),
        ("started", "<f8"),
        ("rows", "<u4"),
        ("n", "<u2"),
        ("place", "<u2"),
        ("number", "<u8"),
    ]
)
"""A run: when it was begun and answered (``time.perf_counter()``), seconds of the model, the
rows that it scored, its number of requests, when the one of them arrived (or where the
arrivals of several begin)."""
_write = struct.Struct("<4dI2HQ").pack_into  # the number last: a torn line has its old one
_RUNS, _ARRIVALS = 512, 1_024
_MAGIC = 0x314A414C4146  # layout 1
_SECTION = 65_536  # a multiple of every page size in use
_HEAD, _KEY, _KEY_BYTES = 1_024, 256, 768
_SUMS = 8 * (1 + N_HISTOGRAMS)
_COPY = _SUMS + 8 * N_HISTOGRAMS * BUCKETS
_ARRIVALS_AT = _HEAD + 2 * _COPY
_RUNS_AT = _ARRIVALS_AT + 8 * _ARRIVALS
_FLIPS, _COUNTERS, _IN_FLIGHT = 1, 2, 10
_SLOTS = [_COUNTERS + n if n < _IN_FLIGHT - _COUNTERS else _COUNTERS + 1 + n
          for n in range(N_COUNTERS)]  # fmt: skip
"""Where each counter stands. Those that came later stand behind the requests in flight, so that
workers of an older version, which may still run or have just ended, are read rightly."""
_SUFFIX, _ENDED, _LOCK = ".meter", "ended", "lock"
_TRIES = 100


class Section:
    """The counts of one endpoint's variant in one worker; one thread writes it."""

    __slots__ = (
        "_arrivals",
        "_copies",
        "_head",
        "_lock",
        "_number",
        "_page",
        "_place",
        "_runs",
        "_started",
    )

    def __init__(self, page: mmap.mmap, key: bytes) -> None:
        self._page = page
        self._head = memoryview(page)[:_KEY].cast("q")
        self._started = memoryview(page)[_ARRIVALS_AT:_RUNS_AT].cast("d")
        self._arrivals = np.frombuffer(page, np.float64, _ARRIVALS, _ARRIVALS_AT)
        self._runs = np.frombuffer(page, RUN, _RUNS, _RUNS_AT)
        self._copies = [_Copy(page, _HEAD + number * _COPY) for number in range(2)]
        self._number = 0
        """Of the last run."""
        self._place = 0
        """Where the next arrivals may be written."""
        self._lock = threading.Lock()
        page[_KEY : _KEY + len(key)] = key
        self._head[0] = _MAGIC

    def answered(
        self,
        requests: Sequence[Parsed],
        begun: float,
        done: float,
        model_seconds: float,
        n_rows: int,
    ) -> None:
        """Count the answered requests of one run.

        Args:
            requests: those whose first row this variant scored; may be none.
            begun, done: ``time.perf_counter()`` when the run began and was answered.
            model_seconds: of it, the model's own.
            n_rows: rows that it scored.
        """
        n = len(requests)
        number = self._number + 1
        at = _RUNS_AT + (number & 511) * 48
        if n == 1:
            started = requests[0].started
            _write(self._page, at, begun, done, model_seconds, started, n_rows, 1, 0, number)
        else:
            if n > _ARRIVALS:
                self.answered(requests[_ARRIVALS:], begun, done, 0.0, 0)
                self.answered(requests[:_ARRIVALS], begun, done, model_seconds, n_rows)
                return
            place = self._place
            if place + n > _ARRIVALS:
                self._fold()
                place = 0
            self._started[place : place + n] = array("d", [one.started for one in requests])
            self._place = place + n
            _write(self._page, at, begun, done, model_seconds, 0.0, n_rows, n, place, number)
        self._number = number
        if not number & 511:
            self._fold()

    def count(self, counter: int, n: int = 1) -> None:
        """Add to a counter; from any thread."""
        with self._lock:
            self._head[_SLOTS[counter]] += n

    def tagged(self, n_rows: int, n_anomalous: int) -> None:
        """Count predictions that an isolation forest tagged, and those that it found anomalous."""
        with self._lock:
            self._head[_SLOTS[TAGGED]] += n_rows
            self._head[_SLOTS[ANOMALOUS]] += n_anomalous

    def in_flight(self, n: int) -> None:
        """Note how many requests are in work now."""
        self._head[_IN_FLIGHT] = n

    def _fold(self) -> None:
        """Take the runs into the copy that nobody reads, then let it be the one that is read.

        Killed before the last step, nothing has happened; behind it, all has.
        """
        flips = self._head[_FLIPS]
        old, new = self._copies[flips & 1], self._copies[~flips & 1]
        counted = old.counted()
        runs = self._runs
        if self._number - int(old.folded[0]) < _RUNS:
            runs = runs[runs["number"] > old.folded[0]]
        counted.tally(runs, self._arrivals)
        new.sums[:] = counted.sums
        new.histograms[:] = counted.histograms
        new.folded[0] = self._number
        self._head[_FLIPS] = flips + 1
        self._place = 0


class _Copy:
    """One of the two places of a section's histograms: how far folded, sums, histograms."""

    __slots__ = ("folded", "histograms", "sums")

    def __init__(self, data: Any, at: int) -> None:
        self.folded = np.frombuffer(data, np.uint64, 1, at)
        self.sums = np.frombuffer(data, np.float64, N_HISTOGRAMS, at + 8)
        flat = np.frombuffer(data, np.int64, N_HISTOGRAMS * BUCKETS, at + _SUMS)
        self.histograms = flat.reshape(N_HISTOGRAMS, BUCKETS)

    def counted(self) -> Counted:
        """The folded counts, as a copy."""
        return Counted(sums=self.sums.copy(), histograms=self.histograms.copy())


class Meter:
    """The counters of one endpoint in one worker."""

    def __init__(self, meters: Meters, endpoint: str) -> None:
        self._meters = meters
        self._endpoint = endpoint
        self._variants: dict[str, Section] = {}
        self._cells: dict[str, UnitCells] = {}
        self._own = meters.section(endpoint, "")
        """Of requests that reached no variant."""

    def variant(self, name: str) -> Section:
        """The counts of one variant."""
        section = self._variants.get(name)
        if section is None:
            section = self._variants[name] = self._meters.section(self._endpoint, name)
        return section

    def shadow(self, name: str) -> Section:
        """The counts of a variant that runs behind the answer."""
        return self.variant(SHADOW + name)

    def units(self, variant: str) -> UnitCells:
        """The counts of one variant of a rollout by buckets of units."""
        cells = self._cells.get(variant)
        if cells is None:
            cells = self._cells[variant] = self._meters.unit_cells(self._endpoint, variant)
        return cells

    def erred(self, variant: str, n: int = 1) -> None:
        """Count requests on which a variant's own model failed, whatever they are answered."""
        self.variant(variant).count(ERRED, n)

    def refused(self, status: int) -> None:
        """Count one request that got an error status."""
        self._own.count(REFUSED if status < 500 else FAILED)
        if status in (429, 503):
            self._own.count(SHED)
        elif status == 504:
            self._own.count(LATE)

    def unlogged(self, n_rows: int, variant: str = "") -> None:
        """Count predictions that the log could not take."""
        (self.variant(variant) if variant else self._own).count(UNLOGGED, n_rows)

    def in_flight(self, n: int) -> None:
        """Note how many requests are in work now."""
        self._own.in_flight(n)


class _Ended(msgspec.Struct):
    """The counts of workers that have ended."""

    merged: list[str] = []
    """Their files, as long as these may still stand there."""
    series: list[tuple[str, str, list[int], list[float], bytes]] = []
    """(endpoint, variant, counters, sums, histograms)."""
    units: list[tuple[str, str, bytes]] = []
    """(endpoint, variant, cells by buckets of units, packed)."""


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
        self._sections: dict[tuple[str, str], Section] = {}
        self._file = -1
        self._place = directory
        """Of its file, once it is made."""
        self._units: UnitFile | None = None
        self._making = threading.Lock()

    def of(self, endpoint: str) -> Meter:
        """This worker's meter of an endpoint."""
        meter = self._own.get(endpoint)
        if meter is None:
            meter = self._own[endpoint] = Meter(self, endpoint)
        return meter

    def section(self, endpoint: str, variant: str) -> Section:
        """This worker's counts of one endpoint's variant; made when first asked for."""
        with self._making:
            found = self._sections.get((endpoint, variant))
            if found is not None:
                return found
            if self._file < 0:
                self._begin()
            place = len(self._sections) * _SECTION
            os.ftruncate(self._file, place + _SECTION)
            key = msgspec.json.encode((endpoint, variant))
            if len(key) > _KEY_BYTES:
                raise ValueError(f"{endpoint!r} {variant!r} is no name of an endpoint's variant")
            section = Section(mmap.mmap(self._file, _SECTION, offset=place), key)
            self._sections[endpoint, variant] = section
            return section

    def unit_cells(self, endpoint: str, variant: str) -> UnitCells:
        """This worker's counts of a rollout's variant by units; made when first asked for."""
        with self._making:
            if self._units is None:
                if self._file < 0:
                    self._begin()
                self._units = UnitFile(self._place.with_suffix(UNITS))
            return self._units.section(endpoint, variant)

    def lines_dropped(self, n: int) -> None:
        """Count lines that the access log could not take."""
        self.section("", "").count(UNTOLD, n)

    def spans_dropped(self, n: int) -> None:
        """Count spans, or requests whose spans, could not be exported."""
        self.section("", "").count(UNTRACED, n)

    def close(self) -> None:
        """End counting; the counts stay, for the next worker to take over."""
        with self._making:
            if self._file >= 0:
                os.close(self._file)
            if self._units is not None:
                self._units.close()
            self._file, self._units = -1, None
            self._own, self._sections = {}, {}

    def totals(self) -> dict[tuple[str, str], Counted]:
        """All workers' counts, living and ended, by (endpoint, variant)."""
        with self._locked(fcntl.LOCK_SH):
            ended = self._ended()
            found = {
                (endpoint, variant): _thawed(counters, sums, histograms)
                for endpoint, variant, counters, sums, histograms in ended.series
            }
            for path in self._files(ended):
                with suppress(FileNotFoundError):
                    _add_file(found, path, living=_is_held(path, fcntl.LOCK_SH))
        return found

    def traffic(self, endpoint: str) -> Traffic:
        """The counts and quantiles of one endpoint over all workers."""
        return traffic_of(
            {variant: one for (name, variant), one in self.totals().items() if name == endpoint}
        )

    def series(self) -> list[SeriesCounts]:
        """All workers' counts of each endpoint's variant, to be told to others.

        Of an endpoint, what ran as a shadow comes before what answered.
        """
        found = sorted(self.totals().items(), key=lambda item: (item[0][0], *_shadow(item[0][1])))
        return [_told(endpoint, variant, one) for (endpoint, variant), one in found if endpoint]

    def units(self, endpoint: str) -> dict[tuple[str, bool], Counts]:
        """All workers' counts of a rollout's variants by buckets of units, since the beginning.

        Returns:
            by variant, and whether it ran as a shadow: int64 [latency buckets + 1, unit
            buckets], answered requests; the last row are requests on which its model failed.
        """
        found: dict[tuple[str, str], Counts] = {}
        with self._locked(fcntl.LOCK_SH):
            ended = self._ended()
            for name, variant, cells in ended.units:
                if name == endpoint:
                    add_cells(found, (name, variant), unpacked(cells))
            for path in self._files(ended):
                add_file(found, path.with_suffix(UNITS), endpoint)
        return {
            (variant.removeprefix(SHADOW), variant.startswith(SHADOW)): cells
            for (_, variant), cells in found.items()
        }

    def exposition(self) -> bytes:
        """The counts in Prometheus' text format."""
        return exposition(self.totals())

    # -- files ----------------------------------------------------------------------

    def _begin(self) -> None:
        """Make this worker's file, and take over the counts of workers that have ended."""
        self._place = self._directory / f"{self._worker}.{secrets.token_hex(6)}{_SUFFIX}"
        with self._locked(fcntl.LOCK_EX):
            self._take_over()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._place, flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def _take_over(self) -> None:
        """Move the counts of ended workers into one file; the caller holds the lock.

        The file says whose counts it holds before those files go, and nobody reads a file
        that it names: whenever this is killed, each count is in one place.
        """
        ended = self._ended()
        for name in ended.merged:
            _removed(self._directory / name)
        for path in self._directory.glob(f"*{UNITS}"):
            if not path.with_suffix(_SUFFIX).exists():  # left by a power failure
                path.unlink(missing_ok=True)
        found = {
            (endpoint, variant): _thawed(counters, sums, histograms)
            for endpoint, variant, counters, sums, histograms in ended.series
        }
        units = {(name, variant): unpacked(cells) for name, variant, cells in ended.units}
        gone = [path for path in self._files(ended) if not _is_held(path, fcntl.LOCK_EX)]
        for path in gone:
            _add_file(found, path, living=False)
            add_file(units, path.with_suffix(UNITS), None)
        if not gone and not ended.merged:
            return
        series = [
            (endpoint, variant, one.counters.tolist(), one.sums.tolist(), one.histograms.tobytes())
            for (endpoint, variant), one in sorted(found.items())
        ]
        cells = [(*key, packed(one)) for key, one in sorted(units.items())]
        self._write_ended(_Ended([path.name for path in gone], series, cells))
        for path in gone:
            _removed(path)

    def _files(self, ended: _Ended) -> list[Path]:
        merged, found = set(ended.merged), sorted(self._directory.glob(f"*{_SUFFIX}"))
        return [path for path in found if path.name not in merged]

    def _ended(self) -> _Ended:
        try:
            return msgspec.msgpack.decode((self._directory / _ENDED).read_bytes(), type=_Ended)
        except FileNotFoundError:
            return _Ended()

    def _write_ended(self, ended: _Ended) -> None:
        written = self._directory / f"{_ENDED}.new"
        with written.open("wb") as file:
            file.write(msgspec.msgpack.encode(ended))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self._directory / _ENDED)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


def traffic_of(variants: dict[str, Counted]) -> Traffic:
    """What an endpoint's counts say, in all and by variant ("" is of no variant)."""
    total = Counted()
    for name, one in variants.items():
        if not name.startswith(SHADOW):
            total.add(one)
    return Traffic(
        requests=total.requests,
        predictions=total.predictions,
        refused=int(total.counters[REFUSED]),
        failed=int(total.counters[FAILED]),
        shed=int(total.counters[SHED]),
        late=int(total.counters[LATE]),
        unlogged=int(total.counters[UNLOGGED]),
        tagged=int(total.counters[TAGGED]),
        anomalous=int(total.counters[ANOMALOUS]),
        in_flight=total.in_flight,
        **_quantiles(total),
        variants=[
            VariantTraffic(
                variant=name.removeprefix(SHADOW),
                shadow=name.startswith(SHADOW),
                requests=one.answered,
                predictions=one.predictions,
                failed=int(one.counters[ERRED]),
                dropped=int(one.counters[SHED]) if name.startswith(SHADOW) else 0,
                unlogged=int(one.counters[UNLOGGED]),
                tagged=int(one.counters[TAGGED]),
                anomalous=int(one.counters[ANOMALOUS]),
                **_quantiles(one),
            )
            for name, one in sorted(variants.items())
            if name
        ],
    )


def _told(endpoint: str, variant: str, counted: Counted) -> SeriesCounts:
    counters = counted.counters
    latency = counted.histograms[LATENCY]
    shadow = variant.startswith(SHADOW)
    return SeriesCounts(
        endpoint=endpoint,
        variant=variant.removeprefix(SHADOW),
        shadow=shadow,
        dropped=int(counters[SHED]) if shadow else 0,
        workers=counted.workers,
        in_flight=counted.in_flight,
        requests=counted.answered,
        predictions=counted.predictions,
        refused=int(counters[REFUSED]),
        failed=int(counters[ERRED if variant else FAILED]),
        shed=0 if shadow else int(counters[SHED]),
        late=int(counters[LATE]),
        unlogged=int(counters[UNLOGGED]),
        runs=int(counted.histograms[MODEL].sum()),
        queue_seconds=float(counted.sums[QUEUE]),
        model_seconds=float(counted.sums[MODEL]),
        latency=[(int(place), int(latency[place])) for place in np.flatnonzero(latency)],
    )


def _shadow(variant: str) -> tuple[bool, str]:
    """Sorts shadows to the front."""
    return not variant.startswith(SHADOW), variant


def _quantiles(counted: Counted) -> dict[str, float | None]:
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
    return {name: counted.quantile_ms(share) for name, share in shares.items()}


def _thawed(counters: list[int], sums: list[float], histograms: bytes) -> Counted:
    known = np.zeros(N_COUNTERS, np.int64)
    known[: len(counters)] = counters[:N_COUNTERS]  # an older version had fewer, a newer one more
    return Counted(
        known,
        np.array(sums, np.float64),
        np.frombuffer(histograms, np.int64).reshape(N_HISTOGRAMS, BUCKETS).copy(),
    )


def _removed(path: Path) -> None:
    """Remove a worker's files; the one by which it is found goes last."""
    path.with_suffix(UNITS).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _is_held(path: Path, how: int) -> bool:
    """True if the worker of a file still runs; looked at by trying the lock it would hold."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _add_file(found: dict[tuple[str, str], Counted], path: Path, *, living: bool) -> None:
    """Take the counts of one worker's file to those that were found."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for place in range(0, os.fstat(descriptor).st_size, _SECTION):
            data = _steady(descriptor, place)
            head = memoryview(data)[:_KEY].cast("q")
            if head[0] != _MAGIC:
                continue  # made in this very moment
            key = data[_KEY : _KEY + _KEY_BYTES].rstrip(b"\0")
            endpoint, variant = msgspec.json.decode(key, type=tuple[str, str])
            copy = _Copy(data, _HEAD + (head[_FLIPS] & 1) * _COPY)
            counted = copy.counted()
            runs = np.frombuffer(data, RUN, _RUNS, _RUNS_AT)
            arrivals = np.frombuffer(data, np.float64, _ARRIVALS, _ARRIVALS_AT)
            counted.tally(runs[runs["number"] > copy.folded[0]], arrivals)
            counted.counters[:] = [head[slot] for slot in _SLOTS]
            if living:
                counted.in_flight, counted.workers = head[_IN_FLIGHT], 1
            found.setdefault((endpoint, variant), Counted()).add(counted)
    finally:
        os.close(descriptor)


def _steady(descriptor: int, place: int) -> bytes:
    """A section as it stood between two folds: its worker may fold while we read."""
    data = b""
    for _ in range(_TRIES):
        before = os.pread(descriptor, 8, place + 8 * _FLIPS)
        data = os.pread(descriptor, _SECTION, place)
        if before == os.pread(descriptor, 8, place + 8 * _FLIPS) == data[8:16]:
            break
    return data.ljust(_SECTION, b"\0")
