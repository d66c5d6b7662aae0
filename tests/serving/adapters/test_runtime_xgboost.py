from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.adapters.runtime_xgboost import XgBoostRuntime
from falaj.serving.model import ServableModel
from falaj.testing.runtimes import RuntimeSuite
from falaj.testing.smallmodels import NAMES, rows_and_labels, xgboost_booster


def servable(booster: Any = None, form: str = "ubj", **values: Any) -> ServableModel:
    data = bytes((booster or xgboost_booster()).save_raw(form))
    return ServableModel("xgboost", data, NAMES, **values)


def native(rows: np.ndarray) -> np.ndarray:
    import xgboost

    found: np.ndarray = xgboost_booster().predict(xgboost.DMatrix(rows))
    return found


class TestXgBoostRuntime(RuntimeSuite):
    """XGBoost keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> XgBoostRuntime:
        return XgBoostRuntime()

    @pytest.fixture(params=["ubj", "json"])
    def model(self, request: pytest.FixtureRequest) -> ServableModel:
        return servable(form=request.param)

    @pytest.fixture
    def native(self):  # type: ignore[no-untyped-def]
        import xgboost

        def finite(rows: np.ndarray) -> np.ndarray:
            return np.asarray(xgboost_booster().inplace_predict(rows))

        assert xgboost.Booster
        return finite


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), min_size=3, max_size=12))
def test_contributions_add_up_to_the_raw_score(values: list[float]) -> None:
    import xgboost

    rows = np.array(values[: len(values) // 3 * 3], dtype=np.float32).reshape(-1, 3)
    found = XgBoostRuntime().explainer(servable()).contributions(rows)
    assert found.shape == (len(rows), 4)
    raw = xgboost_booster().predict(xgboost.DMatrix(rows), output_margin=True)
    np.testing.assert_allclose(found.sum(axis=1), raw, atol=1e-4)


def test_dropout_trees_and_several_classes_are_served_and_linear_models_are_not() -> None:
    import xgboost

    rows, labels = rows_and_labels()
    dart = xgboost_booster(kind="dart")
    found = XgBoostRuntime().load(servable(dart)).run(rows[:20])
    np.testing.assert_allclose(found[:, 0], dart.predict(xgboost.DMatrix(rows[:20])), atol=1e-6)
    params = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
    several = xgboost.train(params, xgboost.DMatrix(rows, labels + (rows[:, 1] > 1)), 3)
    model = servable(several, outputs=("x", "y", "z"))
    scores = XgBoostRuntime().load(model).run(rows[:20])
    np.testing.assert_allclose(scores, several.predict(xgboost.DMatrix(rows[:20])), atol=1e-6)
    with pytest.raises(InvalidInput, match="several classes"):
        XgBoostRuntime().explainer(model)
    with pytest.raises(InvalidInput, match="gblinear"):
        XgBoostRuntime().load(servable(xgboost_booster(kind="gblinear")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left_children", 999_999),
        ("left_children", 0),
        ("right_children", -7),
        ("split_indices", 70_000),
    ],
)
def test_a_tree_that_would_lead_xgboost_astray_is_refused(name: str, value: int) -> None:
    document = json.loads(bytes(xgboost_booster().save_raw("json")))
    document["learner"]["gradient_booster"]["model"]["trees"][0][name][0] = value
    hostile = ServableModel("xgboost", json.dumps(document).encode(), NAMES)
    with pytest.raises(FalajError):
        XgBoostRuntime().load(hostile)
