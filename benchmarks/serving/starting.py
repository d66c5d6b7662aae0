"""How fast things start: a lone inference worker, a sleeping model, all of ``falaj up``.

The worker is the real one (``falaj.interfaces.processes inference``) on a real platform, with
an endpoint of the LightGBM classifier of 300 trees and 20 features that ``single_row.py``
serves, in a signed and encrypted bundle. A cold start is timed from the start of its process
to the answer of the first prediction, over TLS and with a token; the time on the processor is
told beside it, for it depends less on what else the machine does. A wake is timed from the
request to its answer: the bundle is fetched, decrypted, verified, loaded and warmed in it.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from measuring import Row, arguments, median, report
from stand.classifier import N_FEATURES, N_TREES, NAMES, make_model

BODY = {"inputs": [{name: 0.25 * place for place, name in enumerate(NAMES)}]}
PATH = "/v1/endpoints/bench/predict"
OWNER = "user:owner"


def deployed(folder: Path) -> Any:
    """A platform with the endpoint ``bench``; returns the installation and an access token."""
    from falaj.testing.installations import Installation

    installation = Installation(folder / "platform")
    installation.init()
    make_model(folder)
    return installation, _deploy(installation, (folder / "model.onnx").read_bytes())


def _deploy(installation: Any, onnx: bytes) -> str:
    from falaj.kernel.call import AssetRef, Principal, PrincipalKind
    from falaj.kernel.ids import new_id
    from falaj.serving import tables
    from falaj.serving.model import Endpoint, FieldType, Release, RequestField, Variant
    from falaj.wiring.assembly import assemble

    premises = assemble(installation.settings, process="bench")
    bundle = _bundled(premises, onnx)
    fields = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in NAMES)
    now = datetime.now(UTC)
    release = Release(
        id=new_id("release"),
        endpoint="bench",
        variants=(Variant(model="bench", version=1, bundle=bundle),),
        fields=fields,
        attributes={"owner": OWNER, "classification": "internal"},
        created_at=now,
        created_by=OWNER,
    )
    with premises.calls.opened("benchmark", OWNER) as call:
        premises.catalog.record(call, AssetRef("model", "bench"))
        premises.registry.register(call, "bench", run="", bundle=bundle)
        premises.serving.releases.applied(call, Endpoint(name="bench", model="bench"))
        tables.keep_release(
            call.connection, id=release.id, endpoint="bench", state="deployed",
            document=release.model_dump(mode="json"), created_at=now,
        )  # fmt: skip
        tables.switch(call.connection, "bench", release.id, None, at=now, by=OWNER)
    caller = Principal("service:bench", PrincipalKind.SERVICE, ("service",))
    token, _ = premises.tokens.issue(
        caller, session="session_bench", account_epoch=0, mfa_at=None, now=now
    )
    premises.close()
    return token


def _bundled(premises: Any, onnx: bytes) -> str:
    from falaj.models.bundles import CARD, MODEL, STATISTICS
    from falaj.models.model import Histogram, Manifest, Signature, Statistics
    from falaj.training.encoding import EncodedFeature, Encoding

    encoding = Encoding(features=tuple(EncodedFeature(name=name) for name in NAMES))
    manifest = Manifest(
        model="bench", run="", trainer="lightgbm", feature_service="none",
        feature_service_fingerprint="", definitions={}, training_set="ts_bench",
        training_set_hash="", snapshot=0, signature=Signature(encoding=encoding, label="y"),
        metrics={}, created_at=datetime.now(UTC),
    )  # fmt: skip
    statistics = Statistics(n_rows=0, features=(), scores=Histogram(edges=(), counts=(0,)))
    files = {MODEL: onnx, CARD: b"bench", STATISTICS: statistics.model_dump_json().encode()}
    digest: str = premises.bundles.keep(manifest, files)
    return digest


class Worker:
    """A lone inference worker on a socket of ours."""

    def __init__(self, installation: Any, token: str, **variables: str) -> None:
        self._folder = installation.folder
        self._ca = installation.ca
        self._token = token
        self.log = self._folder / "worker.log"
        self._bound = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._bound.set_inheritable(True)
        address = f"https://127.0.0.1:{self._bound.getsockname()[1]}"
        from falaj.testing.installations import client

        self.client = client(address, self._ca, token)
        with self.log.open("wb") as log:
            self.began = time.perf_counter()
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "falaj.interfaces.processes", "inference",
                    "--folder", str(self._folder), "--name", "bench-1",
                    "--ready", str(self._folder / "ready"), "--parent", str(os.getpid()),
                    "--socket", str(self._bound.fileno()),
                ],
                pass_fds=[self._bound.fileno()], stdout=log, stderr=log,
                env={**os.environ, **variables},
            )  # fmt: skip

    def ask(self) -> float:
        """Seconds of one prediction."""
        began = time.perf_counter()
        answer = self.client.post(PATH, json=BODY)
        if answer.status_code != 200:
            raise AssertionError(f"{answer.status_code}: {answer.text[:300]}")
        return time.perf_counter() - began

    def resident_megabytes(self) -> float:
        """What the worker holds in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def said(self, event: str) -> int:
        """How often the worker has logged an event."""
        lines = [one for one in self.log.read_text().splitlines() if one.startswith("{")]
        return sum(json.loads(one).get("event") == event for one in lines)

    def close(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.wait(30)
        self._bound.close()


@contextmanager
def worker(installation: Any, token: str, **variables: str) -> Iterator[Worker]:
    """A worker that is ended behind the block."""
    running = Worker(installation, token, **variables)
    try:
        yield running
    finally:
        running.close()


def cold_start(installation: Any, token: str) -> tuple[float, float]:
    """Seconds from the start of a worker's process to its first answer; and its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with worker(installation, token) as running:
        running.ask()
        took = time.perf_counter() - running.began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum((after.ru_utime, after.ru_stime)) - sum((before.ru_utime, before.ru_stime))
    return took, spent


def wakes(installation: Any, token: str, rounds: int) -> tuple[list[float], float, list[float]]:
    """Seconds of predictions that wake the model; the median of those that do not; MB let go."""
    woken, warm, freed = [], [], []
    with worker(installation, token, FALAJ_INFERENCE__IDLE_SECONDS="1") as running:
        running.ask()
        for number in range(rounds):
            warm += [running.ask() for _ in range(20)]
            awake = running.resident_megabytes()
            until = time.monotonic() + 60
            while running.said("model asleep") <= number:
                if time.monotonic() > until:
                    raise AssertionError("the model does not go to sleep")
                time.sleep(0.05)
            freed.append(awake - running.resident_megabytes())
            woken.append(running.ask())
    return woken, median(warm), freed


def up(installation: Any) -> float:
    """Seconds from ``falaj up`` until all of it is ready."""
    began = time.perf_counter()
    installation.up()
    took = time.perf_counter() - began
    installation.stop()
    return took


def main() -> None:
    """Measure, and report."""
    given = arguments("Cold start of a worker, wake of a model, `falaj up` to ready.")
    rounds = 3 if given.size == "small" else 9
    with tempfile.TemporaryDirectory() as folder:
        installation, token = deployed(Path(folder))
        cold_start(installation, token)  # the files are in the page cache from now on
        starts = [cold_start(installation, token) for _ in range(rounds)]
        woken, warm, freed = wakes(installation, token, rounds)
        ups = [up(installation) for _ in range(rounds)]
    size = f"{N_TREES} trees, {N_FEATURES} features"
    versions = {"onnxruntime": version("onnxruntime")}
    start, spent = median([one for one, _ in starts]), median([one for _, one in starts])
    wake = median(woken)
    rows = [
        Row("cold start of an inference worker to its first answer", size, "s", start,
            goal="<= 1.5 s", met=start <= 1.5, versions=versions),
        Row("the same, time on the processor", size, "s", spent, versions=versions),
        Row("first answer of a sleeping model", size, "ms", wake * 1e3, floor=warm * 1e3,
            goal="<= 300 ms", met=wake <= 0.3, versions=versions),
        Row("memory that a sleeping model gives back", size, "MB", median(freed),
            better="more", versions=versions),
        Row("`falaj up` to ready", "one worker", "s", median(ups), goal="<= 3 s",
            met=median(ups) <= 3.0),
    ]  # fmt: skip
    report("serving", "Starting", rows, given)


if __name__ == "__main__":
    main()
