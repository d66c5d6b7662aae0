"""Runs one training job and is killed at a named step; started by test_kill.py."""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from world import World

from falaj.kernel.database import Database
from falaj.training.checkpoints import SealedCheckpoints


def die(*_given, **_named):
    """As kill -9 from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(n: int) -> None:
    """Die when a fit has kept so many states."""
    keep, kept = SealedCheckpoints.keep, []

    def counted(self, n_done, state):
        keep(self, n_done, state)
        kept.append(self.last())
        if len(kept) == n:
            die()

    SealedCheckpoints.keep = counted


def main(url: str, folder: str, step: str) -> None:
    """Assemble the world, replace one step by death, and take the waiting job."""
    world = World(Database(url), Path(folder), jobs_lease=timedelta(seconds=3))
    if step == "record":
        world.sets.record = die
    elif step == "fit":
        world.trainer.fit = die
    elif step == "checkpoint":
        die_after(2)
    elif step == "package":
        world.packaging.package = die
    elif step == "register":
        world.packaging.register = die
    world.worker("killed").run_one()


main(*sys.argv[1:])
