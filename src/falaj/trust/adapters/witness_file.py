"""``FileWitness``: checkpoints in a file, one line each, that only grows.

Put it where whoever owns the database cannot write: another machine's share, a volume
that only appends (``chattr +a``), a log collector's folder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from falaj.kernel.errors import Corrupt, Unavailable
from falaj.trust.ports import Sighting
from falaj.trust.sightings import line, put_back
from falaj.trust.sightings import sighting as sighting_of

_TAIL_BYTES = 65_536
"""What is read of the file: its lines only grow, so the last ones hold the greatest."""


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
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                latest = self.latest()
                if latest == sighting:
                    return
                if latest is not None and latest.size >= sighting.size:
                    raise put_back(f"The witness {self._path}", latest.size, sighting.size)
                if file.tell() and not self._ends_whole():
                    file.write(b"\n")  # a line that a crash cut short
                file.write(line(sighting) + b"\n")
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
        read = [self._read(text) for text in (lines[1:] if start else lines)]
        return max((one for one in read if one), key=lambda one: one.size, default=None)

    def _read(self, text: bytes) -> Sighting | None:
        try:
            return sighting_of(text, holder=f"the witness {self._path}")
        except Corrupt:
            if text.startswith(b"{") or not text.strip():
                return None  # cut short by a crash, before it was acknowledged
            raise

    def _ends_whole(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
