"""Fitted scikit-learn estimators to ONNX by skl2onnx, compared with the estimator itself.

It runs where the estimator is in memory: nothing is unpickled. What comes out is brought
as any other ONNX model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAMES
from falaj.training.targets import BINARY, Target

_OPSET = 15
TOLERANCE = 1e-5


class SklearnToOnnx:
    """Converts scikit-learn classifiers and regressors, pipelines as well."""

    def convert(
        self, estimator: Any, rows: npt.NDArray[np.float32], target: Target = BINARY
    ) -> bytes:
        """The ONNX model of an estimator, as ``OnnxConverter`` describes it.

        Args:
            estimator: fitted, with ``predict_proba`` of the task's classes, or ``predict``.
            rows: float32 [n, f]; on each the ONNX model must answer as the estimator does.
            target: what it predicts.

        Raises:
            InvalidInput: it predicts something else, it cannot be converted, or an answer
                differs by more than 1e-5 (of numbers: of the greatest, if that is beyond 1).
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if len(rows) == 0 or rows.ndim != 2:
            raise InvalidInput(
                "There are no rows to compare the two models on.", hint="Give real input rows."
            )
        wanted = _wanted(estimator, rows, target)
        onnx = self._converted(estimator, rows.shape[1], target)
        scale = max(1.0, float(np.max(np.abs(wanted))))
        worst = float(np.max(np.abs(_scores(onnx, rows) - wanted))) / scale
        if not worst <= TOLERANCE:
            raise InvalidInput(
                f"The ONNX model's answers differ from scikit-learn's by {worst:.2e}.",
                hint="Fit on float32 rows, or serve it as a custom Python model.",
                worst=worst,
                tolerance=TOLERANCE,
            )
        return onnx

    def _converted(self, estimator: Any, n_inputs: int, target: Target) -> bytes:
        from onnx import TensorProto, checker, helper, numpy_helper
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        try:
            model = to_onnx(
                estimator,
                initial_types=[(INPUT_NAME, FloatTensorType([None, n_inputs]))],
                options={} if target.task == "regression" else {"zipmap": False},
                target_opset=_OPSET,
            )
        except Exception as error:  # skl2onnx raises a family of its own
            raise InvalidInput(
                f"skl2onnx cannot convert {type(estimator).__name__}: {str(error)[:300]}",
                hint="Serve it as a custom Python model.",
            ) from error
        graph = model.graph
        graph.name = "falaj"
        name, wanted, width = graph.output[-1].name, OUTPUT_NAMES[target.task], len(target.outputs)
        if target.task == "binary":
            place = numpy_helper.from_array(np.array([1], dtype=np.int64), "place_of_one")
            graph.initializer.append(place)
            graph.node.append(helper.make_node("Gather", [name, "place_of_one"], [wanted], axis=1))
        elif not target.classes:  # some regressors give a vector, others a column
            shape = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "one_column")
            graph.initializer.append(shape)
            graph.node.append(helper.make_node("Reshape", [name, "one_column"], [wanted]))
        elif name != wanted:
            graph.node.append(helper.make_node("Identity", [name], [wanted]))
        del graph.output[:]
        graph.output.append(
            helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["rows", width])
        )
        checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def _wanted(
    estimator: Any, rows: npt.NDArray[np.float32], target: Target
) -> npt.NDArray[np.float64]:
    """What the estimator itself gives, [n, outputs]."""
    named, classes = type(estimator).__name__, getattr(estimator, "classes_", None)
    if target.task == "regression":
        if classes is not None or not hasattr(estimator, "predict"):
            raise InvalidInput(
                f"{named} is no fitted regressor.", hint="Fit one that predicts numbers."
            )
        found = np.asarray(estimator.predict(rows), dtype=np.float64)
        if found.ndim != 1:
            raise InvalidInput(
                f"{named} predicts {found.shape[1]} numbers a row.", hint="Fit one for each."
            )
        return found[:, None]
    n_classes = len(target.classes) or 2
    if classes is None or len(classes) != n_classes or not hasattr(estimator, "predict_proba"):
        told = f"{n_classes} classes" if target.classes else "two classes"
        raise InvalidInput(
            f"{named} is no fitted classifier of {told} with probabilities.",
            hint="Fit one; for others write a custom Python model.",
        )
    found = np.asarray(estimator.predict_proba(rows), dtype=np.float64)
    return found if target.classes else found[:, 1:]


def _scores(onnx: bytes, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT_NAME: rows})[0], dtype=np.float64)
