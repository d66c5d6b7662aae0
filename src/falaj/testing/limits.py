"""What every ``LimitedCompute`` promises, as tests that each adapter inherits; and their tasks."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.compute import Plain, Task, TaskFailed, TaskLost, task, tell
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.limits import LimitedCompute
from falaj.kernel.resources import GIB, MIB, MemoryLimit, Resources, TimeLimit, Used
from falaj.testing.compute import raising, unmarked

SMALL = Resources(cpus=1, memory_bytes=256 * MIB)


class JobStopped(Conflict):
    """Raised by the tests' own check."""

    code = "test-job-stopped"


@task
def told_and_done(item: Plain) -> Plain:
    """Tells each of the items; then who it was and with what."""
    for one in item:
        tell(one)
    return {
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "cores": len(os.sched_getaffinity(0)),
    }


@task
def working(item: Plain) -> Plain:
    """Computes for so many seconds of processor time."""
    until = time.process_time() + item
    n = 0
    while time.process_time() < until:
        n += sum(range(1000))
    return n


@task
def filling(item: Plain) -> Plain:
    """Holds more and more memory, up to so many bytes."""
    held: list[bytes] = []
    while len(held) * 8 * MIB < item:
        held.append(b"x" * (8 * MIB))
        time.sleep(0.005)
    return len(held)


@task
def reserving(item: Plain) -> Plain:
    """Asks for so many bytes at once."""
    return len(bytearray(item))


@task
def sleeping(item: Plain) -> Plain:
    """Writes its process id and that of a child to a file, and sleeps for long."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(item).write_text(f"{os.getpid()} {child.pid}")
    tell("begun")
    time.sleep(600)
    return None


@task
def killing_itself(item: Plain) -> Plain:
    """Ends by a signal."""
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _all_gone(file: Path) -> bool:
    patience = time.monotonic() + 20
    while time.monotonic() < patience:
        if all(_gone(int(pid)) for pid in file.read_text().split()):
            return True
        time.sleep(0.02)
    return False


class Asked:
    """One run, and what was heard and measured of it."""

    def __init__(self) -> None:
        self.heard: list[Plain] = []
        self.used: list[Used] = []
        self.checks = 0

    def check(self) -> None:
        """Nothing is wrong."""
        self.checks += 1

    def run(self, compute: LimitedCompute, task: Task, item: Plain, **more: Any) -> Plain:
        """The result of the task."""
        resources = more.pop("resources", SMALL)
        given = {
            "heard": self.heard.append,
            "check": self.check,
            "measured": self.used.append,
            **more,
        }
        return compute.limited(task, item, resources, **given)


class LimitedConformance:
    """Inherit, and give a fixture ``compute`` with two cores and memory for two such runs."""

    def test_a_run_has_a_process_and_cores_of_its_own_and_is_heard(
        self, compute: LimitedCompute
    ) -> None:
        asked = Asked()
        answered = asked.run(compute, told_and_done, [1, "two", {"three": 3}])
        assert asked.heard == [1, "two", {"three": 3}]
        assert answered["pid"] != os.getpid()
        assert (answered["threads"], answered["cores"]) == ("1", 1)
        assert len(asked.used) == 1

    def test_what_a_run_used_is_measured(self, compute: LimitedCompute) -> None:
        asked = Asked()
        asked.run(compute, working, 0.3)
        (used,) = asked.used
        assert 0.3 <= used.cpu_seconds <= 0.3 + used.wall_seconds
        assert used.wall_seconds > 0
        assert 5 * MIB < used.peak_memory_bytes < SMALL.memory_bytes
        assert used.gpu_seconds is None

    def test_a_run_that_fills_more_memory_than_it_asked_for_is_ended(
        self, compute: LimitedCompute
    ) -> None:
        asked = Asked()
        with pytest.raises(MemoryLimit, match=r"256 MiB that it asked for") as caught:
            asked.run(compute, filling, 2 * GIB)
        assert caught.value.details["memory_bytes"] == SMALL.memory_bytes
        assert caught.value.details["peak_memory_bytes"] > SMALL.memory_bytes
        assert len(asked.used) == 1

    def test_memory_far_beyond_the_limit_is_refused_at_once(self, compute: LimitedCompute) -> None:
        with pytest.raises(MemoryLimit, match="needed more memory"):
            Asked().run(compute, reserving, 4 * GIB)

    def test_a_run_that_takes_longer_than_it_may_is_ended_with_all_it_began(
        self, compute: LimitedCompute, tmp_path: Path
    ) -> None:
        resources = SMALL.model_copy(update={"seconds": 1.0})
        with pytest.raises(TimeLimit, match="1 s that it may take"):
            Asked().run(compute, sleeping, str(tmp_path / "pids"), resources=resources)
        assert _all_gone(tmp_path / "pids")

    def test_what_the_check_raises_ends_the_run_within_a_second(
        self, compute: LimitedCompute, tmp_path: Path
    ) -> None:
        asked = Asked()
        raised: list[float] = []

        def stopped() -> None:
            if asked.heard:
                raised.append(time.monotonic())
                raise JobStopped("Somebody asked to stop.")

        with pytest.raises(JobStopped):
            asked.run(compute, sleeping, str(tmp_path / "pids"), check=stopped)
        assert _all_gone(tmp_path / "pids")
        assert len(asked.used) == 1

    def test_what_the_listener_raises_ends_the_run(
        self, compute: LimitedCompute, tmp_path: Path
    ) -> None:
        def refused(_told: Plain) -> None:
            raise JobStopped("No more.")

        with pytest.raises(JobStopped):
            Asked().run(compute, sleeping, str(tmp_path / "pids"), heard=refused)
        assert _all_gone(tmp_path / "pids")

    def test_errors_come_back_as_their_own_class(self, compute: LimitedCompute) -> None:
        with pytest.raises(Conflict, match="stands already"):
            Asked().run(compute, raising, "conflict")
        with pytest.raises(TaskFailed, match="ValueError: no such thing"):
            Asked().run(compute, raising, "value")

    def test_a_lost_process_is_told_and_measured(self, compute: LimitedCompute) -> None:
        asked = Asked()
        with pytest.raises(TaskLost):
            asked.run(compute, killing_itself, 1)
        assert len(asked.used) == 1

    def test_only_marked_functions_run_under_limits(self, compute: LimitedCompute) -> None:
        with pytest.raises(InvalidInput, match="is no task"):
            Asked().run(compute, unmarked, 1)
