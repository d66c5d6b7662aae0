"""Loses workers of a crew, for tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

_PROGRAM = b"falaj.kernel.limitedprocess"


class Killer:
    """Takes a crew's states; kills one of its workers once, after so many rounds."""

    def __init__(self, n_done: int) -> None:
        self._n_done = n_done
        self.killed: int | None = None
        self.states: list[int] = []

    def __call__(self, n_done: int, _state: Any) -> None:
        """Take a state."""
        self.states.append(n_done)
        if self.killed is None and n_done >= self._n_done:
            self.killed = max(_workers())
            os.kill(self.killed, signal.SIGKILL)


def kill_a_worker_after(n_done: int) -> Killer:
    """What kills the youngest worker of the crew after so many rounds."""
    return Killer(n_done)


def _workers() -> list[int]:
    """Processes under limits that descend from this one, by whatever way."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            belongs = os.environ["TESTED_CREW"].encode() in (entry / "environ").read_bytes()
        except (OSError, KeyError):
            continue
        if _PROGRAM in words and belongs:
            found.append(int(entry.name))
    return found


os.environ.setdefault("TESTED_CREW", f"crew-of-{os.getpid()}")
