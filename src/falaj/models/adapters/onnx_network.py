"""Dense networks (``training.networks``) to ONNX, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAMES
from falaj.training.networks import FORMAT, WIDEST, Network, unpacked

if TYPE_CHECKING:
    from falaj.training.ports import FittedModel
    from falaj.training.targets import Target

_OPSET, _IR = 15, 8


class NetworkToOnnx:
    """Converts dense networks; see ``OnnxConverter``."""

    def convert(self, fitted: FittedModel) -> bytes:
        """The ONNX model's bytes."""
        if fitted.format != FORMAT:
            raise InvalidInput(
                f"A model of the format {fitted.format!r} cannot be converted by this converter.",
                hint="Give a dense network.",
            )
        return _model(unpacked(fitted.data), fitted.target)


def _model(network: Network, target: Target) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    initializers: list[Any] = []

    def constant(name: str, value: Any) -> str:
        array = np.asarray(value, dtype=np.float32)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    centers, scales = constant("centers", network.centers), constant("scales", network.scales)
    narrow, wide = constant("narrow", -WIDEST), constant("wide", WIDEST)
    node = helper.make_node
    nodes = [
        node("IsNaN", [INPUT_NAME], ["missing"]),
        node("Where", ["missing", centers, INPUT_NAME], ["known"]),
        node("Sub", ["known", centers], ["centered"]),
        node("Div", ["centered", scales], ["scaled"]),
        node("Clip", ["scaled", narrow, wide], ["standard"]),
        node("Cast", ["missing"], ["marks"], to=TensorProto.FLOAT),
        node("Concat", ["standard", "marks"], ["layer_0"], axis=1),
    ]
    last = len(network.layers) - 1
    for place, (weights, offsets) in enumerate(network.layers):
        names = [constant(f"weights_{place}", weights), constant(f"offsets_{place}", offsets)]
        told = "outputs" if place == last else f"sum_{place}"
        nodes.append(node("Gemm", [f"layer_{place}", *names], [told], transB=1))
        if place != last:
            nodes.append(node("Relu", [told], [f"layer_{place + 1}"]))
    wanted = OUTPUT_NAMES[target.task]
    if target.classes:
        nodes.append(node("Softmax", ["outputs"], [wanted], axis=1))
    else:
        kind = "Sigmoid" if target.task == "binary" else "Identity"
        nodes.append(node(kind, ["outputs"], [wanted]))
    graph = helper.make_graph(
        nodes,
        "falaj",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["rows", None])],
        [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["rows", len(target.outputs)])],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="falaj",
    )
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
