"""A worker and its log writer under load for long: memory stays flat, nothing fails."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from falaj.serving.rings import ring_folder
from falaj.serving.routing import RoutingTable
from falaj.testing.serving import make_release

SECONDS = float(os.environ.get("FALAJ_SOAK_SECONDS", "7200"))
PROGRAM = [sys.executable, str(Path(__file__).with_name("serving_programs.py"))]


def resident_megabytes(pid: int) -> float:
    """Memory of the process's own: a ring is touched page by page, and shared."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


async def ask_until(port: int, until: float, counts: dict[str, int]) -> None:
    """One connection that asks again as soon as it is answered; counts what it hears."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.monotonic() < until:
        number += 1
        bad = number % 1_000 == 0  # a refused request must leave nothing behind either
        row = {"a": number % 97 / 7, "b": "no number" if bad else 1.0, "c": -1.0}
        body = json.dumps({"inputs": [row]}).encode()
        writer.write(
            b"POST /v1/endpoints/delays/predict HTTP/1.1\r\nhost: a\r\n"
            b"authorization: Bearer user:amina\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        status = head[9:12].decode()
        wanted = "400" if bad else "200"
        counts[status if status == wanted else f"unwanted {status}"] += 1
    writer.close()


@pytest.mark.nightly
@pytest.mark.timeout(SECONDS + 300)
def test_hours_of_load_and_of_switched_releases_leave_memory_flat(
    tmp_path: Path, programs: ModuleType
) -> None:
    programs.prepare(tmp_path)
    table = RoutingTable(tmp_path / "routing")
    for number in (1, 2):
        table.write(make_release(f"release_{number}"))
    table.flip("delays", "release_1")
    writer = subprocess.Popen([*PROGRAM, str(tmp_path), "writer"])
    worker = subprocess.Popen([*PROGRAM, str(tmp_path), str(tmp_path / "port"), "ring"])
    counts: Counter[str] = Counter()
    seen: list[tuple[float, float]] = []

    async def load() -> None:
        port = int((tmp_path / "port").read_text())
        until = time.monotonic() + SECONDS
        asking = [asyncio.ensure_future(ask_until(port, until, counts)) for _ in range(16)]
        switches = 0
        while time.monotonic() < until:
            await asyncio.sleep(min(5.0, SECONDS / 40))
            switches += 1
            table.flip("delays", f"release_{1 + switches % 2}")
            seen.append((resident_megabytes(worker.pid), resident_megabytes(writer.pid)))
            for segment in (tmp_path / "spool").rglob("*.segment"):
                segment.unlink()  # as the drain would: the disk must not fill
        await asyncio.gather(*asking)

    try:
        while not (tmp_path / "port").exists():
            assert worker.poll() is None
            time.sleep(0.05)
        asyncio.run(load())
        assert worker.poll() is None
        assert writer.poll() is None
    finally:
        for process in (worker, writer):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        shutil.rmtree(ring_folder(tmp_path))
        table.close()
    assert counts["200"] > 100 * SECONDS
    assert [status for status in counts if status.startswith("unwanted")] == []
    quarter = len(seen) // 4
    for which in (0, 1):
        early = max(one[which] for one in seen[quarter : 2 * quarter])
        late = max(one[which] for one in seen[-quarter:])
        assert late <= early * 1.05 + 8, (which, early, late)
