"""What a local disk can do to a write, told as our own errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from falaj.kernel.errors import FalajError, LimitExceeded, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_error(error: OSError, what: str) -> FalajError:
    """An error of the operating system about ``what`` (``the blob 'x'``) as one of ours."""
    if error.errno in _FULL:
        return LimitExceeded(
            f"The disk of {what} is full.", hint="Free some space; nothing was written."
        )
    return Unavailable(
        f"The disk refuses {what}: {error.strerror or error}.",
        hint="Check the path and its permissions.",
    )


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
