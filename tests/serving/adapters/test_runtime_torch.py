"""PyTorch is not in the lock: `pip install torch` beside falaj, and these tests run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput
from falaj.serving.adapters.runtime_torch import TorchRuntime, clean_archive
from falaj.serving.model import ServableModel
from falaj.testing.runtimes import RuntimeSuite, Trap
from falaj.testing.smallmodels import NAMES, torch_program

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
GRAPH, SAMPLES = "archive/models/model.json", "archive/data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def program() -> bytes:
    return torch_program()


@needs_torch
class TestTorchRuntime(RuntimeSuite):
    """PyTorch keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> TorchRuntime:
        return TorchRuntime()

    @pytest.fixture
    def model(self, program: bytes) -> ServableModel:
        return ServableModel("torch", program, NAMES)

    @pytest.fixture
    def native(self, program: bytes):  # type: ignore[no-untyped-def]
        import torch

        module = torch.export.load(io.BytesIO(program)).module()
        return lambda rows: module(torch.from_numpy(rows)).detach().numpy()[:, 0]


def changed(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {one.filename: archive.read(one) for one in archive.infolist()}
    change(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for name, part in parts.items():
            out.writestr(name, part)
    return buffer.getvalue()


def archive(graph: Any = None, **parts: bytes) -> bytes:
    """An archive as torch.export writes one, without PyTorch."""
    meta = {"sizes": [{"as_int": 1}, {"as_int": 3}], "strides": [{"as_int": 3}, {"as_int": 1}],
            "storage_offset": {"as_int": 0}, "dtype": 7}  # fmt: skip
    weight = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    named = {
        "models/model.json": json.dumps(graph or {"nodes": []}).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": weight}}).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "data/weights/weight_0": bytes(12),
        "data/sample_inputs/model.pt": pickle.dumps(Trap()),
        "archive_format": b"pt2",
        **parts,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, part in named.items():
            out.writestr(f"archive/{name}", part)
    return buffer.getvalue()


def test_only_the_graph_and_plain_weights_reach_pytorch() -> None:
    data = archive(**{"data/weights/model.pt": pickle.dumps(Trap()), "extra/evil.py": b"x"})
    with zipfile.ZipFile(io.BytesIO(clean_archive(data))) as clean:
        sizes = {one.filename: one.file_size for one in clean.infolist()}
    assert sizes.pop(SAMPLES) == 0
    assert set(sizes) == {
        f"archive/{name}"
        for name in (
            "models/model.json",
            "data/weights/model_weights_config.json",
            "data/constants/model_constants_config.json",
            "data/weights/weight_0",
            "archive_format",
        )
    }


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        ({"nodes": [{"target": "torch.load"}]}, "torch.load"),
        ({"nodes": [{"target": "torch.ops.aten.add.Tensor; x"}]}, "add.Tensor; x"),
        ({"nodes": [{"target": "_operator.methodcaller"}]}, "methodcaller"),
        ({"nodes": [{"target": "#evil:run"}]}, "#evil"),
        ({"nodes": [{"target": "torch.ops.higher_order.cond"}]}, "higher_order"),
        ({"nodes": [{"target": "torch.ops.aten.from_file.default"}]}, "from_file"),
        ({"nodes": [{"target": "torch.ops.aten.save.default"}]}, "save"),
        ({"nodes": [{"target": "torch.ops.aten.empty.memory_format"}]}, "empty"),
        ({"nodes": [{"target": "torch.ops.prims.empty_strided.default"}]}, "empty_strided"),
        ({"nodes": [{"target": "torch.ops.aten._unsafe_index_put.default"}]}, "index_put"),
        ({"nodes": [{"target": "torch.ops.aten.set_.source_Tensor"}]}, "set_"),
        ({"a": [{"as_expr": {"expr_str": "__import__('os').system('id')"}}]}, "__import__"),
        ({"a": {"expr_str": "s0.__class__"}}, "__class__"),
        ({"a": {"expr_str": "exec(s0)"}}, "exec"),
        ({"a": {"expr_str": "Symbol('s0', positive=open('x'))"}}, "open"),
        ({"a": {"expr_str": "Pow(10, 10**9)"}}, "Pow"),
        ({"a": {"expr_str": "9**9**9**9"}}, "9**9"),
        ({"nodes": [{"target": "torch.ops.aten._index_put_impl_.default"}]}, "_index_put_impl_"),
        ({"nodes": [{"target": "torch.ops.aten._nested_view_from_buffer.default"}]}, "_nested"),
        ({"nodes": [{"target": "torch.ops.aten.set_data.default"}]}, "set_data"),
        ({"nodes": [{"target": "torch.ops.aten.add.__class__"}]}, "__class__"),
        ({"nodes": [{"target": "torch.ops.aten.__class__.mro"}]}, "mro"),
        ({"nodes": [{"target": "torch.ops.quantized.linear.default"}]}, "quantized.linear"),
        ({"inputs": [{"as_operator": "torch.load"}]}, "torch.load"),
        ({"inputs": [{"as_tensor": {"name": "x=__import__('os')"}}]}, "__import__"),
        ({"tensor_values": {"x\nimport os": {}}}, "import os"),
        ({"forward_arg_names": ["x):\n    import os\n    def f(y"]}, "import os"),
        ({"in_spec": '[1, {"context": "[\\"a\'b\\"]"}]'}, "a'b"),
        ({"in_spec": '[1, "x y"]'}, "x y"),
        ({"inputs": [{"as_custom_obj": {"name": "x"}}]}, "custom object"),
    ],
)
def test_a_graph_that_names_more_than_operators_is_refused(graph: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match="not served") as refused:
        clean_archive(archive(graph))
    assert why in refused.value.message


def test_operators_of_ordinary_programs_are_taken() -> None:
    names = ("linear", "_softmax", "_unsafe_view", "relu_", "_native_batch_norm_legit", "expand")
    targets = [f"torch.ops.aten.{name}.default" for name in names]
    targets += ["torch.ops.aten.__and__.Tensor", "torch.ops.prims.convert_element_type.default",
                "torch.ops.quantized_decomposed.dequantize_per_tensor.default",
                "_operator.getitem", "math.ceil"]  # fmt: skip
    assert clean_archive(archive({"nodes": [{"target": target} for target in targets]}))


def test_what_a_graph_can_do_without_is_left_out() -> None:
    text = "x'y\n"
    graph = {
        "nodes": [{"metadata": {"stack_trace": text}, "inputs": [{"as_string": "bij,bjk->bik"}]}],
        "guards_code": ["__import__('os')"],
        "in_spec": '[1, {"type": "builtins.tuple", "context": "[\\"a\\"]"}]',
    }
    with zipfile.ZipFile(io.BytesIO(clean_archive(archive(graph)))) as clean:
        kept = json.loads(clean.read(GRAPH))
    assert kept == graph | {
        "nodes": [{"metadata": {}, "inputs": [{"as_string": "bij,bjk->bik"}]}],
        "guards_code": [],
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"use_pickle": True},
        {"tensor_meta": None},
        {"path_name": "../../models/model.json"},
        {"path_name": "custom_obj_0"},
        {"path_name": "opaque_obj_0"},
        {"path_name": "weight_9"},
    ],
)
def test_a_weight_that_would_be_unpickled_or_lies_elsewhere_is_refused(entry: Any) -> None:
    name = "data/weights/model_weights_config.json"
    with zipfile.ZipFile(io.BytesIO(archive())) as whole:
        config = json.loads(whole.read(f"archive/{name}"))
    config["config"]["w"].update(entry)
    with pytest.raises(FalajError):
        clean_archive(archive(**{name: json.dumps(config).encode()}))


