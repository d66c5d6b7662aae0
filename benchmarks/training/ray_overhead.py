"""What RayCompute adds to a plain Ray task: names, MessagePack, order, token.

    .venv/bin/python benchmarks/training/ray_overhead.py [--size small|full] [--write]

Both run on one Ray that is started here, with its token authentication on. A plain task takes
the same item and doubles it; it is pickled by Ray. They are asked in turn, one task at a time
and many at once. The last row is a run under limits, which has a process of its own: its floor is
that process alone, on this machine without Ray.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import Row, arguments, median, report

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.adapters.compute_ray import RayCompute
from falaj.kernel.resources import MIB, Resources
from falaj.testing.compute import doubled

GOAL_MS = 5.0
SIZES = {"small": (5, 40, 3), "full": (15, 200, 9)}


def plain(item):
    """The work of ``doubled``, as a task of Ray's own."""
    import os

    return {"twice": item["n"] * 2, "pid": os.getpid(), "same": item.get("more")}


def milliseconds(work):
    """How long it took."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def in_turn(n_rounds, ours, theirs):
    """The medians of both, asked one after the other in each round."""
    found = [(milliseconds(ours), milliseconds(theirs)) for _ in range(n_rounds)]
    return median([one for one, _ in found]), median([other for _, other in found])


def checked(results, n):
    """Raise unless the answers are right."""
    if [one["twice"] for one in results] != [2 * place for place in range(n)]:
        raise SystemExit("the answers differ")


def tasks(compute, n_rounds, n_tasks):
    """One task at a time, and many at once, against the same of Ray's own."""
    ray = compute._ray
    remote = ray.remote(num_cpus=1)(plain)
    for _ in range(2):  # workers are started, functions are known
        checked(compute.ordered(doubled, ({"n": n} for n in range(8))), 8)
        checked(ray.get([remote.remote({"n": n}) for n in range(8)]), 8)

    def ours_one():
        for n in range(n_tasks):
            (found,) = compute.ordered(doubled, [{"n": n}])
            assert found["twice"] == 2 * n

    def theirs_one():
        for n in range(n_tasks):
            assert ray.get(remote.remote({"n": n}))["twice"] == 2 * n

    def ours_many():
        checked(compute.ordered(doubled, ({"n": n} for n in range(n_tasks))), n_tasks)

    def theirs_many():
        checked(ray.get([remote.remote({"n": n}) for n in range(n_tasks)]), n_tasks)

    rows = []
    for work, ours, theirs in (
        ("a task, alone", ours_one, theirs_one),
        (f"a task, of {n_tasks} at once", ours_many, theirs_many),
    ):
        mine, its = (total / n_tasks for total in in_turn(n_rounds, ours, theirs))
        rows.append(
            Row(
                work, "2 cores", "ms", mine, its, "a plain Ray task",
                goal=f"≤ {GOAL_MS:g} ms more", met=mine - its <= GOAL_MS,
            )
        )  # fmt: skip
    return rows


def limited(compute, local, n_rounds):
    """A run under limits on Ray, and the same here."""
    asked = Resources(cpus=1, memory_bytes=256 * MIB)

    def run(where):
        found = where.limited(
            doubled, {"n": 3}, asked,
            heard=lambda _told: None, check=lambda: None, measured=lambda _used: None,
        )  # fmt: skip
        assert found["twice"] == 6

    mine, its = in_turn(n_rounds, lambda: run(compute), lambda: run(local))
    return Row("a run under limits", "1 core", "ms", mine, its, "the same process without Ray")


def main():
    """Measure and report."""
    asked = arguments(__doc__)
    n_rounds, n_tasks, n_limited = SIZES[asked.size]
    compute, local = RayCompute(slots=2, memory_bytes=2**30), LocalCompute(1)
    try:
        rows = tasks(compute, n_rounds, n_tasks)
        rows.append(limited(compute, local, n_limited))
    finally:
        compute.close()
        local.close()
    report("training", "Ray: what RayCompute adds to a task", rows, asked)


if __name__ == "__main__":
    main()
