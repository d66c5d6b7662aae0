"""Drift reports: of two Parquet files beside three peers, and of kept sketches.

``drift.py --report A B`` makes one report of two files and prints what it took, so that
ours runs in a process of its own as the peers do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from measuring import ROOT, Row, arguments, median, peak_megabytes, report

N_COLUMNS = 60
PEERS = {"alibi": 5.0, "whylogs": 15.0}
"""How many times faster ours is to be."""
EVIDENTLY_ROWS = 100_000
"""At a million it takes ten times as long, and more memory than a usual machine has."""
START = datetime(2026, 11, 1, tzinfo=UTC)


def one_report(before: str, now: str) -> None:
    """Ours, of two files; what it took as JSON."""
    from falaj.monitoring.tablecolumns import ArrowColumns, ParquetColumns
    from falaj.monitoring.tabledrift import compare_tables
    from falaj.testing.shifts import as_table, steady

    # Imports are not timed, as with the peers: a first report of a few rows loads everything.
    few = ArrowColumns(as_table(steady(100, 1)))
    compare_tables(few, few)
    started, used = time.perf_counter(), time.process_time()
    told = compare_tables(ParquetColumns(before), ParquetColumns(now))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "processor": time.process_time() - used,
                "peak_mb": peak_megabytes(),
                "drifted": told.alarmed,
            }
        )
    )


def run(python: Path, *command: str) -> dict[str, Any] | None:
    """A report in a process of its own; None if it cannot be made there."""
    if not python.exists():
        return None
    done = subprocess.run(
        [str(python), *command], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    if done.returncode:
        print(f"{command}: {done.stderr[-800:]}")
        return None
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def written(folder: str, n: int) -> list[str]:
    """Two files from the same distribution."""
    import pyarrow.parquet as pq

    from falaj.testing.shifts import as_table, steady

    paths = [str(Path(folder) / f"{name}-{n}.parquet") for name in ("reference", "observed")]
    for seed, path in enumerate(paths, start=1):
        pq.write_table(as_table(steady(n, seed)), path, row_group_size=100_000)
    return paths


def of_peer(name: str, paths: list[str]) -> dict[str, Any] | None:
    """A peer's report, in its own environment."""
    python = ROOT / ".venv-peers" / name / "bin" / "python"
    told = run(python, str(Path(__file__).parent / "peers" / "report.py"), name, *paths)
    if told is None:
        print(f"{name} is left out; `make peers` installs it.")
    else:
        print(f"{name}: {told}")
    return told


