"""The inference workers of a supervisor, as real processes under real keep-alive load.

Run as a program this file is the supervisor (``supervise FOLDER WORKERS``), or one of its
children: a worker that serves a small model without the rest of a platform.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from falaj.interfaces.supervisor import (
    Supervisor,
    claim_file,
    drain_workers,
    end_with_parent,
    restart_file,
    restart_workers,
)
from falaj.interfaces.workers import Restart
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Conflict, Unavailable
from falaj.kernel.settings import InferenceSettings, Settings
from falaj.kernel.telemetry import configure_logging
from falaj.serving.model import ServableModel
from falaj.serving.routing import RoutingTable
from falaj.serving.scalingrecords import ScalingRecords
from falaj.testing.installations import eventually
from falaj.testing.serving import (
    MemoryBundles,
    MemorySpools,
    NamedTokens,
    make_release,
    onnx_classifier,
)
from falaj.trust.certificates import CertificateAuthority

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}
BODY = json.dumps({"inputs": [ROW]})
HEADERS = {"authorization": "Bearer user:amina", "content-type": "application/json"}
PATH = "/v1/endpoints/delays/predict"


# -- the programs ------------------------------------------------------------------------


def work(given: argparse.Namespace) -> None:
    """One worker: the real front, application, plans and page, around a small model."""
    from falaj.serving.adapters.runtime_onnx import OnnxRuntime
    from falaj.serving.compiler import PlanCompiler
    from falaj.serving.inference import InferenceApp
    from falaj.serving.meters import Meters
    from falaj.serving.plans import Keeper, Plans
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.running import run
    from falaj.serving.workload import Workload
    from falaj.testing.fakes import AllowAll

    if given.go is not None and not os.read(given.go, 1):
        return
    folder: Path = given.folder
    if (folder / "broken").exists():
        raise SystemExit("the new version does not start")
    home = folder / "home"
    model = ServableModel("onnx", (folder / "model.onnx").read_bytes(), ("a", "b", "c"))
    table = RoutingTable(home / "routing")
    compiler = PlanCompiler(MemoryBundles({"sha256:a": model}), [OnnxRuntime(device="cpu")], None)
    plans = Plans(table, compiler)
    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table, worker=given.name),
        verifier=NamedTokens(),
        policy=AllowAll(),
        log=PredictionLog(MemorySpools()),
        meters=Meters(home / "meters", given.name),
        workload=Workload(home / "workload" / given.name),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    run(
        app,
        [socket.socket(fileno=number) for number in given.socket],
        context=context,
        ready=lambda: given.ready.write_text(str(os.getpid())) and None,
        begun=lambda stop: end_with_parent(given.parent, stop),
        linger_seconds=1.0,
    )


def supervise(folder: Path, workers: str) -> None:
    configure_logging(level="info", as_json=False)
    (folder / "home" / "workload").mkdir(parents=True, exist_ok=True)
    Supervisor(
        folder=folder,
        settings=settings_of(folder, workers),
        roles=("inference",),
        program=(sys.executable, __file__),
    ).run()


def settings_of(folder: Path, workers: str) -> Settings:
    inference = InferenceSettings(
        port=0, workers=workers, target_utilisation=0.1, queue_ms=60_000,
        scale_down_seconds=2.0, drain_seconds=1.0,
    )  # fmt: skip
    return Settings(home=folder / "home", inference=inference)


# -- the tests' own means ------------------------------------------------------------------


@dataclass
class Pool:
    """A running supervisor with its workers."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    trusted: ssl.SSLContext
    settings: Settings

    def pids(self) -> dict[str, int]:
        found = {}
        for file in sorted((self.settings.home / "run").glob("inference-*.ready")):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[file.stem] = int(file.read_text())
        return found

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def pool_of(folder: Path, workers: str) -> Iterator[Pool]:
    (folder / "model.onnx").write_bytes(onnx_classifier())
    made = CertificateAuthority(folder / "tls", clock=SystemClock()).server_certificate(
        ("localhost", "127.0.0.1")
    )
    (folder / "server.pem").write_bytes(made.path.read_bytes())
    table = RoutingTable(folder / "home" / "routing")
    table.write(make_release())
    table.flip("delays", "release_1")
    table.close()
    settings = settings_of(folder, workers)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "supervise", str(folder), workers],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        addresses = settings.home / "run" / "addresses.json"
        eventually(addresses.exists, what="ready")
        port = int(json.loads(addresses.read_text())["inference"].rpartition(":")[2])
        trusted = ssl.create_default_context(cafile=str(folder / "tls" / "ca.pem"))
        yield Pool(folder, process, port, trusted, settings)
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Load:
    """Connections that ask again and again, each with a pause of its own."""

    pool: Pool
    answered: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reconnected: list[int] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, pause: float) -> None:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.pool.port, context=self.pool.trusted, timeout=20
        )
        while not self.stopped.is_set():
            if connection.sock is None:
                self.reconnected.append(1)
            try:
                connection.request("POST", PATH, BODY, HEADERS)
                answer = connection.getresponse()
                told = answer.read()
                if answer.status == 200 and b'"score"' in told:
                    self.answered.append(1)
                else:
                    self.failures.append(f"{answer.status} {told[:200]!r}")
            except OSError as error:
                self.failures.append(repr(error))
                connection.close()
            except http.client.HTTPException as error:
                self.failures.append(repr(error))
                connection.close()
            self.stopped.wait(pause)
        connection.close()


