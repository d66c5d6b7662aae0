"""What sealing costs: a file sealed and opened, against a plain copy of it.

Run ``python benchmarks/trust/sealing.py [--size small|full]``. Each round copies, seals
and opens the same file in turn, on the same disk, every target synced; medians of the
rounds. The answer is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from falaj.kernel.clock import SystemClock
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.sealing import FRAME_BYTES, open_bytes, open_stream, seal_bytes, seal_stream

MB = 2**20
GOALS = {"seal": 1.25, "open": 1.35}
RESULTS = Path("benchmarks/results/trust-sealing.json")


def main() -> None:
    """Measure, print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on which disk")
    arguments = parser.parse_args()
    sizes = [16, 64, 256] if arguments.size == "small" else [64, 256, 1024]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        place = Path(folder)
        keys = FileKeyring.create(
            place / "keys.json", MachineSeal.create(place / "secret"), clock=SystemClock()
        )
        rows = [row for size in sizes for row in measured(place, keys, size, arguments.rounds)]
        rows += small(keys)
    print(f"{'work':<12}{'size':>10}{'ours':>12}{'peer':>12}{'ratio':>8}{'goal':>7}")
    for row in rows:
        print(
            f"{row['work']:<12}{row['size']:>10}{row['ours']:>12.4g}{row['peer']:>12.4g}"
            f"{row['ratio']:>8.2f}{row['goal'] or '':>7}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1))


def measured(place: Path, keys: FileKeyring, size: int, rounds: int) -> list[dict[str, object]]:
    """Seal and open one file of ``size`` MB, against copying it."""
    clear, sealed, back = place / "clear", place / "sealed", place / "back"
    with clear.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MB))
    through(clear, sealed, lambda a, b: seal_stream(a, b, keys, context="bench"))
    through(sealed, back, lambda a, b: open_stream(a, b, keys, context="bench"))
    if digest(clear) != digest(back):
        sys.exit("the opened file is not the sealed one")
    times: dict[str, list[float]] = {"copy": [], "seal": [], "open": []}
    for _ in range(rounds):
        times["copy"].append(through(clear, back, copied))
        times["seal"].append(
            through(clear, sealed, lambda a, b: seal_stream(a, b, keys, context="bench"))
        )
        times["open"].append(
            through(sealed, back, lambda a, b: open_stream(a, b, keys, context="bench"))
        )
    copy = statistics.median(times["copy"])
    return [
        row(work, f"{size} MB", "s", statistics.median(times[work]), copy, "plain copy")
        for work in ("seal", "open")
    ]


def small(keys: FileKeyring) -> list[dict[str, object]]:
    """Seal and open a payload of 1 KB in memory, against hashing it."""
    data, count = os.urandom(1024), 2000
    sealed = seal_bytes(data, keys, context="bench")
    seal = timed(lambda: seal_bytes(data, keys, context="bench"), count)
    opened = timed(lambda: open_bytes(sealed, keys, context="bench"), count)
    floor = timed(lambda: hashlib.sha256(data).digest(), count)
    return [
        row("seal_bytes", "1 KB", "us", seal * 1e6, floor * 1e6, "SHA-256 of it"),
        row("open_bytes", "1 KB", "us", opened * 1e6, floor * 1e6, "SHA-256 of it"),
    ]


def timed(work: Callable[[], object], count: int) -> float:
    """Seconds for one call."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count


def through(source: Path, target: Path, work: Callable[..., object]) -> float:
    """Seconds to get from one file to another, synced."""
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    with source.open("rb") as a, target.open("wb") as b:
        work(a, b)
        b.flush()
        os.fsync(b.fileno())
    return time.perf_counter() - started


def copied(source: object, target: object) -> None:
    """A plain copy in frames of the same size, into one buffer."""
    room = memoryview(bytearray(FRAME_BYTES))
    while count := source.readinto(room):  # type: ignore[attr-defined]
        target.write(room[:count])  # type: ignore[attr-defined]


def digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def row(
    work: str, size: str, unit: str, ours: float, peer: float, peer_name: str
) -> dict[str, object]:
    """One row of the results."""
    goal = GOALS.get(work)
    return {
        "work": work,
        "size": size,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "floor": peer,
        "ratio": ours / peer,
        "goal": goal,
        "met": goal is None or ours / peer <= goal,
        "versions": {"cryptography": version("cryptography"), "python": sys.version.split()[0]},
    }


if __name__ == "__main__":
    main()
