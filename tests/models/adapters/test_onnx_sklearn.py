from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.models.files import check_bytes
from falaj.models.model import ModelFormat
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.model import ServableModel

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(600, 3)).astype(np.float32)
LABELS = (ROWS.sum(axis=1) + RANDOM.normal(size=600) > 0).astype(int)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(n_estimators=10, max_depth=5, random_state=0),
        HistGradientBoostingClassifier(max_iter=10, random_state=0),
        MLPClassifier((8,), max_iter=30, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_converted_classifier_answers_as_the_estimator_does(estimator: Any) -> None:
    estimator.fit(ROWS, LABELS)
    onnx = SklearnToOnnx().convert(estimator, ROWS)
    check_bytes(onnx, ModelFormat.ONNX)
    loaded = OnnxRuntime().load(ServableModel("onnx", onnx, ("a", "b", "c")))
    fresh = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    wanted = estimator.predict_proba(fresh)[:, 1]
    np.testing.assert_allclose(loaded.run(fresh)[:, 0], wanted, atol=1e-5)


def test_missing_values_are_kept_where_the_estimator_bears_them() -> None:
    rows = ROWS.copy()
    rows[::5, 0] = np.nan
    estimator = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(rows, LABELS)
    onnx = SklearnToOnnx().convert(estimator, rows)
    loaded = OnnxRuntime().load(ServableModel("onnx", onnx, ("a", "b", "c")))
    np.testing.assert_allclose(
        loaded.run(rows)[:, 0], estimator.predict_proba(rows)[:, 1], atol=1e-5
    )


def test_what_is_no_binary_classifier_or_cannot_be_converted_is_refused() -> None:
    own = make_pipeline(FunctionTransformer(np.sin), LogisticRegression()).fit(ROWS, LABELS)
    several = LogisticRegression().fit(ROWS, LABELS + (ROWS[:, 0] > 1))
    for estimator in (
        own, several, LogisticRegression(), LinearRegression().fit(ROWS, LABELS),
        LocalOutlierFactor(novelty=True).fit(ROWS),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            SklearnToOnnx().convert(estimator, ROWS)
    with pytest.raises(InvalidInput, match="no rows"):
        SklearnToOnnx().convert(LogisticRegression().fit(ROWS, LABELS), ROWS[:0])


def test_a_model_that_comes_out_otherwise_is_refused() -> None:
    class Shifted(LogisticRegression):
        def predict_proba(self, rows: Any) -> Any:
            found = super().predict_proba(rows)
            return np.clip(np.add(found, [[-0.01, 0.01]]), 0, 1)

    with pytest.raises(InvalidInput):
        SklearnToOnnx().convert(Shifted().fit(ROWS, LABELS), ROWS)