def test_a_weight_that_reaches_beyond_its_bytes_is_refused() -> None:
    name = "data/weights/model_weights_config.json"
    with zipfile.ZipFile(io.BytesIO(archive())) as whole:
        config = json.loads(whole.read(f"archive/{name}"))
    config["config"]["w"]["tensor_meta"]["strides"][0]["as_int"] = 10**9
    config["config"]["w"]["tensor_meta"]["sizes"][0]["as_int"] = 7
    with pytest.raises(Corrupt, match="smaller"):
        clean_archive(archive(**{name: json.dumps(config).encode()}))


@needs_torch
def test_a_program_whose_samples_are_a_trap_is_loaded_without_them(program: bytes) -> None:
    trapped = changed(program, lambda parts: parts.update({SAMPLES: pickle.dumps(Trap())}))
    loaded = TorchRuntime().load(ServableModel("torch", trapped, NAMES))
    assert loaded.run(np.zeros((3, 3), dtype=np.float32)).shape == (3, 1)


@needs_torch
def test_a_program_with_a_foreign_operator_is_refused(program: bytes) -> None:
    def call(parts: dict[str, bytes]) -> None:
        parts[GRAPH] = parts[GRAPH].replace(b"torch.ops.aten.sigmoid.default", b"torch.load")

    with pytest.raises(InvalidInput, match=r"torch\.load"):
        TorchRuntime().load(ServableModel("torch", changed(program, call), NAMES))


