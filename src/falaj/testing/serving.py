"""Real small models and fakes of serving's ports, for tests of serving and of its adapters."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from falaj.kernel.call import Caller
from falaj.kernel.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from falaj.serving.front import Application
from falaj.serving.inference import InferenceApp
from falaj.serving.meters import Meters
from falaj.serving.model import FieldType, Release, RequestField, ServableModel, Variant
from falaj.serving.planes import Companion
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.routing import RoutingTable
from falaj.serving.running import run
from falaj.serving.trails import Trails
from falaj.testing.calls import make_caller
from falaj.testing.fakes import RulePolicy
from falaj.trust.bindings import NOTHING, Presented

if TYPE_CHECKING:
    from falaj.serving.compiler import PlanCompiler

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@contextmanager
def fronted(application: Application, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address at which an application is served, on a thread, until the block ends.

    Args:
        application: what answers.
        context: of TLS.
    """
    bound = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    stops: list[Callable[[], None]] = []

    def serve() -> None:
        run(application, [bound], context=context, ready=ready.set, begun=stops.append)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    if not ready.wait(20):
        raise AssertionError("the front did not start")
    try:
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        stops[0]()
        thread.join(10)


@functools.cache
def onnx_classifier(n_features: int = 3, seed: int = 0, n_trees: int = 5) -> bytes:
    """A small LightGBM classifier as ONNX."""
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(seed)
    rows = random.normal(size=(400, n_features)).astype(np.float32)
    labels = (rows.sum(axis=1) + random.normal(size=400) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=n_trees, num_leaves=7, verbose=-1, n_jobs=1)
    model.fit(rows, labels)
    converted = convert_lightgbm(
        model,
        initial_types=[("input", FloatTensorType([None, n_features]))],
        zipmap=False,
        target_opset=15,
    )
    return bytes(converted.SerializeToString())


def servable(seed: int = 0, names: Sequence[str] = ("a", "b", "c"), **values: Any) -> ServableModel:
    """A servable model of that seed, with those inputs."""
    return ServableModel("onnx", onnx_classifier(len(names), seed), tuple(names), **values)


class CountingModel:
    """A model that generates: it counts from 1 to a row's first number, a part each.

    Its output is the sum of the row. ``gate`` holds every part up until it is set;
    ``closed`` counts the answers that were closed before they were whole.
    """

    n_inputs = 3

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.made = 0
        self.closed = 0

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sum of each row."""
        return np.asarray(rows.sum(axis=1, keepdims=True), dtype=np.float32)

    def generate(self, row: NDArray[np.float32]) -> Iterator[str]:
        """``"1"``, ``"2"``, …; raises ValueError on a negative number."""
        if row[0] < 0:
            raise ValueError("cannot count down")
        try:
            for number in range(1, int(row[0]) + 1):
                self.gate.wait(10)
                self.made += 1
                yield str(number)
        except GeneratorExit:
            self.closed += 1
            raise


class CountingRuntime:
    """Loads one ``CountingModel`` for every bundle of the format ``counting``."""

    formats = ("counting",)

    def __init__(self) -> None:
        self.model = CountingModel()

    def load(self, model: ServableModel) -> CountingModel:
        """The one model."""
        return self.model


class MemoryBundles:
    """Bundles by digest; an exception in the place of one is raised when it is opened."""

    def __init__(self, models: Mapping[str, ServableModel | Exception]) -> None:
        self.models = dict(models)
        self.opened: list[str] = []

    def open(self, digest: str) -> ServableModel:
        """The model; raises NotFound."""
        self.opened.append(digest)
        found = self.models.get(digest)
        if found is None:
            raise NotFound(f"There is no bundle {digest}.")
        if isinstance(found, Exception):
            raise found
        return found


class MemorySpools:
    """Spools that keep what is flushed; ``broken`` makes the disk fail."""

    def __init__(self) -> None:
        self.tables: dict[str, list[pa.Table]] = {}
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()

    def open(self, table: str) -> _MemorySpool:
        """A spool for a table."""
        return _MemorySpool(self, table)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All flushed rows of a table."""
        return [row for part in self.tables.get(table, []) for row in part.to_pylist()]


@dataclass
class _MemorySpool:
    spools: MemorySpools
    table: str
    pending: list[pa.Table] = field(default_factory=list)

    def append(self, rows: pa.Table) -> None:
        """Keep until the flush."""
        self.pending.append(rows)

    def flush(self) -> None:
        """Make the rows visible, once the gate is open; raises Unavailable if broken."""
        self.spools.gate.wait(10)
        if self.spools.broken:
            self.pending.clear()
            raise Unavailable("The disk fails.")
        self.spools.tables.setdefault(self.table, []).extend(self.pending)
        self.pending.clear()


