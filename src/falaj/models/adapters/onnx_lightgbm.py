"""LightGBM to ONNX by onnxmltools, made exact for float32 inputs.

Three things differ between the native model and a plain conversion, and all are settled in
the model's text before it is converted:

- LightGBM compares with a float64 threshold, ONNX with a float32 one. Rounding to nearest
  can carry a threshold over an input value; rounding down to float32 cannot: for a float32
  ``x``, ``x <= t`` is the same as ``x <= floor32(t)``.
- Where a feature had no missing value in training, LightGBM reads a NaN as 0. Such a node
  is rewritten to send NaN to the side on which 0 lies.
- LightGBM reads a value of at most 1e-35 as 0; a threshold within that distance of 0 is
  moved to its edge, so that all of them take the side on which 0 lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAMES

if TYPE_CHECKING:
    from falaj.training.ports import FittedModel
    from falaj.training.targets import Target

_CATEGORICAL, _DEFAULT_LEFT, _MISSING_NAN = 1, 2, 8
_MISSING_BITS = 12
_OPSET = 15
_AS_ZERO = np.float32(1e-35)


class LightGbmToOnnx:
    """Converts LightGBM models; see ``OnnxConverter``."""

    def convert(self, fitted: FittedModel) -> bytes:
        """The ONNX model's bytes."""
        if fitted.format != "lightgbm":
            raise InvalidInput(
                f"A model of the format {fitted.format!r} cannot be converted by this converter.",
                hint="Give a LightGBM model.",
            )
        import lightgbm
        from onnxmltools.convert import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        booster = lightgbm.Booster(model_str=exact(fitted.data.decode()))
        n_inputs = len(fitted.encoding.features)
        converted = convert_lightgbm(
            booster,
            initial_types=[(INPUT_NAME, FloatTensorType([None, n_inputs]))],
            zipmap=False,
            target_opset=_OPSET,
        )
        return _plain(converted, fitted.target)


def exact(text: str) -> str:
    """LightGBM's model text with float32 thresholds and an explicit way for NaN.

    Raises:
        InvalidInput: a tree splits on native categories.
    """
    header, *trees = text.split("\nTree=")
    # Without the sizes, which would not fit any more, LightGBM reads tree after tree.
    header = "\n".join(line for line in header.split("\n") if not line.startswith("tree_sizes="))
    return "\nTree=".join([header, *(_exact_tree(tree) for tree in trees)])


def _exact_tree(block: str) -> str:
    lines = block.split("\n")
    at = {line.partition("=")[0]: place for place, line in enumerate(lines) if "=" in line}
    if "threshold" not in at:
        return block  # a single leaf
    thresholds = [_floor32(float(t)) for t in lines[at["threshold"]].partition("=")[2].split()]
    kinds = [int(kind) for kind in lines[at["decision_type"]].partition("=")[2].split()]
    if any(kind & _CATEGORICAL for kind in kinds):
        raise InvalidInput(
            "The model splits on LightGBM's own categories, which ONNX cannot follow exactly.",
            hint="Train without categorical_feature; words are encoded by the platform.",
        )
    explicit = [
        kind if kind & _MISSING_BITS else _MISSING_NAN | (_DEFAULT_LEFT if threshold >= 0 else 0)
        for kind, threshold in zip(kinds, thresholds, strict=True)
    ]
    lines[at["threshold"]] = "threshold=" + " ".join(repr(float(t)) for t in thresholds)
    lines[at["decision_type"]] = "decision_type=" + " ".join(map(str, explicit))
    return "\n".join(lines)


def _floor32(threshold: float) -> float:
    """The greatest float32 that is not above a float64, clear of what is read as 0."""
    if abs(threshold) <= float(_AS_ZERO):
        edge = _AS_ZERO if threshold >= 0 else np.nextafter(-_AS_ZERO, np.float32(-np.inf))
        return float(edge)
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, and steps back
        rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


def _plain(model: Any, target: Target) -> bytes:
    """The graph with one output, as ``OnnxConverter`` names and shapes it."""
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = model.graph
    graph.name = "falaj"  # the converter's name is random; the same model is the same bytes
    given = next(output.name for output in graph.output if output.name != "label")
    wanted = OUTPUT_NAMES[target.task]
    if target.task == "binary":
        place = numpy_helper.from_array(np.array([1], dtype=np.int64), "place_of_one")
        graph.initializer.append(place)
        graph.node.append(helper.make_node("Gather", [given, "place_of_one"], [wanted], axis=1))
    else:
        _renamed(graph, given, wanted)
    width = len(target.outputs)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["rows", width]))
    _prune(graph, wanted)
    # The converter keeps them in a set, whose order differs from process to process.
    opsets = sorted(model.opset_import, key=lambda opset: str(opset.domain))
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _renamed(graph: Any, given: str, wanted: str) -> None:
    """Call an output of the ensemble as it is called here."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == given:
                node.output[place] = wanted
        for place, name in enumerate(node.input):
            if name == given:
                node.input[place] = wanted


def _prune(graph: Any, output: str) -> None:
    """Leave out the nodes that the output does not need (the label's)."""
    needed = {output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
