"""A routing table, a compiler and a listening worker for the tests of serving."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_python import PythonRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.meters import Meters
from falaj.serving.routing import RoutingTable
from falaj.serving.trails import Trails
from falaj.testing.serving import MemoryBundles, Running, make_release, servable, worker
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RoutingTable]:
    opened = RoutingTable(tmp_path / "routing")
    yield opened
    opened.close()


@pytest.fixture
def bundles() -> MemoryBundles:
    return MemoryBundles({"sha256:a": servable(0), "sha256:b": servable(1)})


@pytest.fixture
def compiler(bundles: MemoryBundles) -> PlanCompiler:
    runtimes = [OnnxRuntime(device="cpu"), LightGbmRuntime(), PythonRuntime()]
    return PlanCompiler(bundles, runtimes, None)


@pytest.fixture
def running(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> Iterator[Running]:
    with worker(table, bundles, compiler, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker for all hostile requests of a module: none of them may end it."""
    folder = tmp_path_factory.mktemp("hardened")
    table = RoutingTable(folder / "routing")
    bundles = MemoryBundles({"sha256:a": servable(0), "sha256:b": servable(1)})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None)
    with worker(table, bundles, compiler, folder) as found:
        found.activate(make_release())
        yield found
    table.close()


@pytest.fixture
def tracked(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> Callable[..., AbstractContextManager[Running]]:
    """Makes a worker whose requests are tracked: called with what makes its trails."""

    def made(trails: Callable[[Meters], Trails]) -> AbstractContextManager[Running]:
        return worker(table, bundles, compiler, tmp_path, trails=trails)

    return made


@pytest.fixture
def keyring(tmp_path: Path) -> FileKeyring:
    seal = MachineSeal.create(tmp_path / "keys" / "secret")
    return FileKeyring.create(tmp_path / "keys" / "ring.json", seal, clock=SystemClock())


@pytest.fixture
def ducklake(tmp_path: Path) -> Iterator[DuckLake]:
    opened = DuckLake(Place.of("ducklake:", tmp_path / "lake"), threads=1)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def programs() -> ModuleType:
    """``serving_programs.py``, whose file is also the program."""
    spec = importlib.util.spec_from_file_location(
        "serving_programs", Path(__file__).with_name("serving_programs.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
