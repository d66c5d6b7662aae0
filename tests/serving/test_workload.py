from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import uvloop

from falaj.serving.workload import (
    BUSY_NS,
    INSIDE,
    PID,
    Observer,
    Reading,
    Sampler,
    Workload,
    upper_of,
)


class Lane:
    def __init__(self, inside: int = 0, longest_wait: float = 0.0) -> None:
        self.inside = inside
        self.longest_wait = longest_wait


def read(path: Path) -> Reading:
    found = Reading.of(path)
    assert found is not None
    return found


def test_what_was_done_since_the_last_look_is_told_as_shares_and_waits(tmp_path: Path) -> None:
    pages = {name: Workload(tmp_path / name) for name in ("w1", "w2")}
    observer = Observer()

    def look(at: float):  # type: ignore[no-untyped-def]
        return observer.observe(at, {name: read(tmp_path / name) for name in pages}, workers=2)

    for page in pages.values():
        page.note(at_ns=10**9, busy_ns=10**8, waited=5.0, inside=9)
    assert look(1.0) is None  # nothing to compare with
    for number in range(1, 11):
        at_ns = 10**9 + number * 10**8
        pages["w1"].note(at_ns=at_ns, busy_ns=8 * 10**7, waited=0.001, inside=3)
        pages["w2"].note(at_ns=at_ns, busy_ns=10**7, waited=0.05 * (number == 10), inside=1)
    pages["w2"].shed()
    seen = look(2.0)
    assert seen.utilisation == pytest.approx((0.8, 0.1))
    assert (seen.workers, seen.inside, seen.shed) == (2, 4, 1)
    assert seen.queue_p90 == pytest.approx(0.001, rel=0.13)
    assert seen.queue_p99 == pytest.approx(0.05, rel=0.13)


def test_a_worker_that_is_another_process_now_is_compared_with_nothing(tmp_path: Path) -> None:
    observer = Observer()
    first = Workload(tmp_path / "w1")
    first.note(at_ns=10**9, busy_ns=10**9, waited=0, inside=0)
    assert observer.observe(1.0, {"w1": read(tmp_path / "w1")}, workers=1) is None
    second = Workload(tmp_path / "w1")  # a new page in the place of the old one
    second.slots[PID] += 1
    second.note(at_ns=2 * 10**9, busy_ns=10**8, waited=0, inside=0)
    assert observer.observe(2.0, {"w1": read(tmp_path / "w1")}, workers=1) is None
    second.note(at_ns=3 * 10**9, busy_ns=10**8, waited=0, inside=0)
    seen = observer.observe(3.0, {"w1": read(tmp_path / "w1")}, workers=1)
    assert seen is not None
    assert seen.utilisation == pytest.approx((0.1,))


def test_a_loop_that_has_no_moment_to_note_anything_counts_as_busy(tmp_path: Path) -> None:
    observer = Observer()
    page = Workload(tmp_path / "w1")
    page.note(at_ns=10**9, busy_ns=0, waited=0, inside=2)
    for at in (1.0, 2.0):
        seen = observer.observe(at, {"w1": read(tmp_path / "w1")}, workers=2)
    assert seen is not None
    assert seen.utilisation == (1.0,)
    assert (seen.workers, seen.inside) == (2, 2)  # the other one has crashed


def test_a_page_that_is_not_there_or_not_whole_is_no_reading(tmp_path: Path) -> None:
    assert Reading.of(tmp_path / "none") is None
    (tmp_path / "half").write_bytes(b"12345678")
    assert Reading.of(tmp_path / "half") is None


def test_the_loop_notes_its_work_its_lateness_and_the_longest_wait_of_its_lanes(
    tmp_path: Path,
) -> None:
    page = Workload(tmp_path / "w1")
    lanes = [Lane(2, 3.0), Lane(1, 0.5)]

    async def worked() -> None:
        sampler = Sampler(page, lambda: lanes)
        while page.slots[INSIDE] != 3:
            await asyncio.sleep(0.02)
        assert all(lane.longest_wait == 0 for lane in lanes)
        until = time.thread_time() + 0.3
        while time.thread_time() < until:  # the loop cannot do anything else
            pass
        patience = time.monotonic() + 20
        while page.slots[BUSY_NS] < 0.3e9 and time.monotonic() < patience:
            await asyncio.sleep(0.02)
        sampler.stop()

    observer = Observer()
    observer.observe(0.0, {"w1": read(tmp_path / "w1")}, workers=1)
    uvloop.run(worked())
    seen = observer.observe(1.0, {"w1": read(tmp_path / "w1")}, workers=1)
    assert seen is not None
    assert seen.queue_p99 > 2.9  # the wait of a lane
    assert page.slots[BUSY_NS] >= 0.3e9  # the thread's own time on a processor
    late = sum(count for place, count in enumerate(page.slots[16:]) if upper_of(place) > 0.15e6)
    assert late >= 2  # the lane's wait, and the note that came late
