"""What sealing costs: a file sealed and opened, against a plain copy of it.

Each round copies, seals and opens the same file in turn, on the same disk, every target
synced; medians of the rounds. The answer is checked before anything is timed. A payload in
memory is compared with hashing it, the least that reading all of it costs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report

from falaj.kernel.clock import SystemClock
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.sealing import FRAME_BYTES, open_bytes, open_stream, seal_bytes, seal_stream

MB = 2**20
GOALS = {"seal": 1.25, "open": 1.35}
"""The most times that a plain copy may take."""
VERSIONS = {"cryptography": version("cryptography")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    sizes = [16, 64, 256] if given.size == "small" else [64, 256, 1024]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        keys = FileKeyring.create(
            place / "keys.json", MachineSeal.create(place / "secret"), clock=SystemClock()
        )
        rows = [row for size in sizes for row in measured(place, keys, size)]
        rows += small(keys)
    report("trust", "Sealing files and payloads", rows, given)


def measured(place: Path, keys: FileKeyring, size: int) -> list[Row]:
    """Seal and open one file of ``size`` MB, against copying it."""
    clear, sealed, back = place / "clear", place / "sealed", place / "back"
    with clear.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MB))

    def seal() -> None:
        through(clear, sealed, lambda a, b: seal_stream(a, b, keys, context="bench"))

    def opened() -> None:
        through(sealed, back, lambda a, b: open_stream(a, b, keys, context="bench"))

    seal()
    opened()
    if digest(clear) != digest(back):
        sys.exit("the opened file is not the sealed one")
    copies, seals, openings = in_turn(
        lambda: through(clear, back, copied), seal, opened, rounds=5, warm=0
    )
    copy = median(copies)
    return [
        row(work, f"{size} MB", median(taken), copy)
        for work, taken in (("seal", seals), ("open", openings))
    ]


def row(work: str, size: str, ours: float, copy: float) -> Row:
    """One row about files."""
    return Row(
        f"{work} a file",
        size,
        "s",
        ours,
        floor=copy,
        goal=f"≤ {GOALS[work]} × a plain copy",
        met=ours <= GOALS[work] * copy,
        versions=VERSIONS,
    )


def small(keys: FileKeyring) -> list[Row]:
    """Seal and open a payload of 1 KB in memory, against hashing it."""
    data, count = os.urandom(1024), 2000
    sealed = seal_bytes(data, keys, context="bench")
    works = {
        "seal_bytes": lambda: seal_bytes(data, keys, context="bench"),
        "open_bytes": lambda: open_bytes(sealed, keys, context="bench"),
    }
    floor = timed(lambda: hashlib.sha256(data).digest(), count) * 1e6
    return [
        Row(name, "1 KB", "µs", timed(work, count) * 1e6, floor=floor, versions=VERSIONS)
        for name, work in works.items()
    ]


def timed(work: Callable[[], object], count: int) -> float:
    """Seconds for one call."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count


def through(source: Path, target: Path, work: Callable[..., object]) -> None:
    """From one file to another, synced."""
    target.unlink(missing_ok=True)
    with source.open("rb") as a, target.open("wb") as b:
        work(a, b)
        b.flush()
        os.fsync(b.fileno())


def copied(source: object, target: object) -> None:
    """A plain copy in frames of the same size, into one buffer."""
    room = memoryview(bytearray(FRAME_BYTES))
    while count := source.readinto(room):  # type: ignore[attr-defined]
        target.write(room[:count])  # type: ignore[attr-defined]


def digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


if __name__ == "__main__":
    main()
