"""One writer at a time, over threads, processes and (with PostgreSQL) machines."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from falaj.kernel.errors import Unavailable


class WriterLock(Protocol):
    """Held by at most one writer of a catalogue; freed when its process dies."""

    def held(self) -> Iterator[None]: ...


class FileLock:
    """An advisory lock on a file beside the catalogue (``flock``), freed by the kernel.

    Args:
        path: the lock file; made at the first use, mode 0600.
        wait_seconds: how long to wait for other writers.
    """

    def __init__(self, path: Path, *, wait_seconds: float) -> None:
        self._path = path
        self._wait_seconds = wait_seconds
        self._threads = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; raises Unavailable when the wait is over."""
        until = time.monotonic() + self._wait_seconds
        if not self._threads.acquire(timeout=self._wait_seconds):
            raise _queue(self._wait_seconds)
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._wait(handle, until)
                yield
            finally:
                os.close(handle)
        finally:
            self._threads.release()

    def _wait(self, handle: int, until: float) -> None:
        pause = 0.0005
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise _queue(self._wait_seconds) from None
                time.sleep(pause)
                pause = min(pause * 1.5, 0.01)
            else:
                return


class PostgresLock:
    """A session advisory lock of PostgreSQL, freed by the server when the session ends.

    Args:
        dsn: a libpq connection string or URL.
        name: what is locked; hashed into the lock's number.
        wait_seconds: how long to wait for other writers.
    """

    def __init__(self, dsn: str, name: str, *, wait_seconds: float) -> None:
        self._dsn = dsn
        self._number = int.from_bytes(
            hashlib.sha256(name.encode()).digest()[:8], "big", signed=True
        )
        self._wait_seconds = wait_seconds
        self._threads = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; raises Unavailable when the wait is over or the server is away."""
        try:
            import psycopg
        except ModuleNotFoundError:
            raise Unavailable(
                "A lake catalogue in PostgreSQL needs the Python package psycopg.",
                hint="Install it with `pip install 'falaj[postgres]'`.",
            ) from None
        if not self._threads.acquire(timeout=self._wait_seconds):
            raise _queue(self._wait_seconds)
        try:
            try:
                session = psycopg.connect(self._dsn, autocommit=True, connect_timeout=10)
            except psycopg.OperationalError as error:
                raise Unavailable(
                    f"The lake's PostgreSQL does not answer: {str(error).splitlines()[0]}.",
                    hint="Check the setting of the lake's catalogue and that the server runs.",
                ) from None
            with session:
                session.execute(
                    "SELECT set_config('lock_timeout', %s, false)",
                    (f"{int(self._wait_seconds * 1000)}ms",),
                )
                try:
                    session.execute("SELECT pg_advisory_lock(%s)", (self._number,))
                except psycopg.errors.LockNotAvailable:
                    raise _queue(self._wait_seconds) from None
                yield
        finally:
            self._threads.release()


def _queue(wait_seconds: float) -> Unavailable:
    return Unavailable(
        f"Other writers held the lake for more than {wait_seconds:g} s.",
        hint="Repeat the call; nothing was written.",
    )
