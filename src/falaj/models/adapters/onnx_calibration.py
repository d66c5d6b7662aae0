"""A calibration as the last nodes of an ONNX model, in float64.

Platt's method is a sigmoid of the log odds; an isotonic one is straight between its knots:
the first value, and for each piece its slope times how far the score reaches into it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.models.ports import OUTPUT_NAME
from falaj.training.calibration import LEAST, Calibration
from falaj.training.options import CalibrationMethod

_RAW = "score"


def calibrated(onnx_model: bytes, calibration: Calibration) -> bytes:
    """The model with its calibration behind it; the same inputs, the same output."""
    import onnx
    from onnx import TensorProto, checker, helper

    model = onnx.load_model_from_string(onnx_model)
    graph = model.graph
    if [output.name for output in graph.output] != [OUTPUT_NAME]:
        raise InvalidInput(
            f"The ONNX model's output is not {OUTPUT_NAME!r} alone: nothing can be put behind it.",
            hint=f"Name its one output {OUTPUT_NAME!r}, of shape (rows, 1).",
        )
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == OUTPUT_NAME:
                node.output[place] = _RAW
    nodes: list[Any] = [helper.make_node("Cast", [_RAW], ["score64"], to=TensorProto.DOUBLE)]
    platt = calibration.method is CalibrationMethod.PLATT
    nodes += _platt(graph, calibration) if platt else _isotonic(graph, calibration)
    nodes.append(helper.make_node("Cast", ["calibrated"], [OUTPUT_NAME], to=TensorProto.FLOAT))
    graph.node.extend(nodes)
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _constant(graph: Any, name: str, value: Any) -> str:
    from onnx import numpy_helper

    array = np.asarray(value, dtype=np.float64)
    graph.initializer.append(numpy_helper.from_array(array, f"calibration_{name}"))
    return f"calibration_{name}"


def _platt(graph: Any, calibration: Calibration) -> list[Any]:
    from onnx import helper

    least, most = _constant(graph, "least", LEAST), _constant(graph, "most", 1 - LEAST)
    one = _constant(graph, "one", 1.0)
    slope = _constant(graph, "slope", calibration.slope)
    offset = _constant(graph, "offset", calibration.offset)
    return [
        helper.make_node("Max", ["score64", least], ["at_least"]),  # Clip is older where
        helper.make_node("Min", ["at_least", most], ["clipped"]),  # a converter's opset is
        helper.make_node("Sub", [one, "clipped"], ["rest"]),
        helper.make_node("Log", ["clipped"], ["log_score"]),
        helper.make_node("Log", ["rest"], ["log_rest"]),
        helper.make_node("Sub", ["log_score", "log_rest"], ["score_log_odds"]),
        helper.make_node("Mul", ["score_log_odds", slope], ["sloped"]),
        helper.make_node("Add", ["sloped", offset], ["moved"]),
        helper.make_node("Sigmoid", ["moved"], ["calibrated"]),
    ]


def _isotonic(graph: Any, calibration: Calibration) -> list[Any]:
    from onnx import helper

    x, y = np.asarray(calibration.scores), np.asarray(calibration.probabilities)
    starts = x[:-1] if x.size > 1 else x
    widths = np.diff(x) if x.size > 1 else np.ones(1)
    slopes = np.diff(y) / widths if x.size > 1 else np.zeros(1)
    first = _constant(graph, "first", y[0])
    start = _constant(graph, "starts", starts.reshape(1, -1))
    width = _constant(graph, "widths", widths.reshape(1, -1))
    slope = _constant(graph, "slopes", slopes.reshape(-1, 1))
    none = _constant(graph, "none", 0.0)
    return [
        helper.make_node("Sub", ["score64", start], ["beyond"]),
        helper.make_node("Max", ["beyond", none], ["risen"]),
        helper.make_node("Min", ["risen", width], ["reached"]),
        helper.make_node("MatMul", ["reached", slope], ["climbed"]),
        helper.make_node("Add", ["climbed", first], ["calibrated"]),
    ]