def of_files(n: int, rounds: int) -> list[Row]:
    """Ours and each peer in turn over the same two files, which hold no drift."""
    ours: list[dict[str, Any]] = []
    peers: dict[str, list[dict[str, Any]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        paths = written(folder, n)
        for _ in range(rounds):
            mine = run(Path(sys.executable), __file__, "--report", *paths)
            if mine is None:
                raise SystemExit("Our own report failed.")
            print(f"ours: {mine}")
            ours.append(mine)
            for name in PEERS:
                told = of_peer(name, paths)
                if told is not None:
                    peers[name].append(told)
    full = n >= 1_000_000
    size = f"{n:,} and {n:,} rows x {N_COLUMNS}"
    seconds = median([one["seconds"] for one in ours])
    memory = max(one["peak_mb"] for one in ours)
    work = "report of two Parquet files"
    rows = [
        Row(work, size, "s", seconds, goal="<= 5 s", met=seconds <= 5 if full else None),
        Row("its peak of memory", size, "MB", memory, goal="<= 500 MB",
            met=memory <= 500 if full else None),
    ]  # fmt: skip
    for name, least in PEERS.items():
        if peers[name]:
            theirs = median([one["seconds"] for one in peers[name]])
            met = theirs >= least * seconds if full else None
            goal = f">= {least:g} times"
            rows.append(Row(work, size, "s", seconds, theirs, name, goal=goal, met=met))
    return rows


def beside_evidently(milliseconds: float) -> list[Row]:
    """A report of kept sketches beside Evidently's of rows."""
    with tempfile.TemporaryDirectory() as folder:
        told = of_peer("evidently", written(folder, EVIDENTLY_ROWS))
    if told is None:
        return []
    ratio = told["processor"] / milliseconds * 1000
    return [
        Row("kept sketches beside Evidently's rows (processor time)",
            f"{EVIDENTLY_ROWS:,} rows x {N_COLUMNS}", "s", milliseconds / 1000,
            told["processor"], "evidently", goal=">= 4,000 times", met=ratio >= 4_000)
    ]  # fmt: skip


def of_kept() -> list[Row]:
    """Reports from an hour of kept minutes, at two loads, and what logging costs."""
    from falaj.kernel.clock import SetClock
    from falaj.kernel.database import Database, metadata
    from falaj.models.reference import statistics_of
    from falaj.monitoring.drift import Drift
    from falaj.monitoring.driftwords import DriftLimits
    from falaj.monitoring.keptsketches import KeptSketches, Key
    from falaj.monitoring.sketches import Bins, Sketch
    from falaj.testing.columns import encoding_of
    from falaj.testing.serving import make_release

    random = np.random.default_rng(0)
    rows: list[Row] = []
    matrix = random.lognormal(size=(100_000, N_COLUMNS)).astype(np.float32)
    statistics = statistics_of(encoding_of(N_COLUMNS), matrix, random.uniform(size=len(matrix)))
    bins = Bins.of(statistics)
    bundle = SimpleNamespace(statistics=statistics, manifest=SimpleNamespace(importance={}))
    release = make_release()
    variant = release.variants[0]
    for load in (100, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            database = Database(f"sqlite:///{folder}/kept.db")
            metadata.create_all(database.engine)
            kept = KeptSketches(database, lambda *_: bins, SetClock(START))
            with database.transaction() as connection:
                for minute in range(60):
                    now = random.lognormal(size=(load, N_COLUMNS)).astype(np.float32)
                    sketch = Sketch.of(bins, now, random.uniform(size=load))
                    at = START + timedelta(minutes=minute)
                    key = Key(release.endpoint, variant.model, variant.version, "champion", at, 60)
                    kept._added(connection, key, sketch)
            drift = Drift(
                SimpleNamespace(), SimpleNamespace(open_bundle=lambda _: bundle),  # type: ignore[arg-type]
                kept, database,
            )  # fmt: skip
            window = (START, START + timedelta(hours=1))

            def work(drift: Drift = drift, window: Any = window) -> None:
                drift.report(release, *window, DriftLimits(wasserstein=0.1))

            took = 1000 * _processor(work)
            rows.append(Row("report of an hour from kept sketches (processor time)",
                            f"{N_COLUMNS} columns, {load:,} rows a minute", "ms", took,
                            goal="<= 5 ms", met=took <= 5))  # fmt: skip
            database.close()
    fifty = random.lognormal(size=(20_000, 50)).astype(np.float32)
    scores = random.uniform(size=len(fifty))
    narrow = Bins.of(statistics_of(encoding_of(50), fifty, scores))

    def log() -> None:
        for start in range(0, len(fifty), 2_000):
            Sketch.of(narrow, fifty[start : start + 2_000], scores[start : start + 2_000])

    a_row = 1e6 * _processor(log) / len(fifty)
    size = len(Sketch.of(narrow, fifty[:2_000], scores[:2_000]).packed()) / 50
    rows.insert(0, Row("sketching a logged row (processor time)", "50 features", "us", a_row,
                       goal="<= 5 us", met=a_row <= 5))  # fmt: skip
    rows.insert(1, Row("a kept minute, of each feature", "2,000 rows", "B", size,
                       goal="<= 300 B", met=size <= 300))  # fmt: skip
    return rows


def _processor(work: Callable[[], None]) -> float:
    """Seconds of processor, the median of rounds after a warm one."""
    taken = []
    for number in range(12):
        started = time.process_time()
        work()
        if number:
            taken.append(time.process_time() - started)
    return median(taken)


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--report"]:
        one_report(*sys.argv[2:4])
        return
    given = arguments(__doc__ or "")
    full = given.size == "full"
    rows = of_files(1_000_000 if full else 100_000, 3 if full else 1)
    rows += of_kept()
    rows += beside_evidently(rows[-1].ours)
    report("monitoring", "Drift reports", rows, given)


if __name__ == "__main__":
    main()
