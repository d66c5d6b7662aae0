"""``FileWitness``: checkpoints in a file, one line each, that only grows.

Put it where whoever owns the database cannot write: another machine's share, a volume
that only appends (``chattr +a``), a log collector's folder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from falaj.kernel.errors import Conflict, Corrupt, Unavailable
from falaj.trust.ports import Sighting, Signature

_TAIL_BYTES = 65_536
"""What is read of the file: its lines only grow, so the last ones hold the greatest."""


class _Line(msgspec.Struct):
    size: int
    statement: str
    key_id: str
    algorithm: str
    signature: bytes


class FileWitness:
    """The ``Witness`` on a file; made with the first checkpoint.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, sighting: Sighting) -> None:
        """Add a line, synced to disk; nothing if it stands there already.

        Raises:
            Conflict: a later checkpoint, or another one of this size, was kept before: the
                log was put back.
            Unavailable: the file cannot be written.
        """
        line = _Line(
            sighting.size,
            sighting.statement.decode(),
            sighting.signature.key_id,
            sighting.signature.algorithm,
            sighting.signature.value,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                latest = self.latest()
                if latest == sighting:
                    return
                if latest is not None and latest.size >= sighting.size:
                    raise Conflict(
                        f"The witness {self._path} has seen {latest.size} audit records; the log "
                        f"now shows a checkpoint of {sighting.size}.",
                        hint="The log was put back to an earlier state: run `falaj audit verify`.",
                    )
                if file.tell() and not self._ends_whole():
                    file.write(b"\n")  # a line that a crash cut short
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Unavailable(
                f"The witness {self._path} cannot be written: {error.strerror}.",
                hint="Mend the folder or its mode; the checkpoint itself is kept.",
            ) from None

    def latest(self) -> Sighting | None:
        """The greatest checkpoint at the end of the file."""
        try:
            with self._path.open("rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
                file.seek(start)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(
                f"The witness {self._path} cannot be read: {error.strerror}.",
                hint="Mend the folder or its mode.",
            ) from None
        read = [self._read(line) for line in (lines[1:] if start else lines)]
        best = max((line for line in read if line), key=lambda line: line.size, default=None)
        if best is None:
            return None
        signature = Signature(best.key_id, best.algorithm, best.signature)
        return Sighting(best.size, best.statement.encode(), signature)

    def _read(self, text: bytes) -> _Line | None:
        try:
            return msgspec.json.decode(text, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if text.startswith(b"{") or not text.strip():
                return None  # cut short by a crash, before it was acknowledged
            raise Corrupt(
                f"A line of the witness {self._path} is not one of its own.",
                hint="See who writes to it; restore it from a backup.",
            ) from None

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
