"""Gradient-boosted trees by XGBoost, the same bytes for the same rows and seed.

As LightGBM's, a fit is made in stretches of ``checkpoint_rounds`` trees, each begun from the
bytes of the model so far; XGBoost's random numbers begin anew with each tree
(``seed_per_iteration``), so that nothing else need be remembered.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import Encoding
from falaj.training.environment import code_version
from falaj.training.extras import library
from falaj.training.model import CodeVersion
from falaj.training.parameters import at_least_one, check_learnable, completed, finite
from falaj.training.ports import UNKEPT, Checkpoints, FittedModel, Report, Rows, Traits
from falaj.training.rowmetrics import loss_of
from falaj.training.stopping import Patience
from falaj.training.targets import Target

DEFAULTS: dict[str, Any] = {
    "n_trees": 600,
    "early_stopping_rounds": 40,
    "learning_rate": 0.06,
    "max_depth": 6,
    "min_child_weight": 20.0,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "reg_lambda": 5.0,
    "max_bin": 128,
    "num_threads": 0,
    "checkpoint_rounds": 100,
}
_ALSO = {
    "reg_alpha": float,
    "gamma": float,
    "max_leaves": int,
    "max_delta_step": float,
    "scale_pos_weight": float,
    "colsample_bylevel": float,
    "colsample_bynode": float,
    "grow_policy": str,
}
_OBJECTIVES = {
    "binary": "binary:logistic",
    "regression": "reg:squarederror",
    "classes": "multi:softprob",
}
_FIXED = {
    "tree_method": "hist",
    "seed_per_iteration": True,
    "verbosity": 0,
    "disable_default_eval_metric": True,
}
_REPORT_EVERY = 10


class XgBoostTrainer:
    """Fits XGBoost models; ``n_trees`` is the most (of each class), early stopping finds the
    best.

    Float32 inputs, missing values as NaN; infinities count as the greatest finite values.
    """

    name = "xgboost"
    traits = Traits(
        identical=True,
        stops_early=True,
        resumes=True,
        tasks=("binary", "regression", "classes"),
    )

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults with the given parameters over them; see ``Trainer.parameters``."""
        result = completed("XGBoost", given, DEFAULTS, _ALSO)
        at_least_one(result, "n_trees", "early_stopping_rounds", "checkpoint_rounds")
        return result

    def fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        params: Mapping[str, Any],
        seed: int,
        report: Report,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """Fit with early stopping on the validation rows; see ``Trainer.fit``."""
        xgboost = library("xgboost", "xgboost")
        check_learnable(train, validation)
        full = self.parameters(params)
        n_trees, rounds = full.pop("n_trees"), full.pop("early_stopping_rounds")
        every, n_threads = full.pop("checkpoint_rounds"), full.pop("num_threads")
        settings = {**full, **fixed(train.target), "nthread": n_threads, "seed": seed}
        state = _Begun(patience=Patience(rounds=rounds))
        if (kept := checkpoints.last()) is not None:
            state = _Begun.model_validate_json(kept)

        def tell(loss: float) -> None:
            done = state.patience.n_done
            if done % _REPORT_EVERY == 0:
                report(done / n_trees, f"tree {done}, loss {loss:.5f}")

        try:
            parts = (
                xgboost.DMatrix(finite(train.matrix), train.labels, weight=train.weights),
                xgboost.DMatrix(finite(validation.matrix), validation.labels),
            )
            while state.patience.n_done < n_trees and not state.patience.over:
                n = min(every, n_trees - state.patience.n_done)
                grown = _grown(state, parts, validation, settings, n, tell)
                state.model = base64.b64encode(grown).decode()
                checkpoints.keep(state.patience.n_done, lambda: state.model_dump_json().encode())
        except xgboost.core.XGBoostError as error:
            raise InvalidInput(
                f"XGBoost refused the rows or parameters: {str(error).splitlines()[0][:300]}.",
                hint="Check the parameters and the number of rows.",
            ) from None
        return _finished(state, encoding)

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The scores by XGBoost itself."""
        xgboost = library("xgboost", "xgboost")
        booster = xgboost.Booster(model_file=bytearray(fitted.data))
        return np.asarray(booster.inplace_predict(finite(matrix)), dtype=np.float64)

    def code(self, params: Mapping[str, Any] | None = None) -> CodeVersion:
        """This module."""
        return code_version(type(self))


def fixed(target: Target) -> dict[str, Any]:
    """What XGBoost is told that nobody may choose."""
    told = {**_FIXED, "objective": _OBJECTIVES[target.task]}
    return {**told, "num_class": len(target.classes)} if target.classes else told


class _Begun(BaseModel):
    """How far a fit is; its checkpoint."""

    patience: Patience
    model: str = ""
    """Base64 of the model's JSON."""


def _grown(
    state: _Begun,
    parts: tuple[Any, Any],
    watched: Rows,
    settings: Mapping[str, Any],
    n: int,
    tell: Callable[[float], None],
) -> bytes:
    """The model after up to ``n`` more trees; ``state.patience`` sees each."""
    xgboost = library("xgboost", "xgboost")
    train, validation = parts
    booster = xgboost.Booster(settings, [train, validation])
    if state.model:
        booster.load_model(bytearray(base64.b64decode(state.model)))
        booster.set_param(dict(settings))
    for _ in range(n):
        booster.update(train, state.patience.n_done)
        # Its own evaluation is told as text, and rounded.
        loss = loss_of(watched.target, watched.labels, booster.predict(validation))
        state.patience.saw(loss)
        tell(loss)
        if state.patience.over:
            break
    return bytes(booster.save_raw("json"))


def _finished(state: _Begun, encoding: Encoding) -> FittedModel:
    xgboost = library("xgboost", "xgboost")
    whole = xgboost.Booster(model_file=bytearray(base64.b64decode(state.model)))
    best = state.patience.best or state.patience.n_done
    booster = whole[:best]
    gain = booster.get_score(importance_type="total_gain")
    shares = [float(gain.get(f"f{place}", 0.0)) for place in range(len(encoding.features))]
    total = sum(shares) or 1.0
    return FittedModel(
        format=XgBoostTrainer.name,
        data=bytes(booster.save_raw("json")),
        encoding=encoding,
        facts={"best_iteration": float(best), "n_trees_tried": float(state.patience.n_done)},
        importance={
            name: share / total for name, share in zip(encoding.names, shares, strict=True)
        },
    )
