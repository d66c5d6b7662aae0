"""The access log of a worker: one JSON object for each answered request, a line each.

A line is made on the event loop (some microseconds) and written by a thread, four times a
second, whole lines at once to a file that is opened for appending: all workers of a machine
may write to the same one. When the file at that path is another one than before (rotated),
or none, the path is opened anew. Query strings, bodies and tokens are never told.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from falaj.kernel.errors import InvalidInput
from falaj.kernel.telemetry import logger

if TYPE_CHECKING:
    from falaj.serving.trails import Ended

STDOUT = "stdout"
_CAPACITY = 20_000
_EVERY_SECONDS = 0.25
_LONGEST_PATH = 512


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    time: str
    method: str
    path: str
    status: int
    bytes: int
    duration_ms: float
    client: str
    endpoint: str = ""
    release: str = ""
    variant: str = ""
    caller: str = ""
    request_id: str = ""
    trace_id: str = ""
    error: str = ""
    grpc_code: str = ""


_encoded = msgspec.json.Encoder().encode


class AccessLog:
    """Writes what was asked and answered; never holds up an answer.

    Args:
        place: ``stdout``, or the path of a file.
        dropped: told the number of lines that could not be kept.
        capacity: lines that may wait.

    Raises:
        InvalidInput: the file cannot be opened.
    """

    def __init__(
        self, place: str, *, dropped: Callable[[int], None], capacity: int = _CAPACITY
    ) -> None:
        self._path = None if place == STDOUT else Path(place)
        self._dropped = dropped
        self._capacity = capacity
        self._lines: list[bytes] = []
        self._failed = False
        self._stopped = threading.Event()
        self._file = sys.stdout.fileno() if self._path is None else -1
        if self._path is not None:
            try:
                self._file = _opened(self._path)
            except OSError as error:
                raise InvalidInput(
                    f"The access log {self._path} cannot be written: {error.strerror}.",
                    hint="Mend the setting inference.access_log, or its folder's permissions.",
                ) from None
        self._thread = threading.Thread(target=self._work, name="falaj-access", daemon=True)
        self._thread.start()

    def take(self, ended: Ended) -> None:
        """Take an answered request; from the event loop alone."""
        if len(self._lines) >= self._capacity:
            self._dropped(1)
            return
        request, trail = ended.request, ended.trail
        seconds = ended.at - request.started
        line = _Line(
            _instant(time.time() - seconds),
            request.method.decode("latin-1"),
            request.path[:_LONGEST_PATH].decode("latin-1"),
            ended.status,
            ended.n_bytes,
            round(seconds * 1000, 3),
            ended.client,
            trail.endpoint,
            trail.release,
            trail.variant,
            trail.caller,
            trail.request_id,
            trail.trace_id,
            trail.error.code if trail.error is not None else "",
            ended.grpc_code,
        )
        self._lines.append(_encoded(line))

    def close(self) -> None:
        """Write what waits, and end."""
        self._stopped.set()
        self._thread.join()
        if self._path is not None and self._file >= 0:
            os.close(self._file)

    def _work(self) -> None:
        while not self._stopped.wait(_EVERY_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            if self._path is not None and not _is_at(self._file, self._path):
                if self._file >= 0:
                    os.close(self._file)
                    self._file = -1
                self._file = _opened(self._path)
            data = memoryview(b"\n".join(lines) + b"\n")
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._dropped(len(lines))
            if not self._failed:
                logger(__name__).error("access log not written", error=str(error))
            self._failed = True
        else:
            self._failed = False


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_at(descriptor: int, path: Path) -> bool:
    """True if the path still names the open file."""
    if descriptor < 0:
        return False
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)


def _instant(seconds: float) -> str:
    whole = int(seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int((seconds - whole) * 1e6):06d}Z"
