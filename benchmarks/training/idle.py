"""A server of MLflow's API at rest: its memory, and the time from its start to a first answer.

    .venv/bin/python benchmarks/training/idle.py [--size small|full] [--write]

Ours is the control plane alone (`falaj up control`), with its supervisor; MLflow's server has one
worker, uvloop and no jobs. The first answer is a search for experiments; memory is the resident
size of all processes of a server, five seconds after its first answer.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import ROOT, Row, arguments, median, report
from trackers import mlflow_server, our_server


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in file.read_text().split()]
    return found


def resident(pid: int) -> float:
    """The resident size of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    given = arguments(__doc__ or "")
    rounds = 2 if given.size == "small" else 7
    seconds: dict[str, list[float]] = {"ours": [], "MLflow": []}
    memory: dict[str, list[float]] = {"ours": [], "MLflow": [], "control": []}
    with tempfile.TemporaryDirectory(dir=ROOT / ".venv") as name:
        folder = Path(name)
        for number in range(rounds + 1):  # the first start of each makes its database
            for side, starts in seconds.items():
                with ExitStack() as stack:
                    if side == "ours":
                        tracker = stack.enter_context(
                            our_server(folder / f"ours-{number}", "sqlite:")
                        )
                    else:
                        url = f"sqlite:///{folder}/mlflow.db"
                        tracker = stack.enter_context(mlflow_server(folder, url))
                        tracker.anew()
                    taken = time.perf_counter() - tracker.begun
                    time.sleep(5)
                    if number == 0:
                        continue
                    starts.append(taken)
                    memory[side].append(sum(map(resident, family(tracker.parent))))
                    if side == "ours":
                        memory["control"].append(resident(tracker.pid))
    mine, peer = median(seconds["ours"]), median(seconds["MLflow"])
    control, theirs = median(memory["control"]), median(memory["MLflow"])
    report(
        "training",
        "A server of MLflow's API at rest",
        [
            Row("from the start to the first answer", f"{rounds} starts", "s", mine, peer, "MLflow",
                goal="≤ 1.5 s", met=mine <= 1.5),
            Row("control plane at rest", "resident", "MB", control, theirs, "MLflow",
                goal="≤ 180 MB", met=control <= 180),
            Row("with its supervisor", "resident", "MB", median(memory["ours"]), theirs, "MLflow"),
        ],
        given,
    )  # fmt: skip


if __name__ == "__main__":
    main()
