"""Small models of each library, made by the library itself."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np

NAMES = ("a", "b", "c")


def rows_and_labels(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, 3] with missing values, and a label that they tell in part."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, len(NAMES))).astype(np.float32)
    labels = (rows.sum(axis=1) + random.normal(size=n) > 0).astype(int)
    rows[::11, 0] = np.nan
    return rows, labels


@functools.cache
def lightgbm_booster(seed: int = 0) -> Any:
    """A LightGBM classifier."""
    import lightgbm

    rows, labels = rows_and_labels(seed=seed)
    params = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}
    return lightgbm.train(params, lightgbm.Dataset(rows, labels), 12)


@functools.cache
def xgboost_booster(seed: int = 0, kind: str = "gbtree") -> Any:
    """An XGBoost classifier."""
    import xgboost

    rows, labels = rows_and_labels(seed=seed)
    params = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "booster": kind}
    return xgboost.train(params, xgboost.DMatrix(rows, labels), 12)


def torch_program(module: Any = None, n_inputs: int = 3) -> bytes:
    """An exported PyTorch classifier that reads missing values as 0."""
    import torch

    torch.manual_seed(0)

    def known(_self: Any, rows: Any) -> Any:
        return torch.nan_to_num(rows, posinf=1e6, neginf=-1e6)

    known_values: Any = type("KnownValues", (torch.nn.Module,), {"forward": known})
    layers = (torch.nn.Linear(n_inputs, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    given = module or torch.nn.Sequential(known_values(), *layers, torch.nn.Sigmoid())
    program = torch.export.export(
        given,
        (torch.zeros(2, n_inputs),),
        dynamic_shapes=({0: torch.export.Dim("n", min=1, max=1_000_000)},),
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()
