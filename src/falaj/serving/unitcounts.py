"""What was counted of a rollout's variant by buckets of units, in memory that all processes share.

Requests of one unit (a client that tries again, or that always meets the same variant) are not
independent. So errors and latency of a rollout are counted by the *bucket* of the unit, of which
there are 256: a hash of the unit's id, the same in every worker and on every machine, that has
nothing to do with the hash by which a unit is assigned its variant. Counts add up over workers.

A request without a unit is by itself: it is placed by its own id, and if it has none, in turn.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from math import frexp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from falaj.kernel.telemetry import logger
from falaj.serving.counted import BUCKETS, Counts

if TYPE_CHECKING:
    from falaj.serving.predictions import Parsed

UNIT_BUCKETS: Final = 256
ERRED_ROW: Final = BUCKETS
"""The row of cells behind those of the latency: requests on which the variant's model failed."""
SUFFIX: Final = ".units"
Unit = Callable[[Any], object]
"""The unit of a decoded row."""

_SALT = 0x46414C4A
"""Of these buckets alone; rollouts are assigned by BLAKE2b with salts of their own."""
_SPREAD = 0x9E3779B1  # 2**32 over the golden ratio: Knuth's multiplicative hashing
_SHAPE = (BUCKETS + 1, UNIT_BUCKETS)
_CELLS = 8 * _SHAPE[0] * _SHAPE[1]
_HEAD, _KEY = 1_024, 8
_MAGIC = 0x31554A414C4146  # layout 1
_SECTION = 1 << 20  # a multiple of every page size in use, with room for head and cells
_LOWEST = 2.0**-20
_TOP = BUCKETS - 1


def bucket_of(name: object) -> int:
    """The bucket of a unit, or of a request's id: 0 to 255, uniform, the same everywhere."""
    crc = zlib.crc32(str(name).encode("utf-8", "surrogatepass"), _SALT)
    return crc * _SPREAD >> 24 & 255


class UnitCells:
    """The cells of one endpoint's variant in one worker; one thread writes them.

    A request costs one addition in shared memory, whole at any instant: a worker that is killed
    loses none that it has made.

    Args:
        memory: of at least the size of a section; its cells begin behind the head.
    """

    __slots__ = ("_cells", "_turn")

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._cells = memoryview(memory)[_HEAD : _HEAD + _CELLS].cast("q")
        self._turn = 0

    def answered(self, requests: list[Parsed], unit: Unit | None, done: float) -> None:
        """Count answered requests, by the unit of their first row.

        Args:
            requests: those whose first row the variant scored.
            unit: of a row; None where the release has none.
            done: ``time.perf_counter()`` when they were answered.
        """
        cells = self._cells
        for request in requests:
            name = request.request_id if unit is None else unit(request.rows[0])
            # What stands in one line here costs half of what calls would.
            cells[_row_of(done - request.started) << 8 | self._bucket(name, request)] += 1

    def ran(self, row: Any, request: Parsed, unit: Unit | None, seconds: float) -> None:
        """Count a request that ran so long, of which ``row`` is the first that did."""
        name = request.request_id if unit is None else unit(row)
        self._cells[_row_of(seconds) << 8 | self._bucket(name, request)] += 1

    def erred(self, row: Any, request: Parsed, unit: Unit | None) -> None:
        """Count a request on which the variant's model failed, at ``row``."""
        name = request.request_id if unit is None else unit(row)
        self._cells[ERRED_ROW << 8 | self._bucket(name, request)] += 1

    def _bucket(self, name: object, request: Parsed) -> int:
        if name is None:
            name = request.request_id
            if name is None:
                self._turn = turn = self._turn + 1 & 255
                return turn
        crc = zlib.crc32(str(name).encode("utf-8", "surrogatepass"), _SALT)
        return crc * _SPREAD >> 24 & 255


def _row_of(seconds: float) -> int:
    """The bucket of a latency in ``counted``'s histograms."""
    if seconds < _LOWEST:
        return 0
    part, power = frexp(seconds)  # part in [0.5, 1)
    row = (power + 19 << 4) + int(part * 32) - 16
    return row if row < _TOP else _TOP


class UnitFile:
    """The file in which one worker counts by units: a section for each endpoint's variant.

    Args:
        path: of the new file; it is made with the first section.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._sections: dict[tuple[str, str], UnitCells] = {}

    def section(self, endpoint: str, variant: str) -> UnitCells:
        """The cells of one endpoint's variant, made when first asked for.

        Where the disk has no room for them, counting goes on in memory of this process alone,
        and the worker's log says so: no request may fail for a count.
        """
        found = self._sections.get((endpoint, variant))
        if found is None:
            try:
                memory: mmap.mmap | bytearray = self._made(endpoint, variant)
            except OSError as error:
                logger(__name__).error(
                    "errors and latency of a rollout are not counted for its guardrails",
                    endpoint=endpoint,
                    variant=variant,
                    error=str(error),
                )
                memory = bytearray(_SECTION)
            found = self._sections[endpoint, variant] = UnitCells(memory)
        return found

    def close(self) -> None:
        """End counting; the file stays."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._sections = -1, {}

    def _made(self, endpoint: str, variant: str) -> mmap.mmap:
        if self._file < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
        # Readers look at multiples of a section only.
        place = -(-os.fstat(self._file).st_size // _SECTION) * _SECTION
        # Set aside: a write to a hole of a mapped file on a full disk would end the process.
        try:
            os.posix_fallocate(self._file, place, _SECTION)
        except OSError:
            with suppress(OSError):  # the next section is put behind what is left
                os.ftruncate(self._file, place)  # it may have set aside a part
            raise
        page = mmap.mmap(self._file, _SECTION, offset=place)
        key = msgspec.json.encode((endpoint, variant))
        page[_KEY : _KEY + len(key)] = key
        page[:_KEY] = _MAGIC.to_bytes(_KEY, "little")
        return page


def add_file(found: dict[tuple[str, str], Counts], path: Path, endpoint: str | None) -> None:
    """Take the counts of one worker's file to those that were found.

    Args:
        path: may not exist: then its worker has served no rollout.
        endpoint: whose variants are wanted; None: all.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for place in range(0, os.fstat(descriptor).st_size, _SECTION):
            head = os.pread(descriptor, _HEAD, place)
            if int.from_bytes(head[:_KEY], "little") != _MAGIC:
                continue  # made in this very moment
            key = msgspec.json.decode(head[_KEY:].rstrip(b"\0"), type=tuple[str, str])
            if endpoint is None or key[0] == endpoint:
                cells = np.frombuffer(os.pread(descriptor, _CELLS, place + _HEAD), np.int64)
                add_cells(found, key, cells.reshape(_SHAPE))
    finally:
        os.close(descriptor)


def add_cells(found: dict[tuple[str, str], Counts], key: tuple[str, str], cells: Counts) -> None:
    """Take cells to those of the same endpoint and variant."""
    known = found.get(key)
    found[key] = cells if known is None else known + cells


def packed(cells: Counts) -> bytes:
    """Cells as few bytes: nearly all are 0."""
    return zlib.compress(cells.tobytes(), 1)


def unpacked(data: bytes) -> Counts:
    """Of what ``packed`` gave."""
    return np.frombuffer(zlib.decompress(data), np.int64).reshape(_SHAPE)
