"""One applier of a partition at a time, among the threads and processes of a machine.

Correctness never rests on it: positions do that. It spares those who come second the work
that would be undone, and lets them find their own events applied when their turn comes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PartitionLocks:
    """Locks by name, held by a thread of a process.

    Args:
        folder: of the lock files; None for the threads of this process only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int | None]] = {}
        self._pid = os.getpid()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold a lock; waits for it."""
        lock, handle = self._lock(name)
        with lock:
            if handle is None:
                yield
                return
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)

    def _lock(self, name: str) -> tuple[threading.Lock, int | None]:
        with self._guard:
            if self._pid != os.getpid():  # a forked child locks through files of its own
                self._locks.clear()
                self._pid = os.getpid()
            found = self._locks.get(name)
            if found is None:
                handle = None
                if self._folder is not None:
                    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                    handle = os.open(self._folder / name, flags, 0o600)
                found = self._locks[name] = (threading.Lock(), handle)
            return found

    def close(self) -> None:
        """Close the files."""
        with self._guard:
            for _, handle in self._locks.values():
                if handle is not None:
                    os.close(handle)
            self._locks.clear()
