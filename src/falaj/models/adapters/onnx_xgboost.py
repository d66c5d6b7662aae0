"""XGBoost's trees to ONNX, node by node.

Both compare float32 values with float32 thresholds (``x < t``), so nothing is rounded. A
missing value goes the way that the tree says. Leaves are added to the base score (of
``binary:logistic`` to its log odds, and the sum goes through a sigmoid; of ``multi:softprob`` for
each class, and the sums through a softmax). An ensemble and a choice of its columns: what
serving can compile (ADR 0029).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAMES

if TYPE_CHECKING:
    from falaj.training.ports import FittedModel
    from falaj.training.targets import Target

_OPSET, _TREES_OPSET, _IR = 15, 3, 8
_LEAF = -1
_OBJECTIVES = {
    "binary": "binary:logistic",
    "regression": "reg:squarederror",
    "classes": "multi:softprob",
}
_NODES = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values",
    "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true",
)  # fmt: skip
_LEAVES = ("class_treeids", "class_nodeids", "class_ids", "class_weights")


class XgBoostToOnnx:
    """Converts XGBoost models of trees; see ``OnnxConverter``."""

    def convert(self, fitted: FittedModel) -> bytes:
        """The ONNX model's bytes."""
        if fitted.format != "xgboost":
            raise InvalidInput(
                f"A model of the format {fitted.format!r} cannot be converted by this converter.",
                hint="Give an XGBoost model.",
            )
        try:
            learner = json.loads(fitted.data)["learner"]
            objective = learner["objective"]["name"]
            booster = learner["gradient_booster"]["model"]
            told = learner["learner_model_param"]["base_score"].strip("[]").split(",")
            bases = [float(one) for one in told]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                "The bytes are no XGBoost model in JSON.", hint="Train it again."
            ) from error
        task = fitted.target.task
        if objective != _OBJECTIVES[task]:
            raise InvalidInput(
                f"A model of the objective {objective!r} does not predict the task {task!r}.",
                hint=f"Train it with {_OBJECTIVES[task]}.",
            )
        if task == "binary":
            bases = [math.log(base) - math.log1p(-base) for base in bases]
        return _model(booster["trees"], booster["tree_info"], bases, fitted.target)


def _model(
    trees: list[dict[str, Any]], classes: list[int], bases: list[float], target: Target
) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    attributes: dict[str, Any] = {name: [] for name in (*_NODES, *_LEAVES)}
    for place, (tree, one) in enumerate(zip(trees, classes, strict=True)):
        _add(attributes, place, tree, one)
    width, wanted = len(target.outputs), OUTPUT_NAMES[target.task]
    if target.classes and len(bases) == 1:
        bases = bases * width
    initial, nodes = [], []
    if target.task == "regression":
        told = {f"target_{name.removeprefix('class_')}": attributes.pop(name) for name in _LEAVES}
        ensemble = helper.make_node(
            "TreeEnsembleRegressor", [INPUT_NAME], [wanted], domain="ai.onnx.ml",
            n_targets=1, post_transform="NONE", base_values=bases, **attributes, **told,
        )  # fmt: skip
    else:
        places = list(range(width)) if target.classes else [0, 1]
        ensemble = helper.make_node(
            "TreeEnsembleClassifier", [INPUT_NAME],
            ["label", wanted if target.classes else "probabilities"], domain="ai.onnx.ml",
            classlabels_int64s=places, base_values=bases,
            post_transform="SOFTMAX" if target.classes else "LOGISTIC", **attributes,
        )  # fmt: skip
        if not target.classes:
            chosen = ["probabilities", "place_of_one"]
            nodes = [helper.make_node("Gather", chosen, [wanted], axis=1)]
            initial = [numpy_helper.from_array(np.array([1], dtype=np.int64), "place_of_one")]
    graph = helper.make_graph(
        [ensemble, *nodes],
        "falaj",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["rows", None])],
        [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["rows", width])],
        initial,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _TREES_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="falaj")
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _add(attributes: dict[str, Any], place: int, tree: dict[str, Any], of: int) -> None:
    """Add a tree whose leaves count for one class."""
    if tree.get("categories_nodes"):
        raise InvalidInput(
            "The model splits on XGBoost's own categories.",
            hint="Train without them; words are encoded by the platform.",
        )
    for node, left in enumerate(tree["left_children"]):
        is_leaf = left == _LEAF
        attributes["nodes_treeids"].append(place)
        attributes["nodes_nodeids"].append(node)
        attributes["nodes_featureids"].append(0 if is_leaf else tree["split_indices"][node])
        attributes["nodes_modes"].append("LEAF" if is_leaf else "BRANCH_LT")
        attributes["nodes_values"].append(0.0 if is_leaf else float(tree["split_conditions"][node]))
        attributes["nodes_truenodeids"].append(0 if is_leaf else left)
        attributes["nodes_falsenodeids"].append(0 if is_leaf else tree["right_children"][node])
        attributes["nodes_missing_value_tracks_true"].append(
            0 if is_leaf else int(tree["default_left"][node])
        )
        if is_leaf:
            attributes["class_treeids"].append(place)
            attributes["class_nodeids"].append(node)
            attributes["class_ids"].append(of)
            attributes["class_weights"].append(float(tree["split_conditions"][node]))
