"""Folders of rings in shared memory whose platform is gone: they are removed at a start.

A platform's home is removed with its files, but its folder in the machine's memory would stay
until the machine starts anew, with rows in clear if some wait in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from falaj.kernel.telemetry import logger
from falaj.serving import rings

KEPT_SECONDS = 86_400.0
"""So long rows that wait are kept when their home is missing: a disk may be away for a while."""


def remove_left_folders(now: float | None = None) -> int:
    """Remove this user's folders whose platform is gone, and which nobody reads or writes.

    Args:
        now: Unix seconds.

    Returns:
        how many were removed.
    """
    now = time.time() if now is None else now
    removed = 0
    for folder in rings.MEMORY.glob(f"falaj-{os.getuid()}-*"):
        try:
            removed += _removed(folder, now)
        except OSError as error:
            logger(__name__).warning("folder of rings not looked at", error=str(error))
    return removed


def _removed(folder: Path, now: float) -> bool:
    if not rings.private(folder) or not _is_left(folder):
        return False
    lock = os.open(folder / rings.READER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _free(lock):
            return False
        n_waiting = _waiting(folder)
        if n_waiting is None:
            return False
        if n_waiting and not _long_missing(folder, now):
            return False
        shutil.rmtree(folder)
    finally:
        os.close(lock)
    logger(__name__).info("rings of a removed platform removed", rows_lost=n_waiting)
    return True


def _is_left(folder: Path) -> bool:
    """True if the folder says whose it is, and that home is not there."""
    try:
        home = Path((folder / rings.HOME).read_text())
    except FileNotFoundError:
        return False
    if rings.folder_of(home) != folder:
        return False
    try:
        home.lstat()
    except FileNotFoundError:
        return True
    return False


def _waiting(folder: Path) -> int | None:
    """Rows that wait to be read; None if a writer still lives."""
    n_rows = 0
    for begun in folder.glob("*.begun"):
        handle = os.open(begun, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not _free(handle):
                return None
        finally:
            os.close(handle)
    for path in folder.glob("*.ring"):
        try:
            reader = rings.RingReader(path)
        except ValueError:
            continue  # it holds no records that anybody could read
        try:
            if not reader.orphaned:
                return None
            n_rows += reader.n_waiting
        finally:
            reader.close()
    return n_rows


def _long_missing(folder: Path, now: float) -> bool:
    """True if the home was missing a day ago as well; notes when it was first."""
    mark = folder / rings.MISSING
    with suppress(FileNotFoundError):
        return now - mark.stat().st_mtime > KEPT_SECONDS
    mark.touch(mode=0o600)
    os.utime(mark, (now, now))
    return False


def _free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
