"""Blobs as files of a local folder: written beside, synced, then renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from falaj.kernel.errors import FalajError, NotFound
from falaj.lake.blobs import blob_key
from falaj.lake.disk import disk_error, sync_folder

_UNFINISHED = ".unfinished-"


class LocalBlobs:
    """A ``BlobStore`` in a folder (mode 0700). Safe from many threads and processes.

    Args:
        folder: made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def put(self, key: str, data: bytes | BinaryIO) -> int:
        """See ``BlobStore.put``."""
        path = self._path(key)
        unfinished = path.with_name(f"{_UNFINISHED}{os.getpid()}-{os.urandom(6).hex()}")
        try:
            made = _made(path.parent, self._folder)
            descriptor = os.open(
                unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if isinstance(data, bytes):
                        file.write(data)
                    else:
                        shutil.copyfileobj(data, file, 1 << 20)
                    size = file.tell()
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            for folder in {path.parent, *made}:
                sync_folder(folder)
        except OSError as error:
            raise self._told(error, key) from error
        return size

    def get(self, key: str) -> bytes:
        """See ``BlobStore.get``."""
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        """See ``BlobStore.open``."""
        try:
            return self._path(key).open("rb")
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

    def _path(self, key: str) -> Path:
        return self._folder / blob_key(key)

    def _told(self, error: OSError, key: str) -> FalajError:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return NotFound(f"There is no blob {key!r}.", hint="It was never kept, or was deleted.")
        return disk_error(error, f"the blob {key!r}")


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
