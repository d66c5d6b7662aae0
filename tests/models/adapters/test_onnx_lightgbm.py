"""The packaged model answers as the native one, to 1e-5, for every float32 input."""

import lightgbm
import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx, exact
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.ports import FittedModel, Rows

N_INPUTS = 6
ENCODING = Encoding(features=tuple(EncodedFeature(name=f"x{i}") for i in range(N_INPUTS)))


def rows(seed, n, missing=0.15):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(n, N_INPUTS)).astype(np.float32)
    matrix[:, 3] = np.round(matrix[:, 3] * 2)
    matrix[:, 5] = random.integers(0, 3, n)
    logits = 1.5 * matrix[:, 0] + matrix[:, 1] - matrix[:, 3]
    labels = (logits + random.normal(size=n) > 0).astype(np.float64)
    matrix[random.random(matrix.shape) < missing] = np.nan
    return Rows(matrix, labels)


def fitted(train, **params):
    return LightGbmTrainer().fit(
        train,
        rows(2, 1500),
        ENCODING,
        params={"n_trees": 60, "min_data_in_leaf": 20, **params},
        seed=3,
        report=lambda share, message: None,
    )


@pytest.fixture(scope="module")
def model():
    return fitted(rows(1, 4000))


def worst(model, matrix):
    scores = OnnxScorers().load(LightGbmToOnnx().convert(model)).scores(matrix)
    return np.abs(scores - LightGbmTrainer().scores(model, matrix)).max()


def test_probabilities_agree_on_new_rows_with_missing_values(model):
    assert worst(model, rows(9, 5000, missing=0.3).matrix) < 1e-5


def test_probabilities_agree_on_values_beside_every_threshold(model):
    dump = lightgbm.Booster(model_str=model.data.decode()).trees_to_dataframe()
    splits = dump[dump.split_feature.notna()]
    base = rows(5, len(splits), missing=0).matrix
    for step in (-np.inf, 0.0, np.inf):
        matrix = base.copy()
        for place, (name, threshold) in enumerate(
            zip(splits.split_feature, splits.threshold, strict=True)
        ):
            near = np.float32(threshold)
            matrix[place, int(name[1:])] = np.nextafter(near, np.float32(step)) if step else near
        assert worst(model, matrix) < 1e-5


def test_a_missing_value_counts_as_zero_where_training_saw_none():
    model = fitted(rows(1, 4000, missing=0.0))
    matrix = rows(7, 3000, missing=0.5).matrix
    assert worst(model, matrix) < 1e-5
    native = LightGbmTrainer().scores(model, matrix)
    as_zero = LightGbmTrainer().scores(model, np.nan_to_num(matrix))
    np.testing.assert_allclose(native, as_zero)


def test_a_model_of_single_leaves_converts():
    model = fitted(rows(1, 400), min_data_in_leaf=399)
    assert worst(model, rows(2, 10).matrix) < 1e-5


def test_infinite_inputs_agree(model):
    matrix = rows(11, 50).matrix
    matrix[:, 0] = np.inf
    matrix[:, 1] = -np.inf
    assert worst(model, matrix) < 1e-5


def test_native_categories_are_refused():
    random = np.random.default_rng(0)
    codes = random.integers(0, 40, (2000, 1)).astype(float)
    labels = (codes[:, 0] % 3 == 0).astype(float)
    data = lightgbm.Dataset(codes, labels, categorical_feature=[0])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, data, 3)
    with pytest.raises(InvalidInput, match="categories"):
        exact(booster.model_to_string())


def test_a_foreign_format_is_refused():
    with pytest.raises(InvalidInput, match="xgboost"):
        LightGbmToOnnx().convert(FittedModel("xgboost", b"", ENCODING))


def test_bytes_that_are_no_model_and_models_of_another_shape_are_corrupt(model):
    with pytest.raises(Corrupt, match="no ONNX model"):
        OnnxScorers().load(b"not a model")
    import onnx

    other = onnx.load_model_from_string(LightGbmToOnnx().convert(model))
    other.graph.node[-1].output[0] = other.graph.output[0].name = "other"
    with pytest.raises(Corrupt, match="outputs"):
        OnnxScorers().load(other.SerializeToString())


def test_times_are_measured_for_each_row(model):
    scorer = OnnxScorers().load(LightGbmToOnnx().convert(model))
    taken = scorer.seconds_per_row(rows(3, 100).matrix)
    assert taken.shape == (100,)
    assert (taken > 0).all()


def test_the_same_model_converts_to_the_same_bytes(model):
    assert LightGbmToOnnx().convert(model) == LightGbmToOnnx().convert(model)


def test_nothing_in_the_bytes_depends_on_the_order_of_a_set(model):
    import onnx

    converted = onnx.load_model_from_string(LightGbmToOnnx().convert(model))
    domains = [opset.domain for opset in converted.opset_import]
    assert len(domains) > 1
    assert domains == sorted(domains), "the converter keeps them in a set"
