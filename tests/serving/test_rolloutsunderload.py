"""Real workers under load while shares change: nothing fails, nothing is stale, all is logged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.model import FieldType, RequestField, Variant
from falaj.serving.rings import ring_folder
from falaj.serving.routing import RoutingTable
from falaj.serving.splits import Assignment, Split
from falaj.serving.spools import PredictionDrain
from falaj.testing.serving import make_release

PROGRAM = [sys.executable, str(Path(__file__).with_name("serving_programs.py"))]
N_WORKERS, N_CLIENTS, N_SWITCHES = 2, 4, 20
RELEASE = make_release(
    fields=(
        RequestField(name="who", type=FieldType.STRING),
        *(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
    ),
    unit="who",
    variants=(
        Variant(model="delay", version=1, bundle="sha256:a"),
        Variant(name="new", model="delay", version=2, bundle="sha256:b", share=0.0),
    ),
    assignment=Assignment(salt="rol_1", final={"new": 1.0}),
)


@dataclass
class Asked:
    """One request: when it began and ended, and who answered it."""

    begun: float
    ended: float
    status: int
    variant: str
    id: str


@dataclass
class Machine:
    """Workers that share a routing table."""

    folder: Path
    table: RoutingTable
    workers: list[subprocess.Popen[bytes]]
    urls: list[str]
    asked: list[Asked] = field(default_factory=list)

    def divided(self, share: float) -> float:
        """Give the challenger a share; returns when that was done."""
        self.table.split("delays", Split(endpoint="delays", release=RELEASE.id,
                                         shares={"new": share}))  # fmt: skip
        return time.monotonic()

    def ask(self, client: httpx.Client, url: str, who: str) -> Asked:
        """Ask one prediction."""
        row = {"who": who, "a": 0.5, "b": -1.25, "c": 2.0}
        begun = time.monotonic()
        answer = client.post(url, json={"inputs": [row]})
        ended = time.monotonic()
        told = answer.json()["predictions"][0] if answer.status_code == 200 else {}
        one = Asked(begun, ended, answer.status_code, told.get("variant", ""), told.get("id", ""))
        self.asked.append(one)
        return one


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, programs: ModuleType) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    programs.prepare(folder)
    table = RoutingTable(folder / "routing")
    table.write(RELEASE)
    table.flip("delays", RELEASE.id)
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
        yield Machine(folder, table, workers, urls)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        table.close()
        shutil.rmtree(ring_folder(folder), ignore_errors=True)


def test_shares_that_change_under_load_fail_nothing_and_leave_no_answer_stale(
    machine: Machine,
) -> None:
    stopped = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(headers={"authorization": "Bearer user:amina"}, timeout=20) as client:
            while not stopped.is_set():
                machine.ask(client, machine.urls[number % N_WORKERS], f"u{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(N_CLIENTS)]
    for thread in threads:
        thread.start()
    spans = []
    try:
        for switch in range(N_SWITCHES):
            share = float(switch % 2)
            since = machine.divided(share)
            time.sleep(0.12)
            spans.append((since, time.monotonic(), "new" if share else "champion"))
    finally:
        stopped.set()
        for thread in threads:
            thread.join(20)
    asked = list(machine.asked)
    assert {one.status for one in asked} == {200}
    checked = Counter(
        one.variant == variant
        for since, until, variant in spans
        for one in asked
        if since < one.begun and one.ended < until
    )
    assert checked[False] == 0
    assert checked[True] > 5 * N_SWITCHES


def test_a_worker_that_was_suspended_while_shares_changed_asks_no_challenger_any_more(
    machine: Machine,
) -> None:
    worker, url = machine.workers[0], machine.urls[0]
    headers = {"authorization": "Bearer user:amina"}
    with httpx.Client(headers=headers, timeout=20) as client:
        machine.divided(1.0)
        assert machine.ask(client, url, "before").variant == "new"
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            sent: list[Asked] = []
            early = threading.Thread(target=lambda: sent.append(machine.ask(client, url, "early")))
            early.start()
            time.sleep(0.1)  # it has reached the socket of the worker, which cannot read it
            began = time.monotonic()
            machine.divided(0.0)
            assert time.monotonic() - began < 1  # it waits for no worker
            with httpx.Client(headers=headers, timeout=20) as other:
                assert machine.ask(other, machine.urls[1], "meanwhile").variant == "champion"
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        early.join(20)
        assert [one.variant for one in sent] == ["champion"]
        for number in range(20):
            assert machine.ask(client, url, f"after{number}").variant == "champion"


def test_every_request_stands_in_the_log_once_with_the_variant_that_answered_it(
    machine: Machine, programs: ModuleType
) -> None:
    for worker in machine.workers:
        worker.terminate()
    for worker in machine.workers:
        assert worker.wait(30) == 0
    lake = DuckLake(Place.of("ducklake:", machine.folder / "lake"), threads=1)
    PredictionDrain(machine.folder / "spool", programs.keys_of(machine.folder), lake).run_once()
    rows = lake.scan("predictions_delays", columns=["prediction_id", "variant", "version"])
    lake.close()
    logged = [(row["prediction_id"], row["variant"]) for row in rows.to_pylist()]
    assert sorted(logged) == sorted((one.id, one.variant) for one in machine.asked)
    assert {(row["variant"], row["version"]) for row in rows.to_pylist()} == {
        ("champion", 1),
        ("new", 2),
    }
