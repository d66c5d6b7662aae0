"""Blobs as files of a local folder: written beside, synced, then renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from falaj.kernel.errors import FalajError, NotFound
from falaj.lake.blobs import blob_key
from falaj.lake.disk import disk_error, sync_folder

_UNFINISHED = ".unfinished-"
_PIECE = 1 << 20


class LocalBlobs:
    """A ``BlobStore`` in a folder (mode 0700). Safe from many threads and processes.

    Args:
        folder: made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def put(self, key: str, data: bytes | BinaryIO) -> int:
        """See ``BlobStore.put``."""
        writer = self.create(key)
        try:
            if isinstance(data, bytes):
                writer.write(data)
            else:
                shutil.copyfileobj(data, writer, _PIECE)
            writer.finish()
        finally:
            writer.abandon()
        return writer.size

    def create(self, key: str) -> LocalWriter:
        """See ``BlobStore.create``."""
        return LocalWriter(self._path(key), self._folder, f"the blob {key!r}")

    def get(self, key: str) -> bytes:
        """See ``BlobStore.get``."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str, *, start: int = 0) -> BinaryIO:
        """See ``BlobStore.open``."""
        try:
            file = self._path(key).open("rb")
            file.seek(start)
            return file
        except OSError as error:
            raise self._told(error, key) from None

    def exists(self, key: str) -> bool:
        """See ``BlobStore.exists``."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """See ``BlobStore.delete``."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_folder(path.parent)
        except OSError as error:
            raise self._told(error, key) from error

    def list(self, prefix: str = "") -> Iterator[str]:
        """See ``BlobStore.list``."""
        found = (
            str((Path(folder) / file).relative_to(self._folder))
            for folder, _, files in os.walk(self._folder)
            for file in files
            if not file.startswith(_UNFINISHED)
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def sweep(self, before: datetime) -> int:
        """See ``BlobStore.sweep``."""
        swept = 0
        for folder, _, files in os.walk(self._folder):
            for file in files:
                path = Path(folder) / file
                if not file.startswith(_UNFINISHED):
                    continue
                try:
                    if path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        swept += 1
                except FileNotFoundError:
                    continue  # its writer ended meanwhile
                except OSError as error:
                    raise self._told(error, file) from error
        return swept

    def _path(self, key: str) -> Path:
        return self._folder / blob_key(key)

    def _told(self, error: OSError, key: str) -> FalajError:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return NotFound(f"There is no blob {key!r}.", hint="It was never kept, or was deleted.")
        return disk_error(error, f"the blob {key!r}")


class LocalWriter:
    """See ``BlobWriter``; the bytes go into a file beside the one that they will be."""

    def __init__(self, path: Path, top: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._unfinished = path.with_name(f"{_UNFINISHED}{os.getpid()}-{os.urandom(6).hex()}")
        self.size = 0
        """So many bytes were written."""
        self._ended = False
        try:
            self._made = _made(path.parent, top)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._unfinished, flags, 0o600), "wb", buffering=0)
        except OSError as error:
            raise disk_error(error, what) from error

    def write(self, data: bytes | memoryview, /) -> int:
        """See ``BlobWriter.write``."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise disk_error(error, self._what) from error
        self.size += len(data)
        return len(data)

    def finish(self) -> None:
        """See ``BlobWriter.finish``."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._unfinished.replace(self._path)
            self._ended = True
            for folder in {self._path.parent, *self._made}:
                sync_folder(folder)
        except OSError as error:
            raise disk_error(error, self._what) from error

    def abandon(self) -> None:
        """See ``BlobWriter.abandon``."""
        if self._ended:
            return
        self._ended = True
        self._file.close()
        self._unfinished.unlink(missing_ok=True)


def _made(folder: Path, top: Path) -> list[Path]:
    """Make a folder; returns the parents of those that did not exist, to be synced."""
    new: list[Path] = []
    place = folder
    while not place.exists():
        new.append(place.parent)
        place = place.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if new:
        top.chmod(0o700)
    return new
