"""One partition of the embedded event log: a folder of segments, appended in turn.

Beside the segments lie ``lock``, which an appender of any process holds (``flock``, freed
by the kernel when it dies), and ``state``, a page that all processes map. It tells how far
the records are on stable storage; readers never look farther, so that a record which a
reader has acted on survives a power cut. Appenders of one process commit together: one
write and one sync for all that wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from secrets import token_hex

from falaj.ingest.adapters.segment_files import (
    FRAME_BYTES,
    OVERHEAD_BYTES,
    Segment,
    segment_bases,
    segment_path,
)
from falaj.ingest.ports import Record
from falaj.kernel.errors import FalajError, LimitExceeded, StorageFull
from falaj.lake.disk import disk_error, reserved, sync_folder
from falaj.trust.ports import KeyService

_PAGE = 4096
_SET_ASIDE = 256 << 10
_END, _BASE, _PLACE, _CHANGING, _REPLACED = 0, 1, 2, 3, 4
_CURSORS = 8
_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Limits:
    """How a log rolls its segments, and when it refuses more.

    ``segment_bytes`` and ``segment_seconds`` are where a new segment begins;
    ``waiting_bytes`` of a partition may wait to be released; a record has at most
    ``record_bytes``.
    """

    segment_bytes: int = 32 << 20
    segment_seconds: float = 600.0
    waiting_bytes: int = 1 << 30
    record_bytes: int = 16 << 20


@dataclass(eq=False)
class _Ticket:
    """One call of ``append`` on its way."""

    payloads: Sequence[bytes]
    media: str
    mark: str | None
    last: int = -1
    error: BaseException | None = None
    done: bool = False


@dataclass
class _Tail:
    """Where the next frame goes, as the appender knows it."""

    segment: Segment
    offset: int
    place: int
    begun: float
    replaced: int
    """How many files had been replaced by then."""
    sealed_bytes: int = 0
    """Of the segments before this one."""
    allotted: int = field(default=0)


class Partition:
    """A partition as one process has it open. Safe from many threads.

    Args:
        folder: made if it is not there.
        number: of the partition.
        context: what its data keys are bound to.
        keys: wraps and unwraps data keys.
        limits: when to roll and when to refuse.
        now_us: the instant that a record is stamped with.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        context: str,
        keys: KeyService,
        limits: Limits,
        now_us: Callable[[], int],
    ) -> None:
        self.folder = folder
        self.number = number
        self._context = context
        self._keys = keys
        self._limits = limits
        self._now_us = now_us
        self._waiting: list[_Ticket] = []
        self._queue = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._segments: dict[int, Segment] = {}
        self._cursors: dict[int, tuple[int, int]] = {}
        self._tail: _Tail | None = None
        self._replaced = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            reserved(folder / "state", _PAGE)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            handle = os.open(folder / "state", os.O_RDWR | os.O_CLOEXEC)
            self._map = mmap.mmap(handle, _PAGE)
            os.close(handle)
            self._state = memoryview(self._map).cast("Q")
            self._replaced = self._state[_REPLACED]
            with self._exclusive():
                self._recovered()
        except OSError as error:
            raise self._told(error) from error

    # ── appending ────────────────────────────────────────────────────────────────────

    def append(self, payloads: Sequence[bytes], media: str, mark: str | None) -> int:
        """Add records; returns the offset of the last. See ``EventLog.append``."""
        longest = max(map(len, payloads), default=0)
        if longest > self._limits.record_bytes:
            raise LimitExceeded(
                f"A record of {longest} bytes is too long for the event log.",
                hint=f"Send at most {self._limits.record_bytes} bytes at once; nothing was added.",
            )
        ticket = _Ticket(payloads, media, mark)
        with self._queue:
            self._waiting.append(ticket)
        with self._writing:
            if not ticket.done:
                self._commit()
        if ticket.error is not None:
            raise ticket.error
        return ticket.last

    def _commit(self) -> None:
        """Write all that waits, with one sync."""
        with self._queue:
            tickets, self._waiting = self._waiting, []
        try:
            with self._exclusive():
                tail = self._current()
                self._refuse_if_full(tail, tickets)
                tail = self._rolled(tail)
                self._write(tail, tickets)
        except (OSError, FalajError) as error:
            for ticket in tickets:
                told = self._told(error) if isinstance(error, OSError) else error
                ticket.error = _again(told)
        finally:
            for ticket in tickets:
                ticket.done = True

    def _write(self, tail: _Tail, tickets: Sequence[_Ticket]) -> None:
        at, offset, frames = self._now_us(), tail.offset, []
        for ticket in tickets:
            for payload in ticket.payloads:
                frames.append(tail.segment.framed(offset, at, payload, ticket.media, ticket.mark))
                offset += 1
            ticket.last = offset - 1
        data = b"".join(frames)
        end = tail.place + len(data)
        if end + FRAME_BYTES > tail.allotted:
            allotted = (end + FRAME_BYTES + _SET_ASIDE) // _SET_ASIDE * _SET_ASIDE
            data += bytes(allotted - end)
        else:
            allotted = tail.allotted
        try:
            tail.segment.write(data, tail.place)
        except OSError:
            self._tail = None
            tail.segment.cut(tail.place)
            raise
        tail.offset, tail.place, tail.allotted = offset, end, allotted
        self._publish(tail)

    def _refuse_if_full(self, tail: _Tail, tickets: Sequence[_Ticket]) -> None:
        size = sum(
            len(payload) + OVERHEAD_BYTES for ticket in tickets for payload in ticket.payloads
        )
        waiting = tail.sealed_bytes + tail.place + size
        if waiting <= self._limits.waiting_bytes:
            return
        tail.sealed_bytes = self._sealed_bytes(tail.segment.base)
        if tail.sealed_bytes + tail.place + size > self._limits.waiting_bytes:
            raise StorageFull(
                f"{waiting} bytes wait in the event log {self.folder} to be applied.",
                hint="Start the worker (`falaj up`), or wait until it has caught up; "
                "nothing was added.",
            )

    def _rolled(self, tail: _Tail) -> _Tail:
        """The tail, in a new segment if this one is full or old."""
        full = tail.place >= self._limits.segment_bytes
        old = time.time() - tail.begun >= self._limits.segment_seconds
        if not (full or (old and tail.place > tail.segment.first_byte)):
            return tail
        return self._begun(tail.offset, tail)

    def _begun(self, offset: int, before: _Tail | None) -> _Tail:
        made = Segment.made(self.folder, offset, self._keys, self._context)
        if before is not None:
            before.segment.cut(before.place)
        with self._reading:
            self._segments[offset] = made
        tail = _Tail(
            made,
            offset,
            made.first_byte,
            time.time(),
            self._state[_REPLACED],
            self._sealed_bytes(offset),
        )
        self._tail = tail
        self._publish(tail)
        return tail

    def _sealed_bytes(self, base: int) -> int:
        sizes = []
        for other in segment_bases(self.folder):
            if other < base:
                try:
                    sizes.append(segment_path(self.folder, other).stat().st_size)
                except FileNotFoundError:
                    continue  # released meanwhile
        return sum(sizes)

    def _publish(self, tail: _Tail) -> None:
        state = self._state
        state[_CHANGING] = 1
        state[_BASE], state[_PLACE] = tail.segment.base, tail.place
        state[_END] = tail.offset
        state[_CHANGING] = 0

    def _current(self) -> _Tail:
        """The tail, as the last appender of any process has left it."""
        tail, state = self._tail, self._state
        if (
            tail is not None
            and not state[_CHANGING]
            and tail.replaced == state[_REPLACED]
            and (tail.segment.base, tail.place) == (state[_BASE], state[_PLACE])
        ):
            return tail
        return self._recovered()

    def _recovered(self) -> _Tail:
        """Find the end of the records; what was torn is cut off."""
        bases = segment_bases(self.folder)
        if not bases:
            return self._begun(0, None)
        state = self._state
        if state[_CHANGING]:  # of somebody who was killed: what is open may have been replaced
            state[_REPLACED] += 1
        segment = self._segment(bases[-1])
        offset, place = segment.base, segment.first_byte
        if not state[_CHANGING] and state[_BASE] == segment.base and state[_PLACE] >= place:
            offset, place = state[_END], state[_PLACE]
        found = False
        for frame in segment.frames(place):
            if frame.offset != offset:
                raise segment.damaged(f"behind the record {offset - 1} stands {frame.offset}")
            offset, place, found = offset + 1, frame.end, True
        begun = segment.path.stat().st_mtime
        replaced = state[_REPLACED]
        tail = _Tail(segment, offset, place, begun, replaced, self._sealed_bytes(segment.base))
        if found or not segment.is_blank(place):
            segment.cut(place)  # and syncs what another process wrote and had no time to sync
        tail.allotted = segment.n_bytes
        before, self._tail = self._tail, tail
        if before is not None and before.segment is not segment:
            with self._reading:
                if before.segment not in self._segments.values():
                    before.segment.close()  # another file has taken its place
        self._publish(tail)
        return tail

    # ── reading ──────────────────────────────────────────────────────────────────────

    def read(self, offset: int, max_bytes: int, wait_seconds: float) -> list[Record]:
        """Records from an offset on. See ``EventLog.read``."""
        until = time.monotonic() + wait_seconds
        while self.end <= offset:
            if time.monotonic() >= until:
                return []
            time.sleep(_POLL_SECONDS)
        with self._reading:
            try:
                return self._read(offset, max_bytes)
            except FileNotFoundError:
                return self._read(offset, max_bytes)  # a segment was released meanwhile
            except OSError as error:
                raise self._told(error) from error

    def _read(self, offset: int, max_bytes: int) -> list[Record]:
        found: list[Record] = []
        size, end = 0, self.end
        while offset < end and size < max_bytes:
            self._refreshed()
            base, place = self._place(offset)
            offset = max(offset, base)
            segment = self._opened(base)
            expect = 2 * max_bytes
            if self._state[_BASE] == base and self._state[_PLACE] > place:
                expect = self._state[_PLACE] - place
            before = offset
            for frame in segment.frames(place or segment.first_byte, expect=expect):
                if frame.offset < offset:
                    continue
                record = segment.opened(frame, self.number)
                found.append(record)
                offset, size = frame.offset + 1, size + len(record.payload)
                self._cursors.pop(frame.offset, None)
                if size >= max_bytes or offset >= end:
                    self._cursors[offset] = (base, frame.end)
                    break
            stuck = offset == base or not segment_path(self.folder, offset).exists()
            if offset == before and stuck:
                raise segment.damaged(f"the record {offset} cannot be read")
        while len(self._cursors) > _CURSORS:
            self._cursors.pop(next(iter(self._cursors)))
        return found

    def _place(self, offset: int) -> tuple[int, int]:
        """The segment and the byte where to look for a record; byte 0: from the first on."""
        known = self._cursors.get(offset)
        if known is not None and (
            known[0] == self._state[_BASE] or not segment_path(self.folder, offset).exists()
        ):
            return known
        bases = segment_bases(self.folder)
        return max((base for base in bases if base <= offset), default=bases[0]), 0

    def _opened(self, base: int) -> Segment:
        found = self._segments.get(base)
        if found is None:
            for other in list(self._segments):
                gone = not segment_path(self.folder, other).exists()
                if gone and (self._tail is None or self._tail.segment.base != other):
                    self._segments.pop(other).close()
            found = Segment(self.folder, base, self._keys, self._context)
            self._segments[base] = found
        return found

    def _refreshed(self) -> None:
        """Let go of files in whose places others stand, and of what is known of them."""
        if self._replaced == self._state[_REPLACED]:
            return
        self._replaced = self._state[_REPLACED]
        for base, segment in list(self._segments.items()):
            with contextlib.suppress(FileNotFoundError):
                found = segment.path.stat()
                if (found.st_dev, found.st_ino) == segment.identity:
                    continue
                self._segments.pop(base)
                self._cursors = {
                    offset: place for offset, place in self._cursors.items() if place[0] != base
                }
                if self._tail is None or self._tail.segment is not segment:
                    segment.close()

    def _segment(self, base: int) -> Segment:
        with self._reading:
            self._refreshed()
            return self._opened(base)

    @property
    def end(self) -> int:
        """The offset behind the last record on stable storage."""
        return self._state[_END]

    @property
    def begin(self) -> int:
        """The least offset that is kept."""
        return segment_bases(self.folder)[0]

    # ── another key ──────────────────────────────────────────────────────────────────

    def rewrap(self, base: int, *, reseal: bool) -> bool:
        """Put a segment's data key under the active key version; False if it was released.

        Args:
            base: of the segment. The one that grows is ended first.
            reseal: take a new data key, and encrypt the records anew.
        """
        try:
            with self._writing, self._exclusive():
                tail = self._current()
                if tail.segment.base == base:
                    if tail.offset == base:  # no record is in it: a new one takes its place
                        self._state[_CHANGING] = 1  # whoever comes next looks anew
                        Segment.made(self.folder, base, self._keys, self._context).close()
                        self._recovered()
                        return True
                    self._begun(tail.offset, tail)
            return self._copied(base, reseal=reseal)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._told(error) from error

    def _copied(self, base: int, *, reseal: bool) -> bool:
        """Put a copy in the place of a segment that grows no more."""
        segment = Segment(self.folder, base, self._keys, self._context)
        begun = segment.path.with_suffix(f".{token_hex(8)}.begun")
        try:
            handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                segment.copy_to(file, self._keys, self._context, reseal=reseal)
                file.flush()
                os.fsync(file.fileno())
            with self._writing, self._exclusive():
                if not segment.path.exists():  # released meanwhile: it must not come back
                    return False
                begun.rename(segment.path)
                self._state[_REPLACED] += 1
                sync_folder(self.folder)
            return True
        finally:
            begun.unlink(missing_ok=True)
            segment.close()

    # ── letting go ───────────────────────────────────────────────────────────────────

    def release(self, before: int) -> None:
        """Delete the segments whose records all have offsets below ``before``."""
        try:
            with self._writing, self._exclusive():
                tail = self._current()
                old = time.time() - tail.begun >= self._limits.segment_seconds
                if tail.offset <= before and old and tail.offset > tail.segment.base:
                    self._begun(tail.offset, tail)
                bases = segment_bases(self.folder)
                for base, following in pairwise(bases):
                    if following > before:
                        break
                    segment_path(self.folder, base).unlink(missing_ok=True)
                sync_folder(self.folder)
        except OSError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Close the files of this process."""
        with self._writing, self._reading:
            self._tail = None
            for segment in self._segments.values():
                segment.close()
            self._segments.clear()
            self._state.release()
            self._map.close()
            os.close(self._lock)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _told(self, error: OSError) -> FalajError:
        return disk_error(error, f"the event log {self.folder}")


def _again(error: FalajError) -> FalajError:
    """An error of its own for each caller: an exception raised twice mixes its tracebacks."""
    return type(error)(error.message, hint=error.hint, **error.details)
