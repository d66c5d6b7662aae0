"""Rows on their way to the lake: sealed segments on local disk, drained exactly once.

A writer that may not wait for the lake (a serving worker) appends to a spool. When enough
rows are there, or at ``flush``, they become one *segment*: an Arrow IPC file, sealed,
synced and renamed into place. A drain, in any process, moves segments into the lake; the
segment's name is the idempotency key of its lake write, so that a drain which dies between
the commit and the deletion of the file does no harm when it is repeated.

A writer that may not even spend the time to make columns keeps bytes of a form of its own
as a segment, and gives the drain what makes rows of them.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger
from falaj.lake.disk import disk_error, sync_folder
from falaj.lake.model import SchemaMismatch, table_name
from falaj.lake.personal import ErasedWhileCopied, n_erasures
from falaj.lake.ports import Lake
from falaj.lake.sealedfiles import SealedFiles
from falaj.trust.ports import KeyService
from falaj.trust.sealing import Source, open_bytes, seal_stream

SEGMENT = ".segment"
PIECE_BYTES = 1 << 17
_UNFINISHED = ".unfinished"
_REFUSED = ".refused"


class Drained(BaseModel):
    """What one round of a drain moved."""

    n_segments: int = 0
    n_rows: int = 0
    n_refused: int = 0
    """Segments set aside because they are corrupt or do not fit the table."""


class Spool:
    """Where one process leaves rows of one stream. Safe from many threads.

    Args:
        directory: shared by all writers and the drain; one folder for each stream in it.
        stream: a name like a lake table's.
        keys: seals the segments.
        rows_per_segment: an ``append`` that fills that many flushes by itself.
        max_bytes: of segments that wait for the drain; beyond it rows are refused, so
            that a drain which stands still cannot fill the disk.

    What was appended but not flushed is lost with the process.
    """

    def __init__(
        self,
        directory: Path,
        stream: str,
        keys: KeyService,
        *,
        rows_per_segment: int = 50_000,
        max_bytes: int = 2**30,
    ) -> None:
        self.stream = table_name(stream)
        self._folder = directory / stream
        self._keys = keys
        self._rows_per_segment = rows_per_segment
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting: list[pa.RecordBatch] = []
        self._n_rows = 0
        self._schema: pa.Schema | None = None

    @property
    def n_waiting(self) -> int:
        """Rows that were appended and not flushed yet."""
        return self._n_rows

    def append(self, rows: pa.RecordBatch | pa.Table) -> Path | None:
        """Add rows in memory; returns the segment's path if that filled one.

        Raises:
            InvalidInput: the rows have other columns than those before them.
            LimitExceeded: too many segments wait, or the disk is full; these rows are kept
                in memory and go with the next flush that succeeds, unless more than four
                segments' worth wait: then they are refused.
        """
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        with self._lock:
            if self._schema is None:
                self._schema = rows.schema
            elif not rows.schema.equals(self._schema):
                raise InvalidInput(
                    f"The rows for the spool {self.stream!r} have other columns than before.",
                    hint="Flush first, then append rows of the new form.",
                )
            if self._n_rows + rows.num_rows > 4 * max(self._rows_per_segment, rows.num_rows):
                raise LimitExceeded(
                    f"The spool {self.stream!r} cannot be flushed and its memory is full.",
                    hint="Free some disk space or start a drain; these rows were not taken.",
                )
            self._waiting += [batch for batch in batches if batch.num_rows]
            self._n_rows += rows.num_rows
            return self._flush() if self._n_rows >= self._rows_per_segment else None

    def flush(self) -> Path | None:
        """Write what waits as one segment; on stable storage when this returns.

        Returns the segment's path, or None if there was nothing to write.

        Raises:
            LimitExceeded: too many segments wait, or the disk is full. The rows are kept.
        """
        with self._lock:
            return self._flush()

    def keep(self, data: Source, size: int, name: str) -> Path:
        """Write bytes as a segment of that name; on stable storage when this returns.

        The drain's ``read`` makes rows of them. The name is the idempotency key: the same
        bytes under the same name arrive once, however often they are kept.

        Args:
            data: read in pieces of at most ``PIECE_BYTES``, each sealed and written at once:
                who must not hold its core for long may pause between them.
            size: about how many bytes it has.
            name: of the segment.

        Raises:
            LimitExceeded: too many segments wait, or the disk is full.
        """
        return self._write(data, size, name)

    def _flush(self) -> Path | None:
        if not self._n_rows:
            self._schema = None
            return None
        name = f"{new_id('segment').partition('_')[2]}-{self._n_rows}"
        data = _encoded(pa.Table.from_batches(self._waiting))
        path = self._write(io.BytesIO(data), len(data), name)
        self._waiting, self._n_rows, self._schema = [], 0, None
        return path

    def _write(self, data: Source, size: int, name: str) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            waiting = sum(_size(file) for file in _segments(self._folder))
        except OSError as error:
            raise disk_error(error, f"the spool {self.stream!r}") from error
        if waiting + size > self._max_bytes:
            raise LimitExceeded(
                f"The spool {self.stream!r} holds {waiting} bytes that nobody drains.",
                hint="Start the worker (`falaj up`); rows are refused until it has caught up.",
            )
        unfinished = self._folder / f"{name}{_UNFINISHED}"
        path = self._folder / f"{name}{SEGMENT}"
        try:
            unfinished.unlink(missing_ok=True)  # of a writer that died over the same name
            handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                seal_stream(
                    data,
                    file,
                    self._keys,
                    context=_context(self.stream, name),
                    frame_bytes=PIECE_BYTES,
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
            sync_folder(self._folder)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise disk_error(error, f"the spool {self.stream!r}") from error
        return path


class Drain:
    """Moves the segments of a stream into a lake table, exactly once.

    Args:
        directory: where the spools write.
        keys: opens the segments.
        lake: where the rows go.
        table: the lake table; also the stream's name unless ``stream`` says otherwise.
        read: makes rows of a segment's bytes; raises Corrupt if it cannot.
        add_columns: let the table get columns that the rows have and it lacks.
        moved: called with a segment's key and rows once the lake has them; again, with the
            same, if the process ended before the segment was deleted.

    Many drains may run at once; each segment still arrives once.
    """

    def __init__(
        self,
        directory: Path,
        keys: KeyService,
        lake: Lake,
        table: str,
        *,
        stream: str | None = None,
        read: Callable[[bytes], pa.Table] | None = None,
        add_columns: bool = False,
        moved: Callable[[str, pa.Table], object] = lambda _key, _rows: None,
    ) -> None:
        self._read = read or rows_of
        self._told = moved
        self._add_columns = add_columns
        self._stream = table_name(stream or table)
        self._folder = directory / self._stream
        self._keys = keys
        self._lake = lake
        self._table = table_name(table)
        self._log = logger(__name__)

    def run_once(self, *, max_segments: int = 100) -> Drained:
        """Move the segments that wait, oldest first; returns what was moved.

        A segment that was tampered with, or whose rows do not fit the table, is renamed
        to ``….refused`` and counted; the others go on.

        Raises:
            Unavailable, LimitExceeded: the lake cannot take rows now; nothing is lost.
        """
        drained = Drained()
        for path in _segments(self._folder)[:max_segments]:
            n_rows = self._moved(path)
            if n_rows is None:
                drained.n_refused += 1
            else:
                drained.n_segments += 1
                drained.n_rows += n_rows
        return drained

    def waiting(self) -> Iterator[pa.Table]:
        """The rows of the segments that wait, without moving them; not of unreadable ones."""
        for path in _segments(self._folder):
            with suppress(Corrupt):
                rows = self._opened(path)
                if rows is not None:
                    yield rows

    def _opened(self, path: Path) -> pa.Table | None:
        """The rows of a segment; None if another drain was faster."""
        name = path.name.removesuffix(SEGMENT)
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, f"the segment {name}") from error
        return self._read(open_bytes(sealed, self._keys, context=_context(self._stream, name)))

    def _moved(self, path: Path) -> int | None:
        key = f"spool/{self._stream}/{path.name.removesuffix(SEGMENT)}"
        while True:
            # Rows that were opened before an erasure must not be sealed anew behind it.
            since = n_erasures(self._lake)
            try:
                rows = self._opened(path)
                if rows is None:
                    return 0
                self._lake.append(
                    self._table, rows, key=key, add_columns=self._add_columns, since=since
                )
            except ErasedWhileCopied:
                continue
            except (Corrupt, SchemaMismatch) as error:
                self._log.error("segment refused", segment=path.name, reason=str(error))
                path.rename(path.with_suffix(_REFUSED))
                return None
            self._told(key, rows)
            path.unlink(missing_ok=True)
            return int(rows.num_rows)


def sealed_segments(directory: Path, keys: KeyService) -> SealedFiles:
    """The segments of all streams of a spool directory, to be put under another key.

    A drain that has just moved a segment may find it once more: its name is the key of
    the lake's write, which does not happen twice.
    """

    def context(path: Path) -> str | None:
        if len(path.parts) != 2 or path.suffix not in (SEGMENT, _REFUSED):
            return None
        return _context(path.parts[0], path.name.removesuffix(path.suffix))

    return SealedFiles("spool", directory, keys, context)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a drain has just moved it
        return 0


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SEGMENT}"))


def _context(stream: str, name: str) -> str:
    return f"spool {stream} {name}"


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(sink.getvalue())


def rows_of(data: bytes) -> pa.Table:
    """The rows of a segment that was appended; raises Corrupt if it is none."""
    try:
        with pa.ipc.open_stream(data) as reader:
            return reader.read_all()
    except pa.ArrowInvalid as error:
        raise Corrupt(
            "The bytes of a segment are no Arrow stream.",
            hint="Another version of Falaj may have written it; let that one drain it.",
        ) from error
