"""Features over HTTP in Feast's JSON shape: our worker against Feast's own server.

Both read one entity with 30 features (3 views of 10 float64) for each request of one load
generator, on one pinned core without TLS; the client has the other core. Ours is the
inference worker as ``falaj up`` wires it: it verifies an Ed25519 token, asks the policy and
records every read. Feast does none of that; it runs at its best setting (one worker,
uvloop, no access log), at full size with the faster of its Redis and SQLite stores. A
thousand distinct entities are asked in turn, and the values of both are compared before
anything is timed.
The CPU of the Redis server is not charged to Feast.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from measuring import Row, median, report
from peers import Peer, available
from stand.load import Load, ask_once
from stand.processes import cpu_seconds

N_VIEWS, N_FEATURES, N_ENTITIES, N_ASKED = 3, 10, 2_000, 1_000
CONNECTIONS = (1, 16, 64)
GOAL_TIMES, GOAL_US = 30, 70
PATH = "/get-online-features"


# -- our worker ------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make a platform with the service ``bench``, and fill its online store."""
    import pyarrow as pa

    from falaj.features.model import Entity, Feature, FeatureService, FeatureView
    from falaj.interfaces.platform import near
    from falaj.kernel.settings import Settings
    from falaj.wiring.assembly import assemble
    from falaj.wiring.setup import initialise

    initialise(Settings.read(folder), owner="bench")
    entity = Entity(name="entity", keys={"entity": "int64"})
    views = [
        FeatureView(
            name=f"view{number}",
            entity=entity,
            source=f"source{number}",
            event_time="at",
            ttl=timedelta(days=30),
            features=[Feature(f"f{i}", "float64") for i in range(N_FEATURES)],
        )
        for number in range(N_VIEWS)
    ]
    service = FeatureService(name="bench", features=views)
    premises = assemble(Settings.read(folder))
    near(premises).definitions.apply(
        documents=[one.document() for one in (entity, *views, service)]
    )
    at = datetime.now(UTC) - timedelta(minutes=5)
    for number in range(N_VIEWS):
        values = np.random.default_rng(number).normal(size=(N_ENTITIES, N_FEATURES))
        rows = pa.table(
            {
                "entity": np.arange(N_ENTITIES),
                "at": pa.array([at] * N_ENTITIES, pa.timestamp("us", tz="UTC")),
                **{f"f{i}": values[:, i] for i in range(N_FEATURES)},
            }
        )
        premises.features.push(f"source{number}", rows, stored=True)
    premises.close()


def token(folder: Path) -> str:
    """An access token of a program with the role ``service``."""
    from falaj.kernel.call import Principal, PrincipalKind
    from falaj.kernel.settings import Settings
    from falaj.wiring.assembly import assemble

    premises = assemble(Settings.read(folder))
    caller = Principal("service:bench", PrincipalKind.SERVICE, ("service",))
    made, _ = premises.tokens.issue(
        caller, session="session_bench", account_epoch=0, mfa_at=None, now=datetime.now(UTC)
    )
    premises.close()
    return made


def serve(folder: Path, bound: socket.socket) -> None:
    """Run an inference worker."""
    from falaj.kernel.settings import Settings
    from falaj.serving.running import run
    from falaj.wiring.assembly import assemble

    premises = assemble(Settings.read(folder), process="inference-1")
    run(premises.serving.inference_app("inference-1"), [bound])
    premises.close()


@contextlib.contextmanager
def worker(folder: Path) -> Iterator[tuple[int, int]]:
    """Our worker in a process of its own; its port and process id."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=1024)
    bound.set_inheritable(True)
    command = [sys.executable, __file__, "--folder", str(folder), "--fd", str(bound.fileno())]
    process = subprocess.Popen(command, pass_fds=[bound.fileno()], start_new_session=True)
    try:
        yield bound.getsockname()[1], process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        bound.close()


# -- the peer --------------------------------------------------------------------------


@contextlib.contextmanager
def feast_server(folder: Path, address: str) -> Iterator[tuple[int, int]]:
    """Feast's server on a store (a Redis address or ``sqlite``); its port and process id."""
    folder.mkdir()
    sizes = [str(n) for n in (N_VIEWS, N_FEATURES, N_ENTITIES)]
    with Peer("features/peers/feast_server.py", str(folder), address, *sizes) as peer:
        yield peer.ask("serve")["port"], peer.pid


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis server for the peer; its address as Feast writes it."""
    from falaj.testing.brokers import free_ports, redis_program

    folder.mkdir()
    (port,) = free_ports(1)
    command = [str(redis_program()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(
        [*command, "--dir", str(folder), "--io-threads", "1"], stdout=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


# -- the measurement -------------------------------------------------------------------


def requests_of(entities: np.ndarray, authorization: str) -> list[bytes]:
    """One request for each entity, as bytes."""
    made = []
    for entity in entities.tolist():
        body = json.dumps(
            {
                "feature_service": "bench",
                "entities": {"entity": [entity]},
                "full_feature_names": True,
            }
        ).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\n{authorization}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def values_of(told: dict[str, Any]) -> dict[str, Any]:
    """The first value of each feature in an answer of Feast's shape."""
    names = told["metadata"]["feature_names"]
    return {name: result["values"][0] for name, result in zip(names, told["results"], strict=True)}


