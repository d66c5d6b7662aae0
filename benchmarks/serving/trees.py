"""Compiled trees against ONNX Runtime, without HTTP: one run of the model for n rows.

Both score the same ONNX model of a LightGBM classifier on one thread of the same core, in
turn; all rows are distinct (4,096 or more), because a row that is repeated teaches the
branch predictor its way and makes any scorer look twice as fast. Times are processor time
of the calls as a worker makes them (``LoadedModel.run``), so the cost of calling counts.
The scores of both are compared before anything is timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report

from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_trees import TreeRuntime
from falaj.serving.model import ServableModel
from falaj.serving.ports import LoadedModel

N_FEATURES = 20
SHAPES = [(300, 31, 0.0), (1000, 15, 0.0), (300, 63, 0.0), (100, 255, 0.0), (20, 2000, 0.0),
          (300, 31, 0.05)]  # fmt: skip
"""Trees, leaves of each, and what share of the inputs is missing."""
SIZES = [1, 8, 16, 100, 10_000]
GOALS = {1: 2.0, 8: 2.0, 16: 2.0, 100: 1.0, 10_000: 1.0}


def drawn(random: np.random.Generator, n: int, missing: float) -> np.ndarray:
    """Rows of normal inputs, of which a share is missing."""
    rows = random.normal(size=(n, N_FEATURES)).astype(np.float32)
    rows[random.random(rows.shape) < missing] = np.nan
    return rows


def made(n_trees: int, n_leaves: int, missing: float) -> ServableModel:
    """A LightGBM classifier of that shape as ONNX."""
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(7)
    rows = drawn(random, 20_000, missing)
    labels = (np.nansum(rows[:, :5], axis=1) + random.normal(size=len(rows)) > 0).astype(int)
    fitted = lightgbm.LGBMClassifier(
        n_estimators=n_trees, num_leaves=n_leaves, min_child_samples=3, verbose=-1, n_jobs=2
    ).fit(rows, labels)
    kind = [("input", FloatTensorType([None, N_FEATURES]))]
    model = convert_lightgbm(fitted, initial_types=kind, zipmap=False, target_opset=15)
    names = tuple(f"x{place}" for place in range(N_FEATURES))
    return ServableModel("onnx", model.SerializeToString(), names)


def timed(model: LoadedModel, parts: list[np.ndarray]) -> float:
    """Microseconds of processor time of one run."""
    run = model.run
    started = time.process_time()
    for part in parts:
        run(part)
    return (time.process_time() - started) / len(parts) * 1e6


def measured(n_trees: int, n_leaves: int, missing: float, rounds: int) -> Iterator[Row]:
    """One row of the table for each number of rows."""
    model = made(n_trees, n_leaves, missing)
    theirs = OnnxRuntime(device="cpu").load(model)
    ours = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(model)
    if not ours.compiled:
        raise SystemExit(f"{n_trees} trees of {n_leaves} leaves were not compiled.")
    rows = drawn(np.random.default_rng(8), 10_000, missing)
    np.testing.assert_allclose(ours.run(rows), theirs.run(rows), rtol=0, atol=1e-6)
    told = f", {missing:.0%} of the inputs missing" if missing else ""
    versions = {name: version(name) for name in ("onnxruntime", "numba", "numpy")}
    for n in SIZES:
        n_parts = min(len(rows) // n, 4_096)
        parts = [rows[i * n : (i + 1) * n] for i in range(n_parts)]
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            for index, one in enumerate((ours, theirs)):
                taken = timed(one, parts)
                if number:
                    seconds[index].append(taken)
        mine, other = median(seconds[0]), median(seconds[1])
        yield Row(
            work=f"{n_trees} trees of {n_leaves} leaves{told}",
            size=f"{n:,} rows",
            unit="µs a run",
            ours=mine,
            peer=other,
            peer_name="ONNX Runtime",
            goal=f"≥ {GOALS[n]:g} times",
            met=other / mine >= GOALS[n],
            versions=versions,
        )


def main() -> None:
    """Measure all shapes and report."""
    given = arguments(__doc__ or "")
    rounds = 3 if given.size == "small" else 7
    rows = [row for shape in SHAPES for row in measured(*shape, rounds)]
    report("serving", "Compiled trees against ONNX Runtime", rows, given)


if __name__ == "__main__":
    main()
