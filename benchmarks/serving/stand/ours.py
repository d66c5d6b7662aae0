"""Our platform with endpoints that serve the classifier, and its inference workers.

A whole platform is made in a folder: keys, database, definitions, an online store, signed
bundles and releases that are deployed and activated as the actions do it. Only the approval
of the models is the benchmark's own. A worker is the inference application as ``falaj up``
wires it: it verifies an Ed25519 token, asks the Cedar policy, checks every field, writes the
sealed prediction log and counts. Called by itself, this file is one worker.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stand.classifier import NAMES, Classifier
from stand.load import Renewed, ask_once, request
from stand.processes import Cores, ServerProcess, child_of_ours, command_of

if TYPE_CHECKING:
    from falaj.serving.model import Approved, Release
    from falaj.wiring.assembly import Premises

VIEW, KEY = "state", "entity"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Platform:
    """An open platform in a folder; ``opened`` makes one."""

    premises: Premises
    folder: Path
    approved: dict[tuple[str, int], Approved]

    def bearer(self) -> str:
        """The header line of a program with the role ``service``; its token lives five minutes."""
        from falaj.kernel.call import Principal, PrincipalKind

        caller = Principal("service:bench", PrincipalKind.SERVICE, ("service",))
        token, _ = self.premises.tokens.issue(
            caller, session="session_bench", account_epoch=0, mfa_at=None, now=datetime.now(UTC)
        )
        return f"authorization: Bearer {token}\r\n"

    def keep(self, classifier: Classifier, model: str, version: int, prefix: str = "") -> None:
        """Sign and keep a bundle of a classifier, and approve it.

        Args:
            classifier: the model.
            model, version: as what it is approved.
            prefix: of the names of its inputs.
        """
        from falaj.models.bundles import CARD, MODEL, NATIVE, STATISTICS
        from falaj.models.model import Manifest, Signature
        from falaj.models.reference import statistics_of
        from falaj.serving.model import Approved
        from falaj.training.encoding import EncodedFeature, Encoding

        encoding = Encoding(features=tuple(EncodedFeature(name=prefix + name) for name in NAMES))
        scores = classifier.scores.astype(np.float64)
        manifest = Manifest(
            model=model,
            run="run_bench",
            trainer="lightgbm",
            feature_service="bench",
            feature_service_fingerprint="",
            definitions={},
            training_set="set_bench",
            training_set_hash="",
            snapshot=1,
            signature=Signature(encoding=encoding, label="label"),
            metrics={},
            created_at=datetime.now(UTC),
        )
        statistics = statistics_of(encoding, classifier.rows, scores)
        files = {
            MODEL: classifier.onnx,
            NATIVE: classifier.native,
            STATISTICS: statistics.model_dump_json().encode(),
            CARD: b"# Bench",
        }
        bundle = self.premises.bundles.keep(manifest, files)
        self.approved[model, version] = Approved(model=model, version=version, bundle=bundle)

    def declare(self, *definitions: Any) -> None:
        """Apply definitions."""
        with self.premises.calls.opened("bench.prepare", "user:bench") as call:
            self.premises.definitions.apply(call, [one.document() for one in definitions])

    def deploy(self, endpoint: str, version: int = 1) -> Release:
        """A release of an approved version; it serves nothing yet."""
        with self.premises.calls.opened("bench.prepare", "user:bench") as call:
            return self._releases().deploy(call, endpoint, version)

    def activate(self, release: Release) -> None:
        """Let a release serve, as the action does: prepared by all workers, then switched."""
        with self.premises.calls.opened("bench.prepare", "user:bench") as call:
            self._releases().activate(call, release.endpoint, release.id)

    def serve(self, release: Release) -> None:
        """Let a release document serve that no action makes yet (two variants)."""
        from falaj.serving import tables
        from falaj.serving.model import ReleaseState

        routing, endpoint = self.premises.serving.routing, release.endpoint
        with self.premises.calls.opened("bench.prepare", "user:bench") as call:
            tables.keep_release(
                call.connection,
                id=release.id,
                endpoint=endpoint,
                document=release.model_dump(mode="json"),
                state=ReleaseState.DEPLOYED,
                created_at=call.now,
            )
            tables.switch(call.connection, endpoint, release.id, None, at=call.now, by="user:bench")
            routing.write(release)
            tables.at_commit(call.connection, lambda: routing.flip(endpoint, release.id))

    def unlogged(self, endpoint: str) -> int:
        """Predictions that were answered and that the full log did not take."""
        return self.premises.serving.meters.traffic(endpoint).unlogged

    def rollouts(self) -> Any:
        """Begins, divides and ends rollouts of approved versions."""
        from falaj.serving.rolloutreleases import RolloutReleases

        routing = self.premises.serving.routing
        return RolloutReleases(self._releases(), routing, _Approvals(self.approved))

    def _releases(self) -> Any:
        from falaj.serving.releases import Releases

        serving, premises = self.premises.serving, self.premises
        return Releases(
            serving.routing, serving.plan_compiler, _Approvals(self.approved),
            serving.stored_features, premises.catalog,
        )  # fmt: skip


class _Approvals:
    """Approves what the benchmark has kept; fulfils ``falaj.serving.ports.ApprovedModels``."""

    def __init__(self, approved: dict[tuple[str, int], Approved]) -> None:
        self._approved = approved

    def approved(self, _connection: object, model: str, version: int | None) -> Approved:
        """The version that was kept under this name and number."""
        return self._approved[model, version or 1]

    def challenging(self, connection: object, model: str, version: int) -> Approved:
        """The same: a benchmark's challengers are as good as its champions."""
        return self.approved(connection, model, version)

    def may_return(self, _connection: object, model: str, version: int) -> None:
        """Whatever was approved once may serve again."""


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Platform]:
    """A new platform in a folder, open until the block ends."""
    from falaj.kernel.settings import Settings
    from falaj.wiring.assembly import assemble
    from falaj.wiring.setup import initialise

    folder.mkdir(exist_ok=True)
    initialise(Settings.read(folder), owner="bench")
    premises = assemble(Settings.read(folder), process="bench")
    try:
        yield Platform(premises, folder, {})
    finally:
        premises.close()