@contextlib.contextmanager
def load_on(pool: Pool, pauses: list[float]) -> Iterator[Load]:
    load = Load(pool)
    threads = [threading.Thread(target=load.ask, args=(pause,)) for pause in pauses]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(load.answered) > 20, what=f"answers; {load.failures[:3]}")
        yield load
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with pool_of(tmp_path_factory.mktemp("pool"), "2") as pool:
        yield pool


# -- what is promised ----------------------------------------------------------------------


def test_a_rolling_restart_under_keep_alive_load_drops_no_connection_and_fails_no_request(
    two: Pool,
) -> None:
    before = two.pids()
    with load_on(two, [0.001, 0.003, 0.01, 0.05, 0.2, 0.7]) as load:
        told = restart_workers(two.settings, wait_seconds=60)
        n_during = len(load.answered)
        eventually(lambda: len(load.answered) > n_during + 50)
    assert load.failures == []
    assert told.state == "done"
    assert len(load.reconnected) > 6  # somebody was told `connection: close`, and came again
    after = two.pids()
    assert len(after) == 2
    assert not set(after.values()) & set(before.values())


def test_workers_that_would_not_start_again_are_not_taken_away_on_sighup(two: Pool) -> None:
    before, number = two.pids(), Restart.read(restart_file(two.settings)).number
    (two.folder / "broken").touch()
    try:
        with load_on(two, [0.01, 0.1]) as load:
            two.process.send_signal(signal.SIGHUP)
            told = eventually(
                lambda: (one := Restart.read(restart_file(two.settings))).state == "failed" and one
            )
    finally:
        (two.folder / "broken").unlink()
    assert told.number == number + 1
    assert "did not get ready" in told.why
    assert two.pids() == before
    assert load.failures == []


def test_a_killed_worker_leaves_the_other_serving_and_comes_again(two: Pool) -> None:
    (first, victim), *_ = two.pids().items()
    with load_on(two, [0.01] * 4) as load:
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: two.pids().get(first, victim) != victim)
        asked = len(load.answered)
        eventually(lambda: len(load.answered) > asked + 20)
    # Who was connected to the killed one noticed; whoever came again was served.
    assert len(load.failures) <= 4
    assert all("Errno" in one or "Remote" in one for one in load.failures), load.failures


def test_a_second_supervisor_of_the_same_workers_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "1")
    claim_file(settings, "inference").parent.mkdir(parents=True)
    with claim_file(settings, "inference").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = Supervisor(folder=tmp_path, settings=settings, roles=("inference",))
        with pytest.raises(Conflict, match="Another `falaj up` runs inference"):
            second.run()
    assert second.children[0].process is None  # before anything was started


def test_a_restart_where_nothing_runs_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"No `falaj up`") as told:
        restart_workers(settings_of(tmp_path, "1"), wait_seconds=1)
    assert "falaj up inference" in str(told.value.hint)
    settings = settings_of(tmp_path, "1")
    claim_file(settings, "inference").parent.mkdir(parents=True)
    claim_file(settings, "inference").write_text(str(os.getpid()))  # left over: nobody holds it
    with pytest.raises(Unavailable, match=r"No `falaj up`"):
        restart_workers(settings, wait_seconds=1)


def test_a_drained_machine_answers_what_was_asked_and_accepts_nothing_more(two: Pool) -> None:
    # It is the last test on this pool: nobody serves behind it.
    silent = http.client.HTTPSConnection("127.0.0.1", two.port, context=two.trusted, timeout=20)
    silent.request("GET", "/healthz")
    silent.getresponse().read()
    drainer = threading.Thread(
        target=drain_workers, args=(two.settings,), kwargs={"wait_seconds": 60}
    )
    drainer.start()
    eventually(lambda: refused(two.port))
    silent.request("POST", PATH, BODY, HEADERS)  # on the connection that it has
    answer = silent.getresponse()
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    drainer.join(60)
    assert two.pids() == {}
    assert two.process.poll() is None


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_workers_come_with_load_and_go_without_and_every_change_is_recorded(
    tmp_path: Path,
) -> None:
    with pool_of(tmp_path, "1:2") as pool:
        assert len(pool.pids()) == 1
        with load_on(pool, [0.3] * 3) as load:
            with busy(pool):
                eventually(lambda: len(pool.pids()) == 2, what=pool.log()[-1500:])
            eventually(lambda: len(pool.pids()) == 1, what=pool.log()[-1500:])
        assert load.failures == []
        up, *_, down = sorted(
            ScalingRecords(pool.settings.home / "scaling").waiting(), key=lambda one: one.id
        )
    assert (up.before, up.after, up.pool) == (1, 2, "local")
    assert (down.before, down.after) == (2, 1)
    assert up.utilisation
    assert up.reason


@contextlib.contextmanager
def busy(pool: Pool) -> Iterator[None]:
    """Requests that keep the workers busy: of many rows, on a few connections."""
    stopped = threading.Event()
    body = json.dumps({"inputs": [ROW] * 200})

    def ask() -> None:
        while not stopped.is_set():
            connection = http.client.HTTPSConnection(
                "127.0.0.1", pool.port, context=pool.trusted, timeout=20
            )
            for _ in range(50):
                connection.request("POST", PATH, body, HEADERS)
                answer = connection.getresponse()
                assert answer.status == 200, answer.read()
                answer.read()
                if connection.sock is None:
                    break
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(20)


def _arguments() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--ready", type=Path)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--go", type=int)
    parser.add_argument("--socket", type=int, action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1] == "supervise":
        supervise(Path(sys.argv[2]), sys.argv[3])
    else:
        work(_arguments())
