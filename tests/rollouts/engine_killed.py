"""Processes that look after a rollout and end themselves at the worst moments of its rollback.

``python engine_killed.py DATABASE DEEDS``: one process after the other takes the run when the
lease of the one before is over. Each kills itself at another point: in the transaction of an
act, when all of it but the commit is done, or between two acts. The last one lives. DEEDS is the
file in which the traffic keeps what was done to it, as each of them prints how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from falaj.kernel.database import Database
from falaj.rollouts.runs import LEASE
from falaj.testing.rollouttrial import FakeTraffic, Trial

ACTS = ("act", "record", "quarantine", "release")
POINTS = [(act, when) for act in ACTS for when in ("before its commit", "behind its commit")]


class KeptTraffic(FakeTraffic):
    """Traffic that outlives its processes: what was done stands in a file, a line for each."""

    def __init__(self, deeds: Path, release: str) -> None:
        super().__init__()
        self.release = release
        self.done = Deeds(deeds)
        if "('end', 'champion')\n" in deeds.read_text():
            self.release = "release_of_champion"


class Deeds(list[tuple[Any, ...]]):
    """A list that is kept in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def append(self, deed: tuple[Any, ...]) -> None:
        """Write it down, for good."""
        with self._path.open("a") as file:
            file.write(f"{deed}\n")
            file.flush()
            os.fsync(file.fileno())


def die() -> None:
    """End as a process that runs out of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def looked_after(url: str, deeds: Path, turn: int) -> None:
    """Look after the run as the process of a turn, and end at its point."""
    trial = Trial(Database(url))
    traffic = KeptTraffic(deeds, trial.run().release)
    trial.traffic = trial.following._traffic = traffic
    trial.clock.move(timedelta(seconds=30) + (LEASE + timedelta(seconds=1)) * turn)
    trial.sees_harm()
    engine: Any = trial.new_engine()
    if turn < len(POINTS):
        act, when = POINTS[turn]
        of: Any = trial.following
        carried_out, acted = getattr(of, act), engine._acted
        was_here = []

        def noted(*given: Any) -> Any:
            found = carried_out(*given)
            was_here.append(act)
            if when == "before its commit":
                die()
            return found

        def ended(*given: Any, **more: Any) -> Any:
            found = acted(*given, **more)
            if was_here:
                die()
            return found

        setattr(of, act, noted)
        engine._acted = ended
    engine.run_once()


if __name__ == "__main__":
    for turn in range(len(POINTS) + 1):
        child = os.fork()
        if not child:
            looked_after(sys.argv[1], Path(sys.argv[2]), turn)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(-os.waitstatus_to_exitcode(status), flush=True)