def in_the_body(
    platform: Platform, classifier: Classifier, name: str = "bench", **limits: Any
) -> None:
    """An endpoint that takes its 20 features with the request, active."""
    platform.keep(classifier, name, 1)
    platform.declare(*_body_definitions(name, limits))
    platform.activate(platform.deploy(name))


def _body_definitions(name: str, limits: dict[str, Any]) -> list[Any]:
    """An endpoint that takes 20 numbers, and what it refers to."""
    from falaj.features.model import FeatureService
    from falaj.models.model import ModelPolicy
    from falaj.serving.model import Endpoint, FieldType, Limits, RequestField

    fields = tuple(RequestField(name=one, type=FieldType.FLOAT) for one in NAMES)
    service = f"{name}_fields"
    return [
        FeatureService(name=service, request_fields=dict.fromkeys(NAMES, "float64")),
        ModelPolicy(name=name, feature_service=service, label="label"),
        Endpoint(name=name, model=name, fields=fields, limits=Limits(**limits)),
    ]


def from_the_store(
    platform: Platform, variants: Sequence[Classifier], values: np.ndarray, name: str = "looked"
) -> None:
    """An endpoint that looks its features up, with one variant for each classifier, active.

    Args:
        platform: where.
        variants: their models; each serves an equal share of the units.
        values: float64 [entities, 20], written through the feature store.
        name: of the endpoint.
    """
    from falaj.features.model import Entity, Feature, FeatureService, FeatureView
    from falaj.models.model import ModelPolicy
    from falaj.serving.model import Endpoint

    entity = Entity(name=KEY, keys={KEY: "int64"})
    view = FeatureView(
        name=VIEW, entity=entity, source="states", event_time="at", ttl=timedelta(days=30),
        features=[Feature(one, "float64") for one in NAMES],
    )  # fmt: skip
    service = FeatureService(name="states", features=[view])
    policy = ModelPolicy(name=name, feature_service="states", label="label")
    endpoint = Endpoint(name=name, model=name, feature_service="states", unit=KEY)
    platform.declare(entity, view, service, policy, endpoint)
    _fill(platform.premises, values)
    for number, classifier in enumerate(variants, 1):
        platform.keep(classifier, name, number, prefix=f"{VIEW}__")
    release = platform.deploy(name)
    share = 1 / len(variants)
    served = tuple(
        platform.approved[name, number].variant().model_copy(
            update={"name": f"variant{number}", "share": share}
        )
        for number in range(1, len(variants) + 1)
    )  # fmt: skip
    platform.serve(release.model_copy(update={"id": f"{release.id}_{name}", "variants": served}))


def _fill(premises: Premises, values: np.ndarray) -> None:
    """One row for each entity, through the feature store."""
    import pyarrow as pa

    at, n = datetime.now(UTC) - timedelta(minutes=5), 20_000
    for first in range(0, len(values), n):
        part = values[first : first + n]
        rows = pa.table(
            {
                KEY: np.arange(first, first + len(part)),
                "at": pa.array([at] * len(part), pa.timestamp("us", tz="UTC")),
                **{name: part[:, place] for place, name in enumerate(NAMES)},
            }
        )
        premises.features.push("states", rows, stored=True)


def body_requests(rows: np.ndarray, platform: Platform, name: str = "bench") -> Renewed:
    """One request for each row, features in the body."""
    path, named = (
        f"/v1/endpoints/{name}/predict",
        [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()],
    )

    def made() -> list[bytes]:
        bearer = platform.bearer()
        return [request(path, {"inputs": [row]}, headers=bearer) for row in named]

    return Renewed(made)


