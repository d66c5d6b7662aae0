"""Runs one training job and is killed at a named step; started by test_kill.py."""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from world import World

from falaj.kernel.database import Database


def die(*_given, **_named):
    """As kill -9 from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, folder: str, step: str) -> None:
    """Assemble the world, replace one step by death, and take the waiting job."""
    world = World(Database(url), Path(folder), jobs_lease=timedelta(seconds=3))
    if step == "record":
        world.sets.record = die
    elif step == "fit":
        world.trainer.fit = die
    elif step == "package":
        world.packaging.package = die
    elif step == "register":
        world.packaging.register = die
    world.worker("killed").run_one()


main(*sys.argv[1:])
