"""XGBoost's trees to ONNX, node by node.

Both compare float32 values with float32 thresholds (``x < t``), so nothing is rounded. A
missing value goes the way that the tree says. Leaves are added to the log odds of the base
score, and the sum goes through a sigmoid, as XGBoost's ``binary:logistic`` does. An
ensemble and a choice of its columns: what serving can compile (ADR 0029).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from falaj.training.ports import FittedModel

_OPSET, _TREES_OPSET, _IR = 15, 3, 8
_LEAF = -1


class XgBoostToOnnx:
    """Converts binary XGBoost models of trees; see ``OnnxConverter``."""

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
            trees = learner["gradient_booster"]["model"]["trees"]
            base = float(learner["learner_model_param"]["base_score"].strip("[]"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                "The bytes are no XGBoost model in JSON.", hint="Train it again."
            ) from error
        if objective != "binary:logistic":
            raise InvalidInput(
                f"A model of the objective {objective!r} gives no probability of one label.",
                hint="Train it with binary:logistic.",
            )
        return _model(trees, math.log(base) - math.log1p(-base))


def _model(trees: list[dict[str, Any]], base: float) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    attributes: dict[str, Any] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values",
            "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true",
            "class_treeids", "class_nodeids", "class_ids", "class_weights",
        )
    }  # fmt: skip
    for place, tree in enumerate(trees):
        _add(attributes, place, tree)
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        [INPUT_NAME],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
        base_values=[base],
        **attributes,
    )
    graph = helper.make_graph(
        [
            ensemble,
            helper.make_node("Gather", ["probabilities", "place_of_one"], [OUTPUT_NAME], axis=1),
        ],
        "falaj",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["rows", None])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "place_of_one")],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _TREES_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="falaj")
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _add(attributes: dict[str, Any], place: int, tree: dict[str, Any]) -> None:
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
            attributes["class_ids"].append(0)
            attributes["class_weights"].append(float(tree["split_conditions"][node]))
