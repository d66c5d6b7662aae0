"""Estimators of scikit-learn that skops wrote, to ONNX; by an exact list of names alone.

skops constructs only types that it is told to trust. What MLflow's file asks to be trusted is
not asked here: beside skops' own list stand only the types below, of scikit-learn
and numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.training.targets import BINARY, Target

TRUSTED = frozenset(
    {
        "numpy.dtype",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
    }
)


class SkopsToOnnx:
    """Reads and converts; fulfils ``ports.EstimatorConverter``."""

    def convert(self, data: bytes, rows: npt.NDArray[np.float32], target: Target = BINARY) -> bytes:
        """The ONNX model of the estimator; see ``ports.EstimatorConverter``."""
        try:
            import skops.io as skops
        except ModuleNotFoundError:
            raise Unavailable(
                "The model was written by skops, which is not there.",
                hint="Install it on the machine of the job worker: "
                "pip install 'skops>=0.13' scikit-learn skl2onnx.",
            ) from None
        try:
            untrusted = set(skops.get_untrusted_types(data=data)) - TRUSTED
            estimator: Any = None if untrusted else skops.loads(data, trusted=sorted(TRUSTED))
        except Exception as error:  # whatever a damaged archive leads skops to
            raise InvalidInput(
                f"skops cannot read the model: {str(error)[:300]}",
                hint="Log it again, with the versions of skops and scikit-learn that are here.",
            ) from error
        if untrusted:
            raise InvalidInput(
                f"The model holds types that are not trusted: {', '.join(sorted(untrusted))[:300]}",
                hint="Log it as ONNX: mlflow.onnx.",
            )
        return SklearnToOnnx().convert(estimator, rows, target)
