"""Single-row predictions over HTTP: our worker with everything on, against FastAPI + ORT.

Both serve the same LightGBM classifier (300 trees, 20 features) as ONNX on one pinned
core with uvicorn, uvloop and httptools; the client has the other core. Ours verifies an
Ed25519 token, asks the Cedar policy, checks every field, writes the encrypted prediction
log and counts; the peer does none of that. A thousand distinct rows are sent in turn, and
the answers of both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, median, quantile, report

N_FEATURES, N_TREES, N_BODIES = 20, 300, 1_000
NAMES = [f"x{place}" for place in range(N_FEATURES)]
OURS, PEER = "ours", "fastapi"


# -- the model -------------------------------------------------------------------------


def make_model(folder: Path) -> None:
    """Train and convert the classifier; write rows to ask and their expected scores."""
    import lightgbm
    import onnxruntime
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(7)
    rows = random.normal(size=(5_000, N_FEATURES)).astype(np.float32)
    labels = (rows[:, :5].sum(axis=1) + random.normal(size=5_000) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=N_TREES, verbose=-1, n_jobs=2).fit(rows, labels)
    converted = convert_lightgbm(
        model,
        initial_types=[("input", FloatTensorType([None, N_FEATURES]))],
        zipmap=False,
        target_opset=15,
    ).SerializeToString()
    (folder / "model.onnx").write_bytes(converted)
    asked = random.normal(size=(N_BODIES, N_FEATURES)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(converted, options)
    scores = session.run(None, {"input": asked})[1][:, 1]
    np.savez(folder / "asked.npz", rows=asked, scores=scores)


# -- the servers -----------------------------------------------------------------------


def serve_fastapi(folder: Path, bound: socket.socket) -> None:
    """The peer: FastAPI as its documentation shows it, with uvloop and httptools."""
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel, create_model

    fields: dict[str, Any] = dict.fromkeys(NAMES, (float, ...))
    Row_ = create_model("Row_", **fields)  # noqa: N806
    Body: Any = create_model("Body", inputs=(list[Row_], ...))  # type: ignore[valid-type] # noqa: N806

    class Prediction(BaseModel):
        score: float

    class Predictions(BaseModel):
        predictions: list[Prediction]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    app = FastAPI()

    async def predict(body: Any) -> Predictions:
        rows = np.array(
            [[getattr(row, name) for name in NAMES] for row in body.inputs], dtype=np.float32
        )
        scores = session.run(None, {"input": rows})[1][:, 1]
        return Predictions(predictions=[Prediction(score=float(score)) for score in scores])

    predict.__annotations__.update({"body": Body, "return": Predictions})
    app.post("/v1/endpoints/bench/predict")(predict)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
    uvicorn.Server(config).run(sockets=[bound])


def serve_ours(folder: Path, bound: socket.socket) -> None:
    """Our inference worker: token, policy, checks, encrypted log, meters."""
    from falaj.kernel.clock import SystemClock
    from falaj.serving.adapters.runtime_onnx import OnnxRuntime
    from falaj.serving.compiler import PlanCompiler
    from falaj.serving.front import run
    from falaj.serving.inference import InferenceApp
    from falaj.serving.meters import Meters
    from falaj.serving.model import ServableModel
    from falaj.serving.plans import Keeper, Plans
    from falaj.serving.predictionlog import PredictionLog
    from falaj.serving.routing import RoutingTable
    from falaj.serving.service import EndpointService
    from falaj.serving.spools import DirectorySpools
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
    from falaj.trust.policy import CedarPolicy

    class OneBundle:
        def open(self, digest: str) -> ServableModel:
            return ServableModel("onnx", (folder / "model.onnx").read_bytes(), tuple(NAMES))

    seal = MachineSeal(folder / "secret")
    keys = FileKeyring(folder / "ring.json", seal, clock=SystemClock())
    table = RoutingTable(folder / "routing")
    plans = Plans(table, PlanCompiler(OneBundle(), [OnnxRuntime(device="cpu")], None))
    meters = Meters(folder / "meters", "w0")
    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table, worker="w0"),
        verifier=_verifier(keys),
        policy=CedarPolicy(list(EndpointService.actions())),
        log=PredictionLog(
            DirectorySpools(folder / "spool", keys),
            lost=lambda endpoint, n: meters.of(endpoint).unlogged(n),
        ),
        meters=meters,
    )
    run(app, [bound])


class _NothingRevoked:
    """Revocations of a platform where nothing was revoked."""

    def current(self, now: datetime) -> Any:
        from falaj.trust.epochs import Revoked

        return Revoked()


def _verifier(keys: Any) -> Any:
    from falaj.trust.tokens import Tokens

    tokens = Tokens(keys, _NothingRevoked(), issuer="bench", lifetime=timedelta(hours=1))

    class Verifier:
        def verify(self, token: str) -> Any:
            return tokens.verify(token, datetime.now(UTC))

    return Verifier()


def prepare_ours(folder: Path) -> str:
    """Make keys, a release and a token; returns the token."""
    from falaj.kernel.call import Principal, PrincipalKind
    from falaj.kernel.clock import SystemClock
    from falaj.serving.model import FieldType, Release, RequestField, Variant
    from falaj.serving.routing import RoutingTable
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
    from falaj.trust.tokens import Tokens

    keys = FileKeyring.create(
        folder / "ring.json", MachineSeal.create(folder / "secret"), clock=SystemClock()
    )
    table = RoutingTable(folder / "routing")
    table.write(
        Release(
            id="release_1",
            endpoint="bench",
            variants=(Variant(model="bench", version=1, bundle="sha256:0"),),
            fields=tuple(RequestField(name=name, type=FieldType.FLOAT) for name in NAMES),
            attributes={"owner": "user:bench", "classification": "internal"},
            created_at=datetime.now(UTC),
            created_by="user:bench",
        )
    )
    table.flip("bench", "release_1")
    table.close()
    tokens = Tokens(keys, _NothingRevoked(), issuer="bench", lifetime=timedelta(hours=1))
    caller = Principal("service:bench", PrincipalKind.SERVICE, ("service",))
    token, _ = tokens.issue(
        caller, session="session_bench", account_epoch=0, mfa_at=None, now=datetime.now(UTC)
    )
    return token


# -- the client ------------------------------------------------------------------------


class _Asker(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, asked: list[bytes], first: int, until: float, times: list[float]) -> None:
        self._asked, self._place, self._until, self._times = asked, first, until, times
        self._buffer = b""
        self.done = asyncio.get_running_loop().create_future()
        self.bad = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._place = (self._place + 1) % len(self._asked)
        self._sent = time.perf_counter()
        self._transport.write(self._asked[self._place])

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head)
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < head + 4 + length:
            return
        now = time.perf_counter()
        self._times.append(now - self._sent)
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self.bad += 1
        self._buffer = b""
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))


async def load(port: int, asked: list[bytes], connections: int, seconds: float) -> list[float]:
    """Ask on so many connections for so long; the seconds of each request."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    until = time.perf_counter() + seconds
    askers = []
    for number in range(connections):
        place = number * len(asked) // connections
        _, asker = await loop.create_connection(
            lambda place=place: _Asker(asked, place, until, times), "127.0.0.1", port
        )
        askers.append(asker)
    await asyncio.gather(*(asker.done for asker in askers))
    bad = sum(asker.bad for asker in askers)
    if bad:
        raise RuntimeError(f"{bad} answers were not 200")
    return times


