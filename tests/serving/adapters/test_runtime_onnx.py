from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.adapters.runtime_onnx import (
    BoundModel,
    OnnxRuntime,
    bound_device,
    chosen_providers,
)
from falaj.serving.model import ServableModel
from falaj.testing.runtimes import RuntimeSuite
from falaj.testing.serving import servable

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"


class BoundOnCpu:
    """ONNX Runtime with bound inputs and outputs, on the device that every machine has."""

    formats = ("onnx",)

    def load(self, model: ServableModel) -> BoundModel:
        OnnxRuntime(device="cpu").load(model)  # refuses what is none
        session = onnxruntime.InferenceSession(model.model, providers=[CPU])
        return BoundModel(session, model, "cpu")


class TestOnnxRuntime(RuntimeSuite):
    """ONNX Runtime keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> OnnxRuntime:
        return OnnxRuntime(device="cpu")

    @pytest.fixture
    def model(self) -> ServableModel:
        return servable(0)


class TestBoundOnnxRuntime(TestOnnxRuntime):
    """So does it when inputs and outputs are bound, as they are on a GPU."""

    @pytest.fixture
    def runtime(self) -> BoundOnCpu:  # type: ignore[override]
        return BoundOnCpu()

    @pytest.fixture
    def native(self):  # type: ignore[no-untyped-def]
        plain = OnnxRuntime(device="cpu").load(servable(0))
        return lambda rows: plain.run(rows)[:, 0]


@pytest.mark.gpu
class TestOnnxRuntimeOnGpu(RuntimeSuite):
    """The same on a GPU; run it with `pytest -m gpu` on a machine that has one."""

    @pytest.fixture
    def runtime(self) -> OnnxRuntime:
        if not {CUDA, TENSORRT} & set(onnxruntime.get_available_providers()):
            pytest.skip("this ONNX Runtime has no provider for a GPU")
        return OnnxRuntime(device="gpu")

    @pytest.fixture
    def model(self) -> ServableModel:
        return ServableModel("onnx", two_layers(), ("a", "b", "c"))

    @pytest.fixture
    def native(self, runtime: OnnxRuntime, model: ServableModel):  # type: ignore[no-untyped-def]
        assert isinstance(runtime.load(model), BoundModel)
        return lambda rows: OnnxRuntime(device="cpu").load(model).run(rows)[:, 0]


@pytest.mark.parametrize(
    ("available", "device", "wanted", "bound"),
    [
        ([CPU], "auto", [CPU], None),
        ([TENSORRT, CUDA, CPU], "auto", [TENSORRT, CUDA, CPU], "cuda"),
        ([CPU, OPENVINO, CUDA], "auto", [CUDA, OPENVINO, CPU], "cuda"),
        ([OPENVINO, CPU], "auto", [OPENVINO, CPU], None),
        ([TENSORRT, CUDA, CPU], "cpu", [CPU], None),
        ([CUDA, CPU], "gpu", [CUDA, CPU], "cuda"),
        (["AzureExecutionProvider"], "auto", [CPU], None),
    ],
)
def test_the_best_provider_is_chosen_and_bound_if_it_has_memory_of_its_own(
    available: list[str], device: str, wanted: list[str], bound: str | None
) -> None:
    assert chosen_providers(available, device) == wanted
    assert bound_device(wanted) == bound


def test_a_gpu_that_is_asked_for_and_not_there_is_told_when_a_model_is_loaded() -> None:
    if {CUDA, TENSORRT} & set(onnxruntime.get_available_providers()):
        pytest.skip("this machine has one")
    with pytest.raises(InvalidInput, match="GPU"):
        OnnxRuntime(device="gpu").load(servable(0))


def two_layers(*, operator: str = "MatMul", domain: str = "", outside: str = "") -> bytes:
    """A small ONNX classifier of three inputs; with weights outside, or a foreign operator."""
    weights = numpy_helper.from_array(np.array([[0.4], [-0.3], [0.2]], np.float32), "w")
    if outside:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", outside), ("offset", "0"), ("length", "12")):
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
    nodes = [
        helper.make_node("IsNaN", ["x"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "x"], ["known"]),
        helper.make_node(operator, ["known", "w"], ["z"], domain=domain),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [weights, numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )
    opsets = [helper.make_opsetid("", 15)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    made: Any = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("place", ["w.bin", "../w.bin", "/etc/hostname", "/proc/self/environ"])
def test_weights_that_lie_outside_of_the_model_are_never_read(
    place: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    for folder in (tmp_path, tmp_path / "inside"):
        (folder / "w.bin").write_bytes(np.ones(3, np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(Corrupt, match=r"[Ee]xternal"):
        OnnxRuntime().load(ServableModel("onnx", two_layers(outside=place), ("a", "b", "c")))


def test_an_operator_of_a_foreign_domain_is_refused() -> None:
    data = two_layers(operator="Run", domain="com.example.shell")
    with pytest.raises(Corrupt, match="not a registered"):
        OnnxRuntime().load(ServableModel("onnx", data, ("a", "b", "c")))
    assert onnx.load_model_from_string(data).graph.node[2].op_type == "Run"
