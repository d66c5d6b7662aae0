"""What a run of one's own code costs the code: logging values, and sampling the machine.

The floor of logging is a dict that is put on a list. Sent in the background meanwhile: the
values go to a platform in this process, on SQLite with full sync.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import Row, arguments, in_turn, median, report

import falaj
from falaj.kernel.settings import Settings
from falaj.training.systemmetrics import EVERY_SECONDS, Machine
from falaj.wiring import setup

N_VALUES = {"small": (2_000,), "full": (2_000, 20_000, 40_000)}
SAMPLES = 200


def main() -> None:
    given = arguments(__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        setup.initialise(Settings.read(folder), owner="bench")
        with falaj.open(folder) as platform:
            for n_values in N_VALUES[given.size]:
                kept: list[list[float]] = []  # of each round: seconds to log, seconds to the end

                def ours(n: int = n_values, kept: list[list[float]] = kept) -> None:
                    with platform.training.run("bench", code=False) as run:
                        begun = time.perf_counter()
                        for step in range(n):
                            run.log(loss=0.5, step=step)
                        logged = time.perf_counter() - begun
                    kept.append([logged, time.perf_counter() - begun])

                def floor(n: int = n_values) -> None:
                    values = []
                    for step in range(n):
                        values.append({"key": "loss", "value": 0.5, "step": step})

                _, least = in_turn(ours, floor, rounds=3, warm=1)
                logged = median([one[0] for one in kept[1:]])
                whole = median([one[1] for one in kept[1:]])
                size = f"{n_values:,} values"
                rows.append(Row("run.log", size, "µs a call", 1e6 * logged / n_values,
                                floor=1e6 * median(least) / n_values))  # fmt: skip
                rows.append(Row("values logged, all there at the end", size, "values/s",
                                n_values / whole, better="more"))  # fmt: skip
    machine = Machine()
    begun = time.process_time()
    for _ in range(SAMPLES):
        machine.sampled()
    seconds = (time.process_time() - begun) / SAMPLES
    rows.append(Row("sampling the machine", f"every {EVERY_SECONDS:g} s", "ms of CPU a sample",
                    1e3 * seconds, versions={"psutil": version("psutil")}))  # fmt: skip
    report("training", "Runs of one's own code", rows, given)


if __name__ == "__main__":
    main()
