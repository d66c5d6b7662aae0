"""What a local disk can do to a write, told as our own errors."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from falaj.kernel.errors import FalajError, StorageFull, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_error(error: OSError, what: str) -> FalajError:
    """An error of the operating system about ``what`` (``the blob 'x'``) as one of ours."""
    if error.errno in _FULL:
        return StorageFull(
            f"The disk of {what} is full.", hint="Free some space; nothing was written."
        )
    return Unavailable(
        f"The disk refuses {what}: {error.strerror or error}.",
        hint="Check the path and its permissions.",
    )


def reserved(path: Path, n_bytes: int) -> None:
    """Make a file of zeros whose space is set aside, unless the file is there.

    For files that are written through memory: the first write into a hole of such a file
    ends the process (SIGBUS) when the disk is full; here it is an error.

    Raises:
        OSError: the disk is full or refuses; no file is left.
    """
    if path.exists():
        return
    begun = path.with_name(f"{path.name}.{token_hex(8)}")
    try:
        handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(n_bytes))
        with suppress(FileExistsError):  # another process was faster
            os.link(begun, path)
    finally:
        begun.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to stable storage."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Bring the bytes of a file to stable storage."""
    sync_folder(path)  # fsync of a read-only handle: the same call for files
