"""What every ``Compute`` promises, as tests that each adapter inherits; and their tasks."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.compute import (
    Compute,
    Task,
    TaskFailed,
    TaskLost,
    name_of,
    packed,
    packed_answer,
    task,
    unpacked_result,
)
from falaj.kernel.errors import Conflict, InvalidInput

Plain = Any


@task
def doubled(item: Plain) -> Plain:
    """Twice the number; who did it, and what of the item came over."""
    return {"twice": item["n"] * 2, "pid": os.getpid(), "same": item.get("more")}


@task
def slow_first(item: Plain) -> Plain:
    """The item; the first one takes its time."""
    if item == 0:
        time.sleep(0.4)
    return item


@task
def raising(item: Plain) -> Plain:
    """Raises a Conflict for "conflict", ValueError for "value"; else the item."""
    if item == "conflict":
        raise Conflict("It stands already.", hint="Look.", which="this")
    if item == "value":
        raise ValueError("no such thing")
    return item


@task
def lost_at_first(item: Plain) -> Plain:
    """Kills its own process as often as the item says, counting in a file; then the count."""
    file = Path(item["file"])
    begun = int(file.read_text()) if file.exists() else 0
    file.write_text(str(begun + 1))
    if begun < item["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return begun + 1


@task
def unending(item: Plain) -> Plain:
    """Writes its process id to a file and never ends."""
    Path(item).write_text(str(os.getpid()))
    time.sleep(600)
    return None


def unmarked(item: Plain) -> Plain:
    """A function of a module that is no task."""
    return item


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _soon(true: Callable[[], Any], *, seconds: float = 20) -> Any:
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


class HereCompute:
    """A ``Compute`` in this very process, for tests that are not about processes.

    Items and results are packed and unpacked as between processes.
    """

    n_slots = 1

    def __init__(self) -> None:
        self.n_tasks = 0

    def ordered(self, task: Task, items: Iterable[Plain]) -> Iterator[Plain]:
        """See ``Compute.ordered``."""
        for item in items:
            self.n_tasks += 1
            yield unpacked_result(packed_answer(name_of(task), packed(item)))

    def close(self) -> None:
        """There is nothing to end."""


class ComputeConformance:
    """Inherit, and give a fixture ``compute`` with two slots."""

    def test_results_come_in_the_order_of_the_items(self, compute: Compute) -> None:
        assert list(compute.ordered(slow_first, range(7))) == list(range(7))

    def test_plain_data_arrives_as_it_was_sent_in_another_process(self, compute: Compute) -> None:
        more = {"bytes": b"\x00\xff", "list": [1, None, 2.5, True], "text": "فلج"}
        (found,) = compute.ordered(doubled, [{"n": 21, "more": more}])
        assert found["twice"] == 42
        assert found["same"] == more
        assert found["pid"] != os.getpid()

    def test_items_are_taken_only_as_there_is_room(self, compute: Compute) -> None:
        taken = []

        def endless() -> Iterator[Plain]:
            while True:
                taken.append(1)
                yield {"n": len(taken)}

        results = compute.ordered(doubled, endless())
        assert [next(results)["twice"] for _ in range(3)] == [2, 4, 6]
        assert len(taken) <= 3 + compute.n_slots + 2
        results.close()  # type: ignore[attr-defined]  # an adapter's answer is a generator

    def test_an_error_of_ours_is_raised_in_its_place_as_its_own_class(
        self, compute: Compute
    ) -> None:
        results = compute.ordered(raising, ["a", "conflict", "b"])
        assert next(results) == "a"
        with pytest.raises(Conflict, match="stands already") as caught:
            next(results)
        assert caught.value.details == {"which": "this"}
        assert list(compute.ordered(raising, ["still", "working"])) == ["still", "working"]

    def test_what_a_task_raises_besides_is_a_failed_task(self, compute: Compute) -> None:
        with pytest.raises(TaskFailed, match="ValueError: no such thing"):
            list(compute.ordered(raising, ["value"]))

    def test_a_task_whose_process_is_killed_is_begun_again(
        self, compute: Compute, tmp_path: Path
    ) -> None:
        items = [{"file": str(tmp_path / str(n)), "times": n % 2} for n in range(4)]
        assert list(compute.ordered(lost_at_first, items)) == [1, 2, 1, 2]

    def test_a_task_that_loses_every_process_is_given_up(
        self, compute: Compute, tmp_path: Path
    ) -> None:
        with pytest.raises(TaskLost):
            list(compute.ordered(lost_at_first, [{"file": str(tmp_path / "n"), "times": 99}]))
        assert (tmp_path / "n").read_text() == "3"

    def test_leaving_early_ends_what_still_runs(self, compute: Compute, tmp_path: Path) -> None:
        def items() -> Iterator[Plain]:
            yield str(tmp_path / "pid")
            _soon(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(compute.ordered(unending, items()))
        pid = int((tmp_path / "pid").read_text())
        _soon(lambda: _gone(pid))
        assert list(compute.ordered(raising, ["next"])) == ["next"]

    def test_only_marked_functions_are_run(self, compute: Compute) -> None:
        with pytest.raises(InvalidInput, match="is no task"):
            list(compute.ordered(unmarked, [1]))
        with pytest.raises(InvalidInput, match="is no task"):
            list(compute.ordered(task(lambda item: item), [1]))

    def test_what_is_no_plain_data_is_refused(self, compute: Compute) -> None:
        with pytest.raises(InvalidInput, match="no plain data"):
            list(compute.ordered(raising, [object()]))
