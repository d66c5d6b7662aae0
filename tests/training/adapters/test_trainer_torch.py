"""PyTorch's networks as a trainer, by both loops, and as ONNX without PyTorch."""

from importlib.util import find_spec

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.adapters.onnx_network import NetworkToOnnx
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.testing.trainers import ENCODING, TrainerSuite, examples
from falaj.training import extras, networks
from falaj.training.adapters.trainer_torch import TorchTrainer
from falaj.training.frames import NotInstalled
from falaj.training.ports import FittedModel

PARAMS = {
    "epochs": 8, "hidden": [8], "batch_rows": 128, "learning_rate": 0.02, "dropout": 0.05,
}  # fmt: skip
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="needs PyTorch: `make torch` installs it"
)
needs_lightning = pytest.mark.skipif(
    find_spec("lightning") is None, reason="needs Lightning: `make torch` installs it"
)


@needs_torch
class TestTorchTrainer(TrainerSuite):
    @pytest.fixture
    def trainer(self):
        return TorchTrainer()

    @pytest.fixture
    def params(self):
        return PARAMS


@needs_lightning
@pytest.mark.nightly
class TestLightningLoop(TrainerSuite):
    @pytest.fixture
    def trainer(self):
        return TorchTrainer()

    @pytest.fixture
    def params(self):
        return {**PARAMS, "loop": "lightning"}


def fitted(**params):
    return TorchTrainer().fit(
        examples(1), examples(2), ENCODING, params={**PARAMS, **params}, seed=3,
        report=lambda share, told: None,
    )  # fmt: skip


@needs_torch
@pytest.mark.parametrize("hidden", [[], [5], [6, 4, 3]])
def test_the_onnx_network_answers_as_pytorch_does(hidden):
    model = fitted(hidden=hidden, epochs=2)
    rows = examples(4).matrix
    rows[0], rows[1], rows[2] = np.nan, np.inf, -np.inf
    rows[3] = 3e38
    onnx = NetworkToOnnx().convert(model)
    assert onnx == NetworkToOnnx().convert(model)
    np.testing.assert_allclose(
        OnnxScorers().load(onnx).scores(rows), TorchTrainer().scores(model, rows), atol=1e-6
    )


@needs_torch
def test_a_fit_moves_nobodys_random_numbers():
    import torch

    torch.manual_seed(11)
    wanted = torch.rand(4)
    torch.manual_seed(11)
    fitted(epochs=1)
    assert torch.equal(torch.rand(4), wanted)


@needs_torch
def test_bf16_on_a_cpu_is_done_when_it_is_asked_for():
    model = fitted(precision="bf16", epochs=2)
    assert model.facts["precision"] == "bf16"
    assert model.data != fitted(epochs=2).data


@needs_torch
def test_a_gpu_that_is_not_there_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InvalidInput, match="finds none"):
        fitted(device="cuda")


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"hidden": [0]}, "'hidden'"),
        ({"hidden": ["wide"]}, "'hidden'"),
        ({"hidden": [8] * 17}, "'hidden'"),
        ({"loop": "magic"}, "'loop'"),
        ({"dropout": 1.0}, "'dropout'"),
        ({"precision": "float8"}, "'precision'"),
        ({"epochs": 0}, "at least 1"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, told):
    with pytest.raises(InvalidInput, match=told):
        TorchTrainer().parameters(params)


def test_without_pytorch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(NotInstalled) as caught:
        fitted()
    assert "falaj[torch]" in caught.value.hint


def test_bytes_that_are_no_network_are_refused():
    import io
    import pickle

    sink = io.BytesIO()
    np.savez(sink, centers=np.array([{"a": 1}], dtype=object))
    for data in (b"", b"not a network", pickle.dumps([1]), sink.getvalue()):
        with pytest.raises(Corrupt):
            networks.unpacked(data)
    with pytest.raises(InvalidInput, match="lightgbm"):
        NetworkToOnnx().convert(FittedModel("lightgbm", b"", ENCODING))