def key_requests(entities: Sequence[int], platform: Platform, name: str = "looked") -> Renewed:
    """One request for each entity, whose features are looked up."""
    path = f"/v1/endpoints/{name}/predict"

    def made() -> list[bytes]:
        bearer = platform.bearer()
        return [request(path, {"inputs": [{KEY: one}]}, headers=bearer) for one in entities]

    return Renewed(made)


# -- workers ---------------------------------------------------------------------------


@contextlib.contextmanager
def worker(
    platform: Platform, first: bytes, *, core: Cores, tls: bool = False, workers: int = 1,
    name: str = "ours",
) -> Iterator[ServerProcess]:  # fmt: skip
    """Inference workers on one socket and a log writer, as the supervisor starts them.

    They are ready, and quiet, when this yields.

    Args:
        platform: whose workers.
        first: a request that they must answer before they count as ready.
        core: where all of them run, the log writer too (unless ``BENCH_LOG_CORE`` names
            another core for it); None lets them be.
        tls: TLS 1.3 with the platform's own certificate.
        workers: how many.
        name: of the server; unique among those of one platform that run at once.
    """
    bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
    bound.set_inheritable(True)
    port = bound.getsockname()[1]
    command = [sys.executable, "-m", "stand.ours", "--folder", str(platform.folder)]
    command += ["--fd", str(bound.fileno()), "--name", name, "--workers", str(workers)]
    command += ["--tls"] if tls else []
    surroundings = {"PYTHONPATH": str(Path(__file__).parents[1])}
    log = platform.folder / f"{name}-{port}.log"
    with bound, ServerProcess(
        name, command, port, core=core, log=log, surroundings=surroundings,
        pass_fds=[bound.fileno()],
    ) as server:  # fmt: skip
        _await(server, first, platform, workers, tls=tls)
        yield server


def _await(
    server: ServerProcess, first: bytes, platform: Platform, workers: int, *, tls: bool
) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        server.check()
        members = set(server.members())
        ready = [one for one in platform.premises.serving.routing.workers() if one.pid in members]
        if len(ready) < workers:
            time.sleep(0.05)
            continue
        ask_once(server.port, first, tls=tls)
        server.settle(patience_seconds=60)  # models may be compiled beside the first answers
        return
    raise RuntimeError(f"our workers are not ready after {READY_SECONDS} s:\n{server.said()}")


def cpu_by_role(server: ServerProcess) -> dict[str, float]:
    """CPU seconds of a server's processes; our log writer's apart."""
    found = {"worker": 0.0, "log": 0.0}
    for pid, seconds in server.cpu_seconds().items():
        found["log" if "--role log" in command_of(pid) else "worker"] += seconds
    return found


def main() -> None:
    """One worker; the first one starts the others and the log writer, and ends them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--role", choices=["first", "worker", "log"], default="first")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.role == "log":
        _write_log(given.folder, given.name)
        return
    if given.role == "worker":
        _serve(given.folder, given.fd, given.name, tls=given.tls)
        return
    command = [sys.executable, "-m", "stand.ours", "--folder", str(given.folder)]
    core = os.environ.get("BENCH_LOG_CORE")

    def begun(words: list[str], core: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, *words],
            pass_fds=[given.fd],
            preexec_fn=lambda: child_of_ours(core),  # noqa: PLW1509 - nothing but system calls
        )

    log = begun(["--role", "log", "--name", f"{given.name}-log"], int(core) if core else None)
    worker = ["--role", "worker", "--fd", str(given.fd), *(["--tls"] if given.tls else [])]
    others = [
        begun([*worker, "--name", f"{given.name}-{number}"])
        for number in range(2, given.workers + 1)
    ]
    try:
        _serve(given.folder, given.fd, f"{given.name}-1", tls=given.tls)
    finally:
        for process in (*others, log):  # the log writer last: it takes what the others leave
            process.terminate()
            process.wait(12)


def _serve(folder: Path, descriptor: int, name: str, *, tls: bool) -> None:
    from falaj.kernel.settings import Settings
    from falaj.serving.running import run
    from falaj.wiring.assembly import assemble

    premises = assemble(Settings.read(folder), process=name)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*premises.server_certificate())
    application = premises.serving.inference_app(name, ring=True)
    run(application, [socket.socket(fileno=descriptor)], context=context)
    premises.close()


def _write_log(folder: Path, name: str) -> None:
    from falaj.kernel.settings import Settings
    from falaj.wiring.assembly import assemble

    premises = assemble(Settings.read(folder), process=name)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    premises.serving.log_writer().run(stopped, grace_seconds=9)
    premises.close()


if __name__ == "__main__":
    main()
