"""Fitted scikit-learn classifiers to ONNX by skl2onnx, compared with the estimator itself.

It runs where the estimator is in memory: nothing is unpickled. What comes out is brought
as any other ONNX model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAME

_OPSET = 15
TOLERANCE = 1e-5


class SklearnToOnnx:
    """Converts binary scikit-learn classifiers, pipelines as well."""

    def convert(self, estimator: Any, rows: npt.NDArray[np.float32]) -> bytes:
        """The ONNX model: float32 ``inputs`` [n, f] to ``probability`` [n, 1] of class 1.

        Args:
            estimator: fitted, with ``predict_proba`` of two classes.
            rows: float32 [n, f]; on each the ONNX model must answer as the estimator does.

        Raises:
            InvalidInput: it is no binary classifier, it cannot be converted, or a
                probability differs by more than 1e-5.
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if len(rows) == 0 or rows.ndim != 2:
            raise InvalidInput(
                "There are no rows to compare the two models on.", hint="Give real input rows."
            )
        wanted = _probabilities(estimator, rows)
        onnx = self._converted(estimator, rows.shape[1])
        worst = float(np.max(np.abs(_scores(onnx, rows) - wanted)))
        if not worst <= TOLERANCE:
            raise InvalidInput(
                f"The ONNX model's probabilities differ from scikit-learn's by {worst:.2e}.",
                hint="Fit on float32 rows, or serve it as a custom Python model.",
                worst=worst,
                tolerance=TOLERANCE,
            )
        return onnx

    def _converted(self, estimator: Any, n_inputs: int) -> bytes:
        from onnx import TensorProto, checker, helper, numpy_helper
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        try:
            model = to_onnx(
                estimator,
                initial_types=[(INPUT_NAME, FloatTensorType([None, n_inputs]))],
                options={"zipmap": False},
                target_opset=_OPSET,
            )
        except Exception as error:  # skl2onnx raises a family of its own
            raise InvalidInput(
                f"skl2onnx cannot convert {type(estimator).__name__}: {str(error)[:300]}",
                hint="Serve it as a custom Python model.",
            ) from error
        graph = model.graph
        graph.name = "falaj"
        name = graph.output[-1].name
        graph.initializer.append(
            numpy_helper.from_array(np.array([1], dtype=np.int64), "place_of_one")
        )
        graph.node.append(helper.make_node("Gather", [name, "place_of_one"], [OUTPUT_NAME], axis=1))
        del graph.output[:]
        graph.output.append(
            helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["rows", 1])
        )
        checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def _probabilities(estimator: Any, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    classes = getattr(estimator, "classes_", None)
    if classes is None or len(classes) != 2 or not hasattr(estimator, "predict_proba"):
        raise InvalidInput(
            f"{type(estimator).__name__} is no fitted classifier of two classes with "
            "probabilities.",
            hint="Fit one; for others write a custom Python model.",
        )
    return np.asarray(estimator.predict_proba(rows), dtype=np.float64)[:, 1]


def _scores(onnx: bytes, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: rows})[0], dtype=np.float64)[:, 0]
