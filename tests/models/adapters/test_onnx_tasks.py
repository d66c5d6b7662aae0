"""Models of numbers and of several classes: the packaged one answers as the native one.

For every float32 input, also missing and infinite ones, and as serving runs it: by ONNX
Runtime, and by compiled trees where they can be compiled.
"""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.onnx_lightgbm import LightGbmToOnnx
from falaj.models.adapters.onnx_network import NetworkToOnnx
from falaj.models.adapters.onnx_xgboost import XgBoostToOnnx
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_trees import TreeRuntime
from falaj.serving.model import ServableModel
from falaj.serving.scorers import RuntimeScorers
from falaj.testing.trainers import ENCODING, NUMBER, WORDS, examples_of
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.adapters.trainer_torch import TorchTrainer
from falaj.training.adapters.trainer_xgboost import XgBoostTrainer

KINDS = {
    "lightgbm": (LightGbmTrainer(), LightGbmToOnnx(), {"n_trees": 40, "min_data_in_leaf": 20}),
    "xgboost": (XgBoostTrainer(), XgBoostToOnnx(), {"n_trees": 40}),
    "torch": (TorchTrainer(), NetworkToOnnx(), {"epochs": 4, "hidden": [8]}),
}
TREES = [kind for kind in KINDS if kind != "torch"]
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="needs PyTorch: `make torch` installs it"
)
EVERY = [*TREES, pytest.param("torch", marks=needs_torch)]


def fitted(kind, target, **params):
    trainer, _, usual = KINDS[kind]
    made = trainer.fit(
        examples_of(target, 1), examples_of(target, 2), ENCODING, params={**usual, **params},
        seed=3, report=lambda share, told: None,
    )  # fmt: skip
    return replace(made, target=target)


def hostile(seed=9):
    matrix = examples_of(NUMBER, seed, 2_000).matrix
    random = np.random.default_rng(seed)
    matrix[random.random(matrix.shape) < 0.3] = np.nan
    matrix[:50, 0] = np.inf
    matrix[50:100, 1] = -np.inf
    matrix[100:150] = 0.0
    return matrix


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("target", [NUMBER, WORDS], ids=lambda one: one.task)
def test_the_packaged_model_answers_as_the_native_one(kind, target):
    trainer, converter, _ = KINDS[kind]
    model, matrix = fitted(kind, target), hostile()
    native = trainer.scores(model, matrix)
    onnx = converter.convert(model)
    scale = max(1.0, np.abs(native).max())
    for scorers in (OnnxScorers(), RuntimeScorers([OnnxRuntime(device="cpu")])):
        scorer = scorers.of("onnx", onnx, ENCODING.names, target.outputs)
        found = scorer.scores(matrix)
        assert found.shape == native.shape
        assert np.abs(found - native).max() / scale < 1e-5


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("target", [NUMBER, WORDS], ids=lambda one: one.task)
def test_compiled_trees_answer_as_onnx_runtime_to_the_bit(kind, target):
    onnx, matrix = KINDS[kind][1].convert(fitted(kind, target)), hostile()
    servable = ServableModel("onnx", onnx, ENCODING.names, target.outputs)
    plain, compiled = OnnxRuntime(device="cpu"), TreeRuntime(OnnxRuntime(device="cpu"))
    loaded = compiled.load(servable)
    assert loaded.compile()
    np.testing.assert_array_equal(loaded.run(matrix), plain.load(servable).run(matrix))


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("target", [NUMBER, WORDS], ids=lambda one: one.task)
def test_the_same_model_becomes_the_same_bytes(kind, target):
    converter = KINDS[kind][1]
    model = fitted(kind, target)
    assert converter.convert(model) == converter.convert(model)


@pytest.mark.parametrize("kind", EVERY)
def test_a_model_of_numbers_is_no_model_of_classes(kind):
    model = fitted(kind, NUMBER)
    with pytest.raises(InvalidInput):
        RuntimeScorers([OnnxRuntime(device="cpu")]).of(
            "onnx", KINDS[kind][1].convert(model), ENCODING.names, WORDS.outputs
        )


def test_an_objective_of_another_task_is_refused():
    model = replace(fitted("xgboost", NUMBER), target=WORDS)
    with pytest.raises(InvalidInput, match="does not predict the task 'classes'"):
        XgBoostToOnnx().convert(model)
