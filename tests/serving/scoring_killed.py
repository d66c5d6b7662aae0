"""Runs one scoring job and is killed at a named step; started by test_batch.py."""

import os
import signal
import sys

from falaj.kernel.jobs import JobRun, Worker
from falaj.kernel.settings import Settings
from falaj.wiring import stores
from falaj.wiring.assembly import assemble
from falaj.wiring.scoring import scoring


def die():
    """As kill -9 from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(work, at):
    """The same work, but for death in the place of a call of it."""
    left = [at]

    def done(*given, **named):
        if not left[0]:
            die()
        left[0] -= 1
        return work(*given, **named)

    return done


def main(folder, step, at):
    """Open the platform, let one step die at its so-manieth call, and take the waiting job."""
    made = assemble(Settings.read(folder), process="killed")
    computes = []

    def compute():
        computes.append(stores.compute(made.settings))
        return computes[0]

    if step == "append":
        made.lake.append = dying(made.lake.append, at)
    elif step == "save":
        JobRun.save = dying(JobRun.save, at)
    elif step == "report":
        JobRun.report = dying(JobRun.report, at)

    def told(run, progress, message="", *, report=JobRun.report):
        print(*computes[0].pids() if computes else (), flush=True)
        report(run, progress, message)

    JobRun.report = told
    handler = scoring(made, compute=compute, part_rows=250)
    Worker(made.jobs, {"endpoints.score": handler}, name="killed").run_one()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
