"""Runs in files: sealed by the key service, or in clear and mapped into memory.

A file is written beside its place and then renamed into it: two processes that make the
same run at once write the same, and a reader sees a whole file or none. It is::

    magic "FALAJRUN" | version (u32) | n (u32) | CRC-32 of the head (u32) | head (n, JSON)
    sections, each at a multiple of 64 bytes, with the CRC-32 that the head tells

all of it sealed (``trust/sealing.py``) unless the storage is clear. A file that is damaged,
cut, or of another version is removed, and the run is made again from the lake.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import structlog

from falaj.features.columns import Array
from falaj.features.index.entities import Entities
from falaj.features.index.runs import LATE, PINNED, Blocks, Run, Span
from falaj.features.kernels import processors
from falaj.kernel.errors import Corrupt
from falaj.lake.sealedfiles import SealedFiles
from falaj.trust.ports import KeyService
from falaj.trust.sealing import open_stream, seal_stream

VERSION = 1
_MAGIC = b"FALAJRUN"
_HEAD = struct.Struct("<8sIII")
_ALIGNED = 64
_NAME = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9-]{1,64})\.(\d+)-(\d+)-(\d+)-(\d+)\.run")
_UNFINISHED = ".unfinished"
_UNUSED_SECONDS = 14 * 86_400
"""A file that no process has opened for so long is removed when another one is written."""
_CHECKED_AT_ONCE = 1 << 24

log = structlog.get_logger()


class RunFiles:
    """Where the runs of indexes are kept between processes.

    Args:
        folder: of the files; made with mode 0700.
        keys: seal the files. None keeps them in clear, and maps them: for a volume that
            the operator encrypts.
    """

    def __init__(self, folder: Path, keys: KeyService | None) -> None:
        self._folder = folder
        self._keys = keys

    @property
    def clear(self) -> bool:
        """True if files are kept in clear, and mapped."""
        return self._keys is None

    def spans(self, meaning: str) -> list[Span]:
        """Which runs there are of a meaning."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("indexes-not-read", folder=str(self._folder), error=str(error))
            return []
        found = []
        for name in names:
            parts = _NAME.fullmatch(name)
            if parts is not None and parts[1] == meaning:
                begin, end, n_rows, snapshot = map(int, parts.groups()[2:])
                found.append(Span(parts[2], begin, end, n_rows, snapshot))
        return found

    def save(self, meaning: str, run: Run) -> Run:
        """Keep a run; returns it, mapped if files are in clear.

        A file that cannot be written (a full disk) costs time later, and nothing else: it
        is logged, and the run stays in memory.
        """
        path = self._path(meaning, run.span)
        unfinished = path.with_name(f"{path.name}{_UNFINISHED}{os.getpid()}-{os.urandom(4).hex()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with _private(unfinished) as file:
                    self._write(file, meaning, run)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
            self._tidy(meaning, run.span)
        except OSError as error:
            log.warning("index-not-kept", file=str(path), error=str(error))
            return run
        return (self.load(meaning, run.span) or run) if self.clear else run

    def load(self, meaning: str, span: Span) -> Run | None:
        """A kept run; None if there is none that is whole (it is removed if not)."""
        path = self._path(meaning, span)
        try:
            content = self._read(path, meaning)
            run = _decoded(content, meaning, span, mapped=self.clear)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("index-not-read", file=str(path), error=str(error))
            return None
        except Corrupt as error:
            log.warning("index-discarded", file=str(path), error=str(error))
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # on a volume that may only be read
            os.utime(path)
        return run

    def forget(self, meaning: str) -> None:
        """Remove every run of a meaning."""
        for span in self.spans(meaning):
            self._path(meaning, span).unlink(missing_ok=True)

    def sealed(self) -> SealedFiles | None:
        """The files, to be put under another key; None if they are kept in clear."""
        if self._keys is None:
            return None

        def context(path: Path) -> str | None:
            parts = _NAME.fullmatch(str(path))
            return _context(parts[1]) if parts is not None else None

        return SealedFiles("feature index", self._folder, self._keys, context)

    def _path(self, meaning: str, span: Span) -> Path:
        name = f"{span.begin}-{span.end}-{span.n_rows}-{span.snapshot}"
        return self._folder / f"{meaning}.{span.identity}.{name}.run"

    def _write(self, file: BinaryIO, meaning: str, run: Run) -> None:
        pieces = _encoded(meaning, run)
        if self._keys is None:
            for piece in pieces:
                file.write(piece)
        else:
            seal_stream(_Pieces(pieces), file, self._keys, context=_context(meaning))

    def _read(self, path: Path, meaning: str) -> Array:
        if self._keys is None:
            return np.memmap(path, np.uint8, mode="c") if path.stat().st_size else _nothing()
        with path.open("rb") as file:
            into = _Room(path.stat().st_size)
            open_stream(file, into, self._keys, context=_context(meaning))
            return into.content

    def _tidy(self, meaning: str, span: Span) -> None:
        """Remove runs that a new one covers, and files that nobody uses any more."""
        for other in self.spans(meaning):
            within = span.begin <= other.begin and other.end <= span.end and other != span
            if within and other.identity == span.identity and other.snapshot <= span.snapshot:
                self._path(meaning, other).unlink(missing_ok=True)
        oldest = time.time() - _UNUSED_SECONDS
        for path in self._folder.iterdir():
            ours = _NAME.fullmatch(path.name) or _UNFINISHED in path.name
            if ours and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


def _context(meaning: str) -> str:
    return f"feature index {VERSION} {meaning}"


def _nothing() -> Array:
    return np.empty(0, np.uint8)


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


class _Room:
    """Takes the bytes of an opened file, of which there are fewer than the sealed ones."""

    def __init__(self, size: int) -> None:
        self._room = np.empty(size, np.uint8)
        self._filled = 0

    def write(self, data: bytes | memoryview, /) -> None:
        end = self._filled + len(data)
        self._room[self._filled : end] = np.frombuffer(data, np.uint8)
        self._filled = end

    @property
    def content(self) -> Array:
        return self._room[: self._filled]


class _Pieces:
    """Pieces of bytes as a source of them."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not len(self._piece):
            found = next(self._pieces, None)
            if found is None:
                return b""
            self._piece = found
        part, self._piece = self._piece[:size], self._piece[size:]
        return bytes(part)


# -- the form of a file ------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """An array in a file; ``dtype`` is ``arrow`` for one of Arrow's, as an IPC stream."""

    name: str
    dtype: str
    shape: list[int]
    at: int
    n_bytes: int
    crc: int


def _arrays(run: Run) -> dict[str, Array]:
    return {
        **run.entities.arrays(),
        "run.starts": run.starts,
        "run.event_time": run.event_time,
        "run.recorded_at": run.recorded_at,
        "run.position": run.position,
        "run.words": run.words,
        **{f"least.{name}": blocks.least for name, blocks in run.blocks.items()},
        **{f"greatest.{name}": blocks.greatest for name, blocks in run.blocks.items()},
    }


def _encoded(meaning: str, run: Run) -> Iterator[memoryview]:
    contents: list[memoryview] = []
    sections: list[_Section] = []
    at = 0
    for name, array in _arrays(run).items():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        contents.append(content)
        kind, shape = array.dtype.str, list(array.shape)
        sections.append(_Section(name, kind, shape, at, len(content), zlib.crc32(content)))
        at += _padded(len(content))
    for name, column in run.arrow.items():
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([column], [name])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        content = memoryview(sink.getvalue())
        contents.append(content)
        sections.append(_Section(name, "arrow", [], at, len(content), zlib.crc32(content)))
        at += _padded(len(content))
    head = json.dumps(
        {
            "meaning": meaning,
            "span": asdict(run.span),
            "n_flags": run.n_flags,
            "columns": dict(run.columns),
            "n_bytes": at,
            "sections": [asdict(section) for section in sections],
        }
    ).encode()
    head += b" " * (_padded(_HEAD.size + len(head)) - _HEAD.size - len(head))
    yield memoryview(_HEAD.pack(_MAGIC, VERSION, len(head), zlib.crc32(head)) + head)
    for content in contents:
        yield content
        yield memoryview(b"\0" * (_padded(len(content)) - len(content)))


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNED) * _ALIGNED


