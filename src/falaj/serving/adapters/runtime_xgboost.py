"""XGBoost's own models (JSON or UBJSON), run by XGBoost on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.model import ServableModel
from falaj.serving.widths import check_inputs, check_rows, columns_of

_PROBE_ROWS = 2
_BOOSTERS = ("gbtree", "dart")
"""Those whose ``inplace_predict`` is safe on many threads."""


class XgBoostRuntime:
    """Loads XGBoost models; one thread for each run."""

    formats: tuple[str, ...] = ("xgboost",)

    def load(self, model: ServableModel) -> XgBoostModel:
        """The model as a booster; see ``Runtime.load``."""
        return XgBoostModel(_booster(model), model)

    def explainer(self, model: ServableModel) -> XgBoostExplainer:
        """TreeSHAP as XGBoost computes it; see ``Explains.explainer``."""
        loaded = self.load(model)
        if loaded.width != 1:
            raise InvalidInput(
                "A model of several classes has no single score to explain.",
                hint="Ask without explain=contributions.",
            )
        return XgBoostExplainer(loaded)


def _booster(model: ServableModel) -> Any:
    # JSON begins with a brace; so does UBJSON, followed by its marker of a length.
    if not model.model.startswith(b"{"):
        raise _corrupt("it is neither JSON nor UBJSON")
    import json

    import xgboost

    booster = xgboost.Booster({"nthread": 1, "verbosity": 0})
    try:
        booster.load_model(bytearray(model.model))
        config = json.loads(booster.save_config())
        kind = config["learner"]["gradient_booster"]["name"]
        booster.set_param({"nthread": 1, "verbosity": 0})
    except Exception as error:  # XGBoost raises a family of its own
        raise _corrupt(str(error).split("\n", 1)[0][:200]) from error
    if kind in _BOOSTERS:
        _check_trees(json.loads(bytes(booster.save_raw("json"))), booster.num_features())
    else:
        raise InvalidInput(
            f"The model is a {kind!r} booster; {' and '.join(_BOOSTERS)} are served.",
            hint="Train trees, or convert the model to ONNX.",
        )
    return booster


def _check_trees(document: Any, n_columns: int) -> None:
    """Raise Corrupt unless every tree ends: XGBoost itself follows any number it is given."""
    learner = document["learner"]["gradient_booster"]
    for place, tree in enumerate(learner.get("gbtree", learner)["model"]["trees"]):
        left, right = tree["left_children"], tree["right_children"]
        n = len(left)
        whole = n > 0 and n == len(right) == len(tree["split_indices"])
        whole = whole and n == len(tree["split_conditions"]) == len(tree["default_left"])
        seen, ahead = set[int](), [0]
        while whole and ahead:
            node = ahead.pop()
            whole = 0 <= node < n and node not in seen
            seen.add(node)
            if whole and left[node] != -1:
                whole = 0 <= tree["split_indices"][node] < n_columns
                ahead += [left[node], right[node]]
        if not whole:
            raise _corrupt(f"tree {place} is not a tree")


class XgBoostModel:
    """One XGBoost model."""

    def __init__(self, booster: Any, model: ServableModel) -> None:
        self.booster = booster
        self.n_inputs: int = booster.num_features()
        check_inputs(model, self.n_inputs)
        probe = self._scored(np.zeros((_PROBE_ROWS, self.n_inputs), dtype=np.float32))
        self.width = int(probe.shape[1])
        self._columns = columns_of(model, self.width)

    def _scored(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        scores: NDArray[np.floating[Any]] = self.booster.inplace_predict(
            rows, validate_features=False
        )
        return scores.reshape(len(rows), -1)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs float32 [n, k]; see ``LoadedModel.run``."""
        check_rows(rows, self.n_inputs)
        if not len(rows):
            return np.empty((0, self.width), dtype=np.float32)[:, self._columns]
        return self._scored(rows)[:, self._columns]


class XgBoostExplainer:
    """TreeSHAP contributions of one XGBoost model; see ``Explainer``."""

    def __init__(self, loaded: XgBoostModel) -> None:
        self._booster = loaded.booster
        self._n_inputs = loaded.n_inputs

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Contributions to the raw score (float32 inside), the base value last."""
        check_rows(rows, self._n_inputs)
        if not len(rows):
            return np.empty((0, self._n_inputs + 1))
        import xgboost

        data = xgboost.DMatrix(rows, nthread=1)
        found = self._booster.predict(data, pred_contribs=True, validate_features=False)
        return np.asarray(found, dtype=np.float64).reshape(len(rows), -1)


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        f"The model is not one that XGBoost can load: {why}.",
        hint="Write it again with Booster.save_model, as .json or .ubj.",
    )