class NamedTokens:
    """Tokens that are the principal's id; ``revoked`` ones are refused.

    Those in ``bound`` need the client certificate of that thumbprint.
    """

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.bound: dict[str, str] = {}
        self.asked = 0

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller:
        """The principal that the token names; raises Unauthenticated."""
        self.asked += 1
        if self.bound.get(token, presented.certificate) != presented.certificate:
            raise Unauthenticated("The token needs its certificate.", hint="Show it.")
        if token in self.revoked or not token.startswith(("user:", "service:")):
            raise Unauthenticated("The token is not valid.", hint="Log in again.")
        return make_caller(token)


def make_release(
    release_id: str = "release_1", *, bundle: str = "sha256:a", **values: Any
) -> Release:
    """A release of the endpoint ``delays`` with the fields a, b and c."""
    given: dict[str, Any] = {
        "id": release_id,
        "endpoint": "delays",
        "variants": (Variant(model="delay", version=1, bundle=bundle),),
        "fields": tuple(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
        "attributes": {"owner": "user:amina"},
        "created_at": NOW,
        "created_by": "user:amina",
    }
    return Release(**{**given, **values})


@dataclass
class Running:
    """One inference worker that listens."""

    url: str
    table: RoutingTable
    bundles: MemoryBundles
    spools: MemorySpools
    tokens: NamedTokens
    log: PredictionLog
    plans: Plans
    meters: Meters
    client: httpx.Client
    refused: set[str]
    """``principal action``, or ``principal action attribute=value``: the policy says no."""

    def activate(self, release: Release) -> None:
        """Write a release and flip to it."""
        self.table.write(release)
        self.table.flip(release.endpoint, release.id)

    def predict(self, body: Any, *, endpoint: str = "delays", **options: Any) -> httpx.Response:
        """Ask for a prediction as user:amina; bytes are sent as they are."""
        headers = {"authorization": "Bearer user:amina", **options.pop("headers", {})}
        kind = "content" if isinstance(body, bytes) else "json"
        return self.client.post(
            f"/v1/endpoints/{endpoint}/predict", headers=headers, **{kind: body}, **options
        )


def _asked(caller: str, action: str, attributes: Mapping[str, str]) -> set[str]:
    """What the policy is asked, as ``Running.refused`` writes it."""
    whole = f"{caller} {action}"
    return {whole, *(f"{whole} {name}={value}" for name, value in attributes.items())}


@contextmanager
def worker(
    table: RoutingTable,
    bundles: MemoryBundles,
    compiler: PlanCompiler,
    folder: Path,
    *,
    beside: Callable[[InferenceApp], Sequence[Companion]] = lambda _app: (),
    trails: Callable[[Meters], Trails | None] = lambda _meters: None,
    context: ssl.SSLContext | None = None,
    metrics_guard: Callable[[bytes | None], None] | None = None,
) -> Iterator[Running]:
    """A listening worker, with the companions that ``beside`` gives it.

    ``trails`` is called with its meters, ``metrics_guard`` with what a reader of metrics shows.
    """
    spools, tokens, refused = MemorySpools(), NamedTokens(), set[str]()
    meters = Meters(folder / "meters", "w0")
    log = PredictionLog(
        spools,
        capacity=2_000,
        flush_seconds=0.05,
        lost=lambda endpoint, n: meters.of(endpoint).unlogged(n),
    )
    plans = Plans(table, compiler)

    def explained(caller: Caller, _release: Release) -> None:
        if f"{caller.principal.id} explain for {caller.purpose}" in refused:
            raise Forbidden("These features are not for you.", hint="State a purpose.")

    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table, worker="w0"),
        verifier=tokens,
        policy=RulePolicy(
            lambda caller, action, resource, _s: refused.isdisjoint(
                _asked(caller.principal.id, action, resource.attributes)
            )
        ),
        log=log,
        meters=meters,
        trails=trails(meters),
        explained=explained,
        metrics_guard=metrics_guard,
    )
    app.accompany(beside(app))
    with (
        fronted(app, context) as url,
        httpx.Client(base_url=url, timeout=10) as client,
    ):
        yield Running(url, table, bundles, spools, tokens, log, plans, meters, client, refused)
