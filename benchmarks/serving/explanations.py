"""What contributions cost beside the score itself, for tree models of growing size.

Contributions and scores of the same rows are made in turn on one thread, one row a call
and a hundred; each run first checks that contributions add up to the raw score.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime
from falaj.serving.model import ServableModel
from falaj.serving.ports import Explainer, LoadedModel

N_FEATURES = 20
ROUNDS = 5


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    sizes = (30, 100, 300) if given.size == "small" else (100, 300, 1000)
    rows: list[Row] = []
    for n_trees in sizes:
        for library in ("lightgbm", "xgboost"):
            rows += measured(library, n_trees, n_rows=200 if given.size == "small" else 1000)
    report("serving", "Contributions of inputs (TreeSHAP)", rows, given)


def measured(library: str, n_trees: int, n_rows: int) -> list[Row]:
    """Microseconds a row of contributions, beside those of the score."""
    loaded, explainer, raw, data = made(library, n_trees, n_rows)
    added = explainer.contributions(data).sum(axis=1)
    np.testing.assert_allclose(added, raw, atol=1e-3)
    singles = [np.ascontiguousarray(row[None, :]) for row in data]
    batches = [data[start : start + 100] for start in range(0, n_rows, 100)]
    found = []
    for name, parts in (("1 row", singles), ("100 rows", batches)):
        told, scored = in_turn(
            lambda parts=parts: [explainer.contributions(part) for part in parts],
            lambda parts=parts: [loaded.run(part) for part in parts],
            rounds=ROUNDS,
        )
        found.append(
            Row(
                work=f"contributions, {library}, {name} a call",
                size=f"{n_trees} trees, {N_FEATURES} inputs",
                unit="µs a row",
                ours=median(told) / n_rows * 1e6,
                peer=median(scored) / n_rows * 1e6,
                peer_name="the score alone",
                versions={library: version("xgboost-cpu" if library == "xgboost" else library)},
            )
        )
    return found


def made(
    library: str, n_trees: int, n_rows: int
) -> tuple[LoadedModel, Explainer, np.ndarray, np.ndarray]:
    """A model of so many trees, loaded; its explainer; raw scores of distinct rows."""
    random = np.random.default_rng(n_trees)
    x = random.normal(size=(6000, N_FEATURES)).astype(np.float32)
    y = (x[:, :4].sum(axis=1) + random.normal(size=6000) > 0).astype(int)
    data = random.normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    names = tuple(f"f{place}" for place in range(N_FEATURES))
    if library == "lightgbm":
        import lightgbm

        params = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}
        booster = lightgbm.train(params, lightgbm.Dataset(x, y), n_trees)
        model = ServableModel(library, booster.model_to_string().encode(), names)
        raw = booster.predict(data, raw_score=True)
        return LightGbmRuntime().load(model), LightGbmRuntime().explainer(model), raw, data
    import xgboost

    params = {"objective": "binary:logistic", "max_depth": 5, "nthread": 1}
    boosted = xgboost.train(params, xgboost.DMatrix(x, y), n_trees)
    model = ServableModel(library, bytes(boosted.save_raw("ubj")), names)
    raw = boosted.predict(xgboost.DMatrix(data), output_margin=True)
    return XgBoostRuntime().load(model), XgBoostRuntime().explainer(model), raw, data


if __name__ == "__main__":
    main()
