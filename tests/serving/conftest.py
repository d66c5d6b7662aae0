"""A routing table, a compiler and a listening worker for the tests of serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.inference import InferenceApp
from falaj.serving.meters import Meters
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.routing import RoutingTable
from falaj.serving.trails import Trails
from falaj.testing.fakes import RulePolicy
from falaj.testing.serving import (
    MemoryBundles,
    MemorySpools,
    NamedTokens,
    Running,
    fronted,
    servable,
)
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
    return PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None)


@contextmanager
def worker(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, folder: Path, **more: Any
) -> Iterator[Running]:
    """A listening worker; ``trails`` is called with its meters."""
    spools, tokens, refused = MemorySpools(), NamedTokens(), set[str]()
    meters = Meters(folder / "meters", "w0")
    log = PredictionLog(
        spools,
        capacity=2_000,
        flush_seconds=0.05,
        lost=lambda endpoint, n: meters.of(endpoint).unlogged(n),
    )
    plans = Plans(table, compiler)
    trails = more.pop("trails", lambda _meters: None)(meters)
    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table, worker="w0"),
        verifier=tokens,
        policy=RulePolicy(
            lambda caller, action, _r, _s: f"{caller.principal.id} {action}" not in refused
        ),
        log=log,
        meters=meters,
        trails=trails,
    )
    with fronted(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield Running(url, table, bundles, spools, tokens, log, plans, meters, client, refused)


@pytest.fixture
def running(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> Iterator[Running]:
    with worker(table, bundles, compiler, tmp_path) as one:
        yield one


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