class Figures:
    """What was measured of one server, by the number of connections."""

    def __init__(self, port: int, pid: int, asked: list[bytes]) -> None:
        self.port, self.pid, self.asked = port, pid, asked
        self.found: dict[tuple[str, int], list[float]] = {}

    def measure(self, connections: int, seconds: float, *, keep: bool) -> None:
        """One round."""
        core = max(os.sched_getaffinity(0))
        before = cpu_seconds(self.pid)
        found = Load(self.port, self.asked, core=core).run(connections, seconds)
        used = cpu_seconds(self.pid) - before
        if found.errors:
            raise RuntimeError(f"{found.errors} of {found.n} answers are errors")
        if keep:
            for name, value in (
                ("requests/s", found.rate),
                ("µs CPU/request", used / found.n * 1e6),
                ("p50 ms", found.p50_ms),
                ("p99 ms", found.p99_ms),
            ):
                self.found.setdefault((name, connections), []).append(value)

    def of(self, name: str, connections: int) -> float:
        """The median of the rounds."""
        return median(self.found[name, connections])


def compared(ours: Figures, peers: dict[str, Figures]) -> None:
    """Raise unless all servers answer the same values."""
    for place in range(0, N_ASKED, 50):
        mine = values_of(ask_once(ours.port, ours.asked[place]))
        if len(mine) != N_VIEWS * N_FEATURES + 1 or None in mine.values():
            raise RuntimeError(f"ours answers {mine}")
        for name, peer in peers.items():
            theirs = values_of(ask_once(peer.port, peer.asked[place]))
            if mine != theirs:
                raise RuntimeError(f"ours answers {mine}, {name} {theirs}")


def measure(folder: Path, *, rounds: int, seconds: float, stores: Sequence[str]) -> list[Row]:
    """All servers in turn on the same core; the rows of the table."""
    prepare(folder / "ours")
    chance = np.random.default_rng(3)
    entities = chance.choice(N_ENTITIES, N_ASKED, replace=False)
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        bearer = f"authorization: Bearer {token(folder / 'ours')}\r\n"
        place = stack.enter_context(worker(folder / "ours"))
        ours = Figures(*place, requests_of(entities, bearer))
        peers: dict[str, Figures] = {}
        plain = requests_of(entities, "")
        for name in stores:
            store = "sqlite" if name == "SQLite" else stack.enter_context(redis(folder / "redis"))
            place = stack.enter_context(feast_server(folder / name, store))
            peers[name] = Figures(*place, plain)
        compared(ours, peers)
        for figures in (ours, *peers.values()):
            _pin(figures.pid, cores[0])
        os.sched_setaffinity(0, {cores[-1]})
        for number in range(rounds + 1):
            for connections in CONNECTIONS:
                for figures in (ours, *peers.values()):
                    figures.measure(connections, seconds, keep=number > 0)
        os.sched_setaffinity(0, set(cores))
    return _rows(ours, peers)


def _pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def _rows(ours: Figures, peers: dict[str, Figures]) -> list[Row]:
    best = max(peers, key=lambda name: peers[name].of("requests/s", 16)) if peers else None
    versions = {name: version(name) for name in ("httptools", "uvloop", "msgspec", "lmdb")}
    rows = []
    for connections in CONNECTIONS:
        for unit in ("requests/s", "µs CPU/request", "p50 ms", "p99 ms"):
            mine = ours.of(unit, connections)
            theirs = peers[best].of(unit, connections) if best else None
            row = Row(
                "read 30 features over HTTP, Feast's shape",
                f"{connections} connections",
                unit,
                mine,
                theirs,
                f"feast serve, {best}" if best else "",
                better="more" if unit == "requests/s" else "less",
                versions=versions,
            )
            if connections == 16 and unit == "requests/s" and theirs:
                row.goal, row.met = f"≥ {GOAL_TIMES} times", mine >= GOAL_TIMES * theirs
            if connections == 16 and unit == "µs CPU/request":
                row.goal, row.met = f"≤ {GOAL_US} µs", mine <= GOAL_US
            rows.append(row)
    return rows


def main() -> None:
    """Measure and report; or, called by itself, serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--alone", action="store_true", help="leave out the peer")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--fd", type=int)
    given = parser.parse_args()
    if given.fd is not None:
        serve(given.folder, socket.socket(fileno=given.fd))
        return
    rounds, seconds = (2, 1.0) if given.size == "small" else (5, 3.0)
    stores: Sequence[str] = ("Redis",) if given.size == "small" else ("Redis", "SQLite")
    if given.alone or not available():
        stores = ()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds, stores=stores)
    report("features", "Features over HTTP, one server core", rows, given)


if __name__ == "__main__":
    main()
