"""A machine for rollouts under load: real workers that share a routing table, and their clients."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.model import FieldType, Release, RequestField
from falaj.serving.rings import ring_folder
from falaj.serving.routing import RoutingTable
from falaj.serving.splits import Split
from falaj.serving.spools import PredictionDrain

PROGRAM = [sys.executable, str(Path(__file__).with_name("serving_programs.py"))]
N_WORKERS, N_CLIENTS = 2, 4
HEADERS = {"authorization": "Bearer user:amina"}
FIELDS = (
    RequestField(name="who", type=FieldType.STRING),
    *(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
)


@dataclass
class Asked:
    """One request: when it began and ended (Unix seconds), and who answered it."""

    begun: float
    ended: float
    status: int
    variant: str
    id: str
    who: str


@dataclass
class Machine:
    """Workers that share a routing table."""

    folder: Path
    release: Release
    table: RoutingTable
    workers: list[subprocess.Popen[bytes]]
    urls: list[str]
    asked: list[Asked] = field(default_factory=list)

    def divided(self, share: float) -> float:
        """Give the challenger a share; returns when that was done."""
        self.table.split("delays", Split(endpoint="delays", release=self.release.id,
                                         shares={"new": share}))  # fmt: skip
        return time.time()

    def ask(self, client: httpx.Client, url: str, who: str) -> Asked:
        """Ask one prediction."""
        row = {"who": who, "a": 0.5, "b": -1.25, "c": 2.0}
        begun = time.time()
        answer = client.post(url, json={"inputs": [row]})
        ended = time.time()
        told = answer.json()["predictions"][0] if answer.status_code == 200 else {}
        one = Asked(
            begun, ended, answer.status_code, told.get("variant", ""), told.get("id", ""), who
        )
        self.asked.append(one)
        return one

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Clients ask all workers while the block lasts, each for a unit of its own."""
        stopped = threading.Event()

        def ask(number: int) -> None:
            with httpx.Client(headers=HEADERS, timeout=20) as client:
                turn = number
                while not stopped.is_set():
                    self.ask(client, self.urls[turn % N_WORKERS], f"u{number}")
                    turn += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join(20)

    def logged(self, programs: ModuleType, columns: list[str]) -> list[dict[str, Any]]:
        """End the workers; the rows of the prediction log."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            assert worker.wait(30) == 0
        lake = DuckLake(Place.of("ducklake:", self.folder / "lake"), threads=1)
        try:
            keys = programs.keys_of(self.folder)
            PredictionDrain(self.folder / "spool", keys, lake).run_once()
            rows: list[dict[str, Any]] = lake.scan(
                "predictions_delays", columns=columns
            ).to_pylist()
        finally:
            lake.close()
        return rows


@contextmanager
def machine_of(folder: Path, programs: ModuleType, release: Release) -> Iterator[Machine]:
    """Workers that serve a release, until the block ends."""
    programs.prepare(folder)
    table = RoutingTable(folder / "routing")
    table.write(release)
    table.flip("delays", release.id)
    ports = [folder / f"port{number}" for number in range(N_WORKERS)]
    workers = [subprocess.Popen([*PROGRAM, str(folder), str(port)]) for port in ports]
    try:
        until = time.monotonic() + 60
        while not all(port.exists() for port in ports):
            assert all(worker.poll() is None for worker in workers)
            assert time.monotonic() < until
            time.sleep(0.02)
        urls = [
            f"http://127.0.0.1:{port.read_text()}/v1/endpoints/delays/predict" for port in ports
        ]
        yield Machine(folder, release, table, workers, urls)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        table.close()
        shutil.rmtree(ring_folder(folder), ignore_errors=True)
