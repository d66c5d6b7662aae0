"""What every benchmark shares: rounds in turn, medians, a table, rows as JSON, a page.

A benchmark is a script ``benchmarks/<room>/<name>.py`` that builds ``Row`` objects and
calls ``report``. Ours and the peer run in turn in one process on the same cores; what is
reported is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass
class Row:
    """One measured piece of work.

    ``better`` is ``less`` (a duration) or ``more`` (a rate); ``ratio`` is how many times
    better ours is than the peer (or the floor), by that measure.
    """

    work: str
    size: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    floor: float | None = None
    goal: str = ""
    met: bool | None = None
    better: str = "less"
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        other = self.peer if self.peer is not None else self.floor
        if other is None or not self.ours or not other:
            return None
        return other / self.ours if self.better == "less" else self.ours / other


def arguments(description: str) -> argparse.Namespace:
    """``--size small|full`` and ``--write`` (into docs/benchmarks.md)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    return parser.parse_args()


def in_turn(*works: Callable[[], Any], rounds: int = 5, warm: int = 1) -> list[list[float]]:
    """Seconds of each work in each round; the works take turns, so drift hits all alike."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(rounds + warm):
        for index, work in enumerate(works):
            started = time.perf_counter()
            work()
            if number >= warm:
                seconds[index].append(time.perf_counter() - started)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def peak_megabytes() -> float:
    """The greatest resident size of this process so far, in MB.

    ``ru_maxrss`` would count what the parent held when it started this process.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(room: str, title: str, rows: Sequence[Row], given: argparse.Namespace) -> None:
    """Print the table, write the JSON rows, and with ``--write`` the page's section."""
    lines = _table(rows)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"\n{title} ({machine}; peak {peak_megabytes():.0f} MB)\n")
    print("\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{room}.json"
    known = json.loads(file.read_text()) if file.exists() else []
    script = Path(sys.argv[0]).stem
    kept = [row for row in known if row.get("script") != script]
    kept += [{**asdict(row), "ratio": row.ratio, "script": script} for row in rows]
    file.write_text(json.dumps(kept, indent=1))
    if given.write:
        _write(room, script, title, lines, machine, given.size)


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| work | size | unit | ours | peer or floor | ratio | goal | met |",
        "|---|---|---|--:|--:|--:|---|---|",
    ]
    for row in rows:
        other = "–"
        if row.peer is not None:
            other = f"{_number(row.peer)} ({row.peer_name})"
        elif row.floor is not None:
            other = f"{_number(row.floor)} (floor)"
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        met = "–" if row.met is None else ("yes" if row.met else "no")
        lines.append(
            f"| {row.work} | {row.size} | {row.unit} | {_number(row.ours)} | {other} | {ratio} "
            f"| {row.goal or '–'} | {met} |"
        )
    return lines


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _write(
    room: str, script: str, title: str, lines: Sequence[str], machine: str, size: str
) -> None:
    begin, end = f"<!-- {room}/{script} -->", f"<!-- /{room}/{script} -->"
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else _HEAD
    section = "\n".join(
        [
            begin,
            f"## {title}",
            "",
            f"`.venv/bin/python benchmarks/{room}/{script}.py --size {size}`; {machine}; "
            f"{datetime.now(UTC):%Y-%m-%d}; falaj {version('falaj')}.",
            "",
            *lines,
            end,
        ]
    )
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + section + rest.split(end, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    PAGE.write_text(text, encoding="utf-8")


_HEAD = """# Benchmarks

Written by the benchmarks themselves (`--write`), never by hand. Each section names its
command. The machines have two shared, noisy cores: read ratios rather than absolute
figures. A ratio above 1 means that ours is better than the peer, or than the floor.
"""
