"""XGBoost as a trainer, and its models as ONNX."""

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.adapters.onnx_xgboost import XgBoostToOnnx
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.testing.trainers import ENCODING, TrainerSuite, examples
from falaj.training import extras
from falaj.training.adapters.trainer_xgboost import XgBoostTrainer
from falaj.training.frames import NotInstalled
from falaj.training.ports import FittedModel

PARAMS = {
    "n_trees": 40, "checkpoint_rounds": 10, "max_depth": 3, "learning_rate": 0.1, "num_threads": 1,
}  # fmt: skip


class TestXgBoostTrainer(TrainerSuite):
    @pytest.fixture
    def trainer(self):
        return XgBoostTrainer()

    @pytest.fixture
    def params(self):
        return PARAMS


def fitted(**params):
    return XgBoostTrainer().fit(
        examples(1), examples(2), ENCODING, params={**PARAMS, **params}, seed=3,
        report=lambda share, told: None,
    )  # fmt: skip


def test_the_onnx_model_answers_as_xgboost_does_beside_every_threshold_and_without_values():
    model = fitted()
    scorer = OnnxScorers().load(XgBoostToOnnx().convert(model))
    import json

    trees = json.loads(model.data)["learner"]["gradient_booster"]["model"]["trees"]
    splits = [
        (tree["split_indices"][node], np.float32(tree["split_conditions"][node]))
        for tree in trees
        for node, left in enumerate(tree["left_children"])
        if left != -1
    ]
    base = examples(5, len(splits)).matrix
    for step in (-np.inf, None, np.inf):
        matrix = base.copy()
        for place, (column, threshold) in enumerate(splits):
            moved = threshold if step is None else np.nextafter(threshold, np.float32(step))
            matrix[place, column] = moved
        matrix[0] = np.nan
        matrix[1], matrix[2] = np.inf, -np.inf
        wanted = XgBoostTrainer().scores(model, matrix)
        np.testing.assert_allclose(scorer.scores(matrix), wanted, atol=1e-6)


def test_the_same_model_converts_to_the_same_bytes():
    model = fitted(n_trees=3)
    assert XgBoostToOnnx().convert(model) == XgBoostToOnnx().convert(model)


def test_what_is_no_binary_model_of_trees_is_not_converted():
    with pytest.raises(InvalidInput, match="lightgbm"):
        XgBoostToOnnx().convert(FittedModel("lightgbm", b"", ENCODING))
    with pytest.raises(Corrupt):
        XgBoostToOnnx().convert(FittedModel("xgboost", b"{}", ENCODING))
    other = fitted(n_trees=2).data.replace(b"binary:logistic", b"reg:absolute")
    with pytest.raises(InvalidInput, match="reg:absolute"):
        XgBoostToOnnx().convert(FittedModel("xgboost", other, ENCODING))


@pytest.mark.parametrize(
    ("params", "told"),
    [({"max_depth": 2.5}, "not int"), ({"n_trees": 0}, "at least 1"), ({"eta": 1.0}, "'eta'")],
)
def test_wrong_parameters_are_refused_by_name(params, told):
    with pytest.raises(InvalidInput, match=told):
        fitted(**params)


def test_without_xgboost_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(NotInstalled) as caught:
        fitted()
    assert "falaj[xgboost]" in caught.value.hint


def test_serving_can_compile_the_onnx_model():
    from falaj.serving.trees.graphs import read_graph

    graph = read_graph(XgBoostToOnnx().convert(fitted(n_trees=4)), len(ENCODING.features), 1)
    assert len(graph.trees.roots) == 4
