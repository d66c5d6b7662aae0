from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.model import ServableModel
from falaj.testing.runtimes import RuntimeSuite
from falaj.testing.smallmodels import NAMES, lightgbm_booster, rows_and_labels

TEXT = lightgbm_booster().model_to_string()


def servable(text: str = TEXT, **values: object) -> ServableModel:
    return ServableModel("lightgbm", text.encode(), NAMES, **values)  # type: ignore[arg-type]


class TestLightGbmRuntime(RuntimeSuite):
    """LightGBM keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> LightGbmRuntime:
        return LightGbmRuntime()

    @pytest.fixture
    def model(self) -> ServableModel:
        return servable()

    @pytest.fixture
    def native(self):  # type: ignore[no-untyped-def]
        return lightgbm_booster().predict


def test_a_model_of_several_classes_gives_a_probability_of_each() -> None:
    import lightgbm

    rows, labels = rows_and_labels()
    labels = labels + (rows[:, 1] > 0.5)
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(rows, labels), 5)
    model = servable(booster.model_to_string(), outputs=("x", "y", "z"))
    found = LightGbmRuntime().load(model).run(rows[:30])
    np.testing.assert_allclose(found, booster.predict(rows[:30]), atol=1e-9)
    with pytest.raises(InvalidInput, match="several classes"):
        LightGbmRuntime().explainer(model)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=3, max_size=12))
def test_contributions_add_up_to_the_raw_score(values: list[float]) -> None:
    rows = np.array(values[: len(values) // 3 * 3], dtype=np.float32).reshape(-1, 3)
    found = LightGbmRuntime().explainer(servable()).contributions(rows)
    assert found.shape == (len(rows), 4)
    raw = lightgbm_booster().predict(rows, raw_score=True)
    np.testing.assert_allclose(found.sum(axis=1), raw, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left_child=1 ", "left_child=999999 "),
        ("left_child=1 ", "left_child=0 "),
        ("left_child=1 ", "left_child=0_1 "),
        ("left_child=1 ", "left_child=\u0661 "),
        ("left_child=1 ", "left_child=+1 "),
        ("internal_count=", "internal_count=1\rleft_child=0 0 0 0 0 0\rx="),
        ("split_feature=", "split_feature=77 "),
        ("max_feature_idx=2", "max_feature_idx=-5"),
        ("max_feature_idx=2", "max_feature_idx=999999999"),
        ("num_leaves=7", "num_leaves=1000000000"),
        ("num_leaves=7", "num_leaves=7\nnum_leaves=900"),
        ("decision_type=2", "decision_type=1"),
        ("threshold=", "threshold=x"),
        ("Tree=1\n", "Tree=1\n\n"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=7"),
        ("is_linear=0", "is_linear=1"),
        ("end of trees", "end of"),
    ],
)
def test_a_text_that_would_lead_lightgbm_astray_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    changed = TEXT.replace(old, new, 1)
    header, _, rest = changed.partition("\n\n")
    lines = [line for line in header.split("\n") if not line.startswith("tree_sizes=")]
    without_sizes = "\n".join(lines) + "\n\n" + rest
    for text in (changed, without_sizes) if "\n\n" not in new else (changed,):
        with pytest.raises(FalajError):
            LightGbmRuntime().load(servable(text))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(1, 400))
def test_a_text_with_a_hole_is_refused_or_still_scores(at: int, n: int) -> None:
    body = TEXT[: TEXT.index("end of trees")]
    if at + n >= len(body):
        return
    try:
        model = LightGbmRuntime().load(servable(TEXT[:at] + TEXT[at + n :]))
    except FalajError:
        return
    assert model.run(rows_and_labels()[0]).shape == (500, 1)


def test_bytes_that_are_not_text_are_no_model() -> None:
    with pytest.raises(Corrupt, match="not text"):
        LightGbmRuntime().load(ServableModel("lightgbm", b"\xff\xfe", NAMES))
