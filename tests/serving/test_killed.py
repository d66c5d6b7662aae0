"""A worker that is killed in the middle: what was answered, and what the log still has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.logwriter import LogWriter
from falaj.serving.model import Durability
from falaj.serving.rings import Rings, ring_folder
from falaj.serving.routing import RoutingTable
from falaj.serving.spools import DirectorySpools, PredictionDrain
from falaj.testing.serving import make_release
from falaj.trust.adapters.keys_file import FileKeyring

PROGRAM = [sys.executable, str(Path(__file__).with_name("serving_programs.py"))]
ROW = {"a": 0.5, "b": -1.25, "c": 2.0}


def answered_until_killed(
    folder: Path, *, seconds: float, ring: bool = False, enough: Callable[[], bool] = lambda: True
) -> list[str]:
    """Start a worker, ask on four connections, kill it; the ids of what was answered."""
    port_file = folder / "port"
    more = ["ring"] if ring else []
    worker = subprocess.Popen([*PROGRAM, str(folder), str(port_file), *more])
    try:
        until = time.monotonic() + 60
        while not port_file.exists():
            assert worker.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        url = f"http://127.0.0.1:{port_file.read_text()}/v1/endpoints/delays/predict"
        answered: list[str] = []

        def ask() -> None:
            with httpx.Client(headers={"authorization": "Bearer user:amina"}) as client:
                while True:
                    try:
                        answer = client.post(url, json={"inputs": [ROW]})
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 200, answer.text
                    answered.append(answer.json()["predictions"][0]["id"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        spooled = folder / "spool"
        while (
            len(answered) < 150
            or time.monotonic() < began + seconds
            or not any(spooled.rglob("*.segment"))
            or not enough()
        ):
            assert time.monotonic() < began + 150
            time.sleep(0.02)
        os.kill(worker.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        return answered
    finally:
        worker.kill()
        worker.wait()


@pytest.fixture
def prepared(tmp_path: Path, programs: ModuleType) -> Iterator[Path]:
    programs.prepare(tmp_path)
    yield tmp_path
    shutil.rmtree(ring_folder(tmp_path))


def logged_in(folder: Path, keys: FileKeyring) -> list[str]:
    """The ids in the lake, once all segments have been moved there."""
    lake = DuckLake(Place.of("ducklake:", folder / "lake"), threads=1)
    PredictionDrain(folder / "spool", keys, lake).run_once()
    found = lake.scan("predictions_delays", columns=["prediction_id"]).column(0).to_pylist()
    lake.close()
    return [str(one) for one in found]


def test_whoever_is_killed_every_answered_prediction_is_in_the_log_once(
    prepared: Path, programs: ModuleType
) -> None:
    table = RoutingTable(prepared / "routing")
    table.write(make_release())
    table.flip("delays", "release_1")
    table.close()
    writers: list[subprocess.Popen[bytes]] = []

    def another_writer() -> None:
        if writers:
            os.kill(writers[-1].pid, signal.SIGKILL)
            writers[-1].wait()
        writers.append(subprocess.Popen([*PROGRAM, str(prepared), "writer"]))

    seen = 0

    def three_writers_were_killed() -> bool:
        """Kill a writer whenever it has written something; in the middle of the next."""
        nonlocal seen
        n_segments = len(list((prepared / "spool").rglob("*.segment")))
        if n_segments > seen + 1:
            another_writer()
            seen = len(list((prepared / "spool").rglob("*.segment")))
        return len(writers) > 3

    another_writer()
    try:
        answered = answered_until_killed(
            prepared, seconds=1, ring=True, enough=three_writers_were_killed
        )
    finally:
        writers[-1].kill()
        writers[-1].wait()
    rings = Rings(ring_folder(prepared))
    LogWriter(rings, DirectorySpools(prepared / "spool", programs.keys_of(prepared))).run_once()
    assert rings.tidy() == 0
    rings.close()
    logged = logged_in(prepared, programs.keys_of(prepared))
    assert len(set(logged)) == len(logged)
    assert set(answered) <= set(logged)  # the ring was never full
    assert len(answered) >= 150
    assert list(ring_folder(prepared).glob("*.ring")) == []


@pytest.mark.parametrize("durability", [Durability.REQUEST, Durability.BATCH])
def test_a_killed_worker_loses_nothing_that_its_durability_promised(
    prepared: Path, programs: ModuleType, durability: Durability
) -> None:
    table = RoutingTable(prepared / "routing")
    table.write(make_release(durability=durability))
    table.flip("delays", "release_1")
    answered = answered_until_killed(prepared, seconds=1)  # some flushes, and a moment of one
    logged = logged_in(prepared, programs.keys_of(prepared))
    assert len(set(logged)) == len(logged)
    lost = {one for one in answered if one not in set(logged)}
    assert len(answered) >= 150
    if durability is Durability.REQUEST:
        assert lost == set()
    else:
        # Ids are counted: only the tail that had not been flushed is gone.
        assert logged
        assert all(max(logged) < one for one in lost)
    until = time.monotonic() + 5
    while table.workers() and time.monotonic() < until:
        time.sleep(0.05)
    assert table.workers() == []
    table.close()
