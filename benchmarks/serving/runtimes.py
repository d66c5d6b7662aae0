"""One row a call and a hundred through each runtime, beside the library's usual way.

The rows are distinct; answers are compared before anything is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_python import PythonRuntime
from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime
from falaj.serving.model import ServableModel
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.ports import FittedModel

N_FEATURES = 20
_NAMES = tuple(f"f{place}" for place in range(N_FEATURES))
_MODULE = b"""
import numpy as np

class Model:
    def __init__(self, folder): pass

    def predict(self, rows):
        return 1 / (1 + np.exp(-rows.sum(axis=1)))
"""
Scores = Callable[[np.ndarray], Any]


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    n_rows = 1000 if given.size == "small" else 5000
    rows: list[Row] = []
    for n_trees in (30, 300) if given.size == "small" else (30, 300, 1000):
        rows += measured(n_trees, n_rows)
    report("serving", "Runtimes, one row and a hundred", rows, given)


def measured(n_trees: int, n_rows: int) -> list[Row]:
    """Microseconds a call of each runtime."""
    import lightgbm
    import xgboost

    random = np.random.default_rng(n_trees)
    x = random.normal(size=(6000, N_FEATURES)).astype(np.float32)
    y = (x[:, :4].sum(axis=1) + random.normal(size=6000) > 0).astype(int)
    data = random.normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    trees = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(trees, lightgbm.Dataset(x, y), n_trees)
    boosted = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 5, "nthread": 1},
        xgboost.DMatrix(x, y),
        n_trees,
    )
    text = booster.model_to_string().encode()
    encoding = Encoding(features=tuple(EncodedFeature(name=name) for name in _NAMES))
    onnx = LightGbmToOnnx().convert(FittedModel("lightgbm", text, encoding))
    ways: dict[str, tuple[Scores, Scores]] = {
        "lightgbm": (
            LightGbmRuntime().load(ServableModel("lightgbm", text, _NAMES)).run,
            lambda part: booster.predict(part, num_threads=1),
        ),
        "onnx": (
            OnnxRuntime().load(ServableModel("onnx", onnx, _NAMES)).run,
            lambda part: booster.predict(part, num_threads=1),
        ),
        "xgboost": (
            XgBoostRuntime()
            .load(ServableModel("xgboost", bytes(boosted.save_raw("ubj")), _NAMES))
            .run,
            lambda part: boosted.predict(xgboost.DMatrix(part, nthread=1)),
        ),
        "python (a sum, its process)": (
            PythonRuntime().load(ServableModel("python", _MODULE, _NAMES)).run,
            lambda part: 1 / (1 + np.exp(-part.sum(axis=1))),
        ),
    }
    found = []
    for name, (ours, usual) in ways.items():
        np.testing.assert_allclose(ours(data)[:, 0], usual(data), atol=1e-5)
        for size in (1, 100):
            parts = [data[start : start + size] for start in range(0, n_rows, size)]
            mine, others = in_turn(
                lambda parts=parts, ours=ours: [ours(part) for part in parts],
                lambda parts=parts, usual=usual: [usual(part) for part in parts],
            )
            found.append(
                Row(
                    work=f"{name}, {size} rows a call",
                    size=f"{n_trees} trees, {N_FEATURES} inputs",
                    unit="µs a call",
                    ours=median(mine) / len(parts) * 1e6,
                    peer=median(others) / len(parts) * 1e6,
                    peer_name="the library's predict",
                    versions={
                        one: version(one) for one in ("lightgbm", "xgboost-cpu", "onnxruntime")
                    },
                )
            )
    return found


if __name__ == "__main__":
    main()
