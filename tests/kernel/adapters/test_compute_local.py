"""Processes on this machine keep what every compute promises, and their limits."""

import os

import pytest

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.compute import TaskFailed, task
from falaj.testing.compute import ComputeConformance, doubled
from falaj.testing.limits import LimitedConformance


@pytest.fixture(scope="module")
def compute():
    made = LocalCompute(2)
    yield made
    made.close()


class TestLocalCompute(ComputeConformance):
    pass


@task
def greedy(n_bytes):
    return len(bytearray(n_bytes))


def test_a_task_that_needs_more_memory_than_its_limit_fails_alone():
    compute = LocalCompute(1, memory_bytes=2 * 2**30)
    try:
        with pytest.raises(TaskFailed, match="more memory than it may have"):
            list(compute.ordered(greedy, [4 * 2**30]))
        assert list(compute.ordered(greedy, [1000])) == [1000]
    finally:
        compute.close()


def test_no_process_is_left_when_it_is_closed():
    compute = LocalCompute(2)
    list(compute.ordered(doubled, [{"n": 1}] * 4))
    pids = compute.pids()
    assert pids
    compute.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class TestLimitedLocally(LimitedConformance):
    pass