def _decoded(content: Array, meaning: str, span: Span, *, mapped: bool) -> Run:
    head, body = _head(content)
    if head["meaning"] != meaning or head["span"] != asdict(span):
        raise Corrupt("The file of an index is not what its name says.")
    sections = [_Section(**section) for section in head["sections"]]
    if len(body) != head["n_bytes"]:
        raise Corrupt("The file of an index has been cut.")
    _checked(body, sections)
    arrays: dict[str, Array] = {}
    columns: dict[str, pa.Array] = {}
    for section in sections:
        part = body[section.at : section.at + section.n_bytes]
        if section.dtype == "arrow":
            with pa.ipc.open_stream(pa.py_buffer(part)) as reader:
                columns[section.name] = reader.read_next_batch().column(0)
        else:
            array = part.view(np.dtype(section.dtype)).reshape(section.shape)
            arrays[section.name] = np.asarray(array)
    return Run(
        span=span,
        entities=Entities.of({n: a for n, a in arrays.items() if n.startswith("entities.")}),
        blocks={
            name: Blocks(arrays[f"least.{name}"], arrays[f"greatest.{name}"])
            for name in (LATE, PINNED)
            if f"least.{name}" in arrays
        },
        n_flags=head["n_flags"],
        columns=head["columns"],
        arrow=columns,
        mapped=mapped,
        starts=arrays["run.starts"],
        event_time=arrays["run.event_time"],
        recorded_at=arrays["run.recorded_at"],
        position=arrays["run.position"],
        words=arrays["run.words"],
    )


def _head(content: Array) -> tuple[dict[str, Any], Array]:
    if len(content) < _HEAD.size:
        raise Corrupt("The file of an index ends within its head.")
    magic, version, length, crc = _HEAD.unpack(bytes(content[: _HEAD.size]))
    if magic != _MAGIC or version != VERSION:
        raise Corrupt("The file of an index is of another version.")
    text = bytes(content[_HEAD.size : _HEAD.size + length])
    if zlib.crc32(text) != crc:
        raise Corrupt("The head of an index has been damaged.")
    head: dict[str, Any] = json.loads(text)
    return head, content[_HEAD.size + length :]


def _checked(body: Array, sections: Sequence[_Section]) -> None:
    """Raises Corrupt if a section is not what was written."""

    def right(section: _Section) -> bool:
        crc = 0
        part = body[section.at : section.at + section.n_bytes].data
        for low in range(0, len(part), _CHECKED_AT_ONCE):
            crc = zlib.crc32(part[low : low + _CHECKED_AT_ONCE], crc)
        return len(part) == section.n_bytes and crc == section.crc

    with ThreadPoolExecutor(processors()) as threads:
        for section, is_right in zip(sections, threads.map(right, sections), strict=True):
            if not is_right:
                raise Corrupt(f"The part {section.name!r} of an index has been damaged.")
