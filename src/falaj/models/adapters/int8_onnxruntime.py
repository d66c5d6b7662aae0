"""Int8 dynamic quantisation by ONNX Runtime: weights are int8, activations as they come."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from falaj.kernel.errors import InvalidInput

_DENSE = ("MatMul", "Gemm")


class Int8Quantizer:
    """Quantises the dense layers of ONNX models; see ``Quantizer``."""

    def quantized(self, onnx: bytes) -> bytes:
        """The model with int8 weights in its dense layers; see ``Quantizer.quantized``."""
        from onnx import load_model, load_model_from_string
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = load_model_from_string(onnx)
        n_layers = _n_dense(model)
        if n_layers == 0:
            kinds = sorted({node.op_type for node in model.graph.node})
            raise InvalidInput(
                f"The model has no dense layer (MatMul or Gemm with constant weights) to "
                f"quantise; it is made of {', '.join(kinds)[:200]}.",
                hint="Quantise neural networks or linear models; a tree ensemble stays as it is.",
            )
        with tempfile.TemporaryDirectory(prefix="falaj-int8-") as folder:
            out = Path(folder) / "int8.onnx"
            quantize_dynamic(
                model,
                out,
                op_types_to_quantize=list(_DENSE),
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
            made = load_model(out, load_external_data=False)
        if not any(node.op_type == "MatMulInteger" for node in made.graph.node):
            raise InvalidInput(
                f"ONNX Runtime quantised none of the {n_layers} dense layers.",
                hint="Export the model with plain MatMul or Gemm layers.",
            )
        opsets = sorted(made.opset_import, key=lambda opset: str(opset.domain))
        del made.opset_import[:]
        made.opset_import.extend(opsets)
        return bytes(made.SerializeToString(deterministic=True))


def _n_dense(model: Any) -> int:
    constants = {one.name for one in model.graph.initializer}
    return sum(
        node.op_type in _DENSE and any(name in constants for name in node.input[:2])
        for node in model.graph.node
    )