@needs_torch
def test_source_in_the_names_of_a_program_is_never_run(program: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    # It stands twice in the source: what is between the two becomes a text without effect.
    evil = f'input):\n    open({str(mark)!r}, \'w\')\n    return input\n    """ #'

    def rename(parts: dict[str, bytes]) -> None:
        graph = json.loads(parts[GRAPH])
        for call in graph["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["forward_arg_names"] = [evil]
        parts[GRAPH] = json.dumps(graph).encode()

    with pytest.raises(FalajError):
        TorchRuntime().load(ServableModel("torch", changed(program, rename), NAMES))
    assert not mark.exists()


@needs_torch
@pytest.mark.parametrize("name", ["aten.manual_seed.default", "aten.str.default", "aten.add.op"])
def test_what_is_no_operator_of_the_dispatcher_is_refused(program: bytes, name: str) -> None:
    def call(parts: dict[str, bytes]) -> None:
        parts[GRAPH] = parts[GRAPH].replace(b"aten.sigmoid.default", name.encode())

    with pytest.raises(InvalidInput, match="not served"):
        TorchRuntime().load(ServableModel("torch", changed(program, call), NAMES))


@needs_torch
def test_programs_of_ordinary_layers_are_served() -> None:
    import torch

    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 8)
            self.encode = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.convolve = torch.nn.Sequential(
                torch.nn.Conv1d(8, 4, 3, padding=1), torch.nn.BatchNorm1d(4), torch.nn.GELU()
            )
            self.recur = torch.nn.LSTM(4, 4, batch_first=True)
            self.last = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))

        def forward(self, rows: Any) -> Any:
            words = self.embed(torch.nan_to_num(rows).abs().long().clamp(0, 9))
            encoded = self.convolve(self.encode(words).transpose(1, 2)).transpose(1, 2)
            mixed = torch.einsum("bij,bkj->bik", encoded, encoded).softmax(-1) @ encoded
            return self.last(self.recur(mixed)[0].mean(1))

    module = Layers().eval()
    shapes = {"rows": {0: torch.export.Dim("n", min=1, max=1_000)}}
    whole = torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=shapes)
    rows = np.random.default_rng(1).uniform(0, 9, (5, 3)).astype(np.float32)
    expected = module(torch.from_numpy(rows)).detach().numpy()
    for one in (whole, whole.run_decompositions()):
        buffer = io.BytesIO()
        torch.export.save(one, buffer)
        loaded = TorchRuntime().load(ServableModel("torch", buffer.getvalue(), NAMES))
        np.testing.assert_allclose(loaded.run(rows), expected, atol=1e-5)


@needs_torch
def test_a_program_for_one_number_of_rows_is_refused() -> None:
    import torch

    fixed = torch.export.export(torch.nn.Linear(3, 1), (torch.zeros(2, 3),))
    buffer = io.BytesIO()
    torch.export.save(fixed, buffer)
    with pytest.raises(InvalidInput, match="any number of rows"):
        TorchRuntime().load(ServableModel("torch", buffer.getvalue(), NAMES))


@needs_torch
@pytest.mark.nightly
def test_a_compiled_program_answers_as_the_plain_one_does(program: bytes) -> None:
    model = ServableModel("torch", program, NAMES)
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    plain = TorchRuntime().load(model).run(rows)
    np.testing.assert_allclose(TorchRuntime(compiled=True).load(model).run(rows), plain, atol=1e-5)


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_a_program_is_refused_with_what_to_install() -> None:
    model = ServableModel("torch", archive(), NAMES)
    with pytest.raises(InvalidInput) as refused:
        TorchRuntime().load(model)
    assert "torch" in refused.value.hint