def requests_of(rows: np.ndarray, token: str) -> list[bytes]:
    """The requests as bytes."""
    made = []
    for row in rows.tolist():
        body = json.dumps({"inputs": [dict(zip(NAMES, row, strict=True))]}).encode()
        head = (
            "POST /v1/endpoints/bench/predict HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: Bearer {token}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


@contextlib.contextmanager
def server(kind: str, folder: Path, core: int) -> Iterator[tuple[int, int]]:
    """A server process pinned to a core; its port and process id."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(1024)
    bound.set_inheritable(True)
    command = [sys.executable, __file__, "--serve", kind, "--folder", str(folder)]
    process = subprocess.Popen(
        [*command, "--fd", str(bound.fileno())], pass_fds=[bound.fileno()], start_new_session=True
    )
    os.sched_setaffinity(process.pid, {core})
    try:
        yield bound.getsockname()[1], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        bound.close()


def ask_once(port: int, request: bytes) -> dict[str, Any]:
    """One request on a connection of its own; the answer's body."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.replace(b"host:", b"connection: close\r\nhost:", 1))
        data = b""
        while part := connection.recv(65_536):
            data += part
    told: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
    return told


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Both servers in turn on the same core; the rows of the table."""
    make_model(folder)
    kept = np.load(folder / "asked.npz")
    asked = requests_of(kept["rows"], prepare_ours(folder))
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    rate: dict[tuple[str, int], list[float]] = {}
    p99: dict[tuple[str, int], list[float]] = {}
    p50: dict[tuple[str, int], list[float]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    with server(OURS, folder, server_core) as ours, server(PEER, folder, server_core) as peer:
        os.sched_setaffinity(0, {client_core})
        for name, (port, _) in ((OURS, ours), (PEER, peer)):
            for place in range(0, N_BODIES, 50):
                told = ask_once(port, asked[place])
                if "predictions" not in told:
                    raise RuntimeError(f"{name} answers {told}")
                score = told["predictions"][0]["score"]
                if abs(score - kept["scores"][place]) > 1e-6:
                    raise RuntimeError(f"{name} answers {score}, not {kept['scores'][place]}")
        for number in range(rounds + 1):
            for connections in (1, 16, 64):
                for name, (port, pid) in ((OURS, ours), (PEER, peer)):
                    before = cpu_seconds(pid)
                    times = uvloop.run(load(port, asked, connections, seconds))
                    if not number:
                        continue
                    key = (name, connections)
                    rate.setdefault(key, []).append(len(times) / seconds)
                    p50.setdefault(key, []).append(quantile(times, 0.5) * 1e3)
                    p99.setdefault(key, []).append(quantile(times, 0.99) * 1e3)
                    cpu.setdefault(key, []).append((cpu_seconds(pid) - before) / len(times) * 1e6)
    versions = {name: version(name) for name in ("onnxruntime", "uvicorn", "fastapi", "msgspec")}
    rows = []
    for connections in (1, 16, 64):
        for unit, figures, better in (
            ("requests/s", rate, "more"),
            ("µs CPU/request", cpu, "less"),
            ("p50 ms", p50, "less"),
            ("p99 ms", p99, "less"),
        ):
            mine, theirs = (median(figures[name, connections]) for name in (OURS, PEER))
            row = Row(
                "one row, JSON, token + policy + log",
                f"{connections} connections",
                unit,
                mine,
                theirs,
                "FastAPI + ORT, bare",
                better=better,
                versions=versions,
            )
            if unit == "requests/s" and connections == 16:
                row.goal, row.met = "≥ 4 times", mine >= 4 * theirs
            rows.append(row)
    return rows


def main() -> None:
    """Measure and report; or, called by itself, serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--serve", choices=[OURS, PEER])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--fd", type=int)
    given = parser.parse_args()
    if given.serve:
        bound = socket.socket(fileno=given.fd)
        (serve_ours if given.serve == OURS else serve_fastapi)(given.folder, bound)
        return
    rounds, seconds = (5, 0.6) if given.size == "small" else (7, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Single-row predictions over HTTP, one server core", rows, given)


if __name__ == "__main__":
    main()
