"""Batch scoring end to end against ONNX Runtime alone, on the same cores.

Ours reads a lake table of 20 float64 features (encrypted Parquet), checks every value, scores a
LightGBM classifier of 300 trees as ONNX and appends ids, scores, variant, model, release and
instants to a lake table, part by part under idempotency keys: the job's own code, on its
processes. The peer is ``session.run`` over float32 blocks that lie in memory, on as many
threads of one run each: it reads nothing and writes nothing. Both are pinned to the same cores
and run in turn; their scores are compared first.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from measuring import Row, median, report
from stand.classifier import N_FEATURES, NAMES, make_model

from falaj.kernel.compute import task

SIZES = {"small": (100_000, 1_000_000), "full": (100_000, 1_000_000, 10_000_000)}
BLOCK = 4_096
GOAL = 0.85
_ROWS_PER_WRITE = 500_000
_SCORERS: dict[str, Any] = {}


def rows_of(n: int, first: int) -> pa.Table:
    """Rows of features that no two of are alike."""
    random = np.random.default_rng(first)
    return pa.table({name: random.normal(size=n) for name in NAMES})


def lake_in(folder: Path) -> Any:
    """The lake of the benchmark."""
    from falaj.lake.adapters.lake_ducklake import DuckLake

    return DuckLake.in_folder(folder / "lake")


def release() -> Any:
    """A release of the model whose inputs all come with the request."""
    from falaj.serving.model import FieldType, Release, RequestField, Variant

    return Release(
        id="release_1",
        endpoint="bench",
        variants=(Variant(model="bench", version=1, bundle="sha256:0"),),
        fields=tuple(RequestField(name=name, type=FieldType.FLOAT) for name in NAMES),
        created_at=datetime.now(UTC),
        created_by="user:bench",
    )


class OneBundle:
    """The only bundle that there is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, digest: str) -> Any:
        from falaj.serving.model import ServableModel

        return ServableModel("onnx", (self._folder / "model.onnx").read_bytes(), tuple(NAMES))


@task
def score_part(item: Any) -> Any:
    """As ``falaj.wiring.scoring.score_part``, with a bundle from the benchmark's folder."""
    from falaj.kernel.clock import SystemClock
    from falaj.serving.adapters.runtime_onnx import OnnxRuntime
    from falaj.serving.adapters.runtime_trees import TreeRuntime
    from falaj.serving.batchinputs import table_batches
    from falaj.serving.batchmodel import ScoreRequest, Slice
    from falaj.serving.batchpart import PartScorer
    from falaj.serving.batchscoring import BatchPlan
    from falaj.serving.compiler import PlanCompiler
    from falaj.training.service import stream_of

    scorer = _SCORERS.get(item["scoring"])
    if scorer is None:
        folder = Path(item["settings"]["folder"])
        lake = lake_in(folder)
        compiler = PlanCompiler(OneBundle(folder), [TreeRuntime(OnnxRuntime(device="cpu"))], None)
        request = ScoreRequest.model_validate(item["request"])
        made = release()

        def opened(part: Slice, columns: list[str]) -> Any:
            return table_batches(lake, part, request.snapshot or 0, columns)

        scorer = _SCORERS[item["scoring"]] = PartScorer(
            request, item["scoring"], made, BatchPlan(compiler.compile(made)), opened, NAMES,
            as_text=False, clock=SystemClock(),
        )  # fmt: skip
    rows = scorer.scored(Slice.model_validate(item["part"]))
    return {
        "rows": stream_of(rows),
        "n_refused": rows.num_rows - rows.column("error").null_count,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


class Run:
    """A job's run without a database: checkpoints are kept in memory."""

    submitted_by = "user:bench"

    def __init__(self, number: int) -> None:
        self.id = f"job_{number:032x}"
        self.checkpoint: Any = None

    def report(self, progress: float, message: str = "") -> None:
        """Nobody listens."""

    def save(self, checkpoint: Any) -> None:
        """Keep it."""
        self.checkpoint = checkpoint


class Job:
    """The handler of scoring jobs on the benchmark's lake, without a catalogue."""

    def __init__(self, folder: Path, lake: Any, slots: int) -> None:
        from falaj.kernel.adapters.compute_local import LocalCompute

        self.lake = lake
        self.peak = 0
        self._slots = slots
        self.compute = LocalCompute(slots)  # its processes are warm after the first round
        given: dict[str, Any] = dict.fromkeys(("calls", "catalog", "files"))
        self._job = _Uncatalogued(
            **given,
            lake=lake,
            compute=lambda: _Kept(self.compute, self),
            score_part=score_part,
            settings={"folder": str(folder)},
            settle=lambda _document: {},
        )

    def scored(self, number: int, table: str, snapshot: int, to: str) -> None:
        """Score a table."""
        arguments = {
            "endpoint": "bench", "release": "release_1", "to": to, "table": table,
            "snapshot": snapshot,
        }  # fmt: skip
        self._job(Run(number), arguments)  # type: ignore[arg-type]


def _uncatalogued() -> type:
    from falaj.serving.batch import ScoreJob

    class Uncatalogued(ScoreJob):
        """The job without its two short transactions on the metadata database."""

        def _release(self, request: Any) -> Any:
            return release()

        def _record(self, *_given: Any, **_more: Any) -> None:
            """There is no catalogue here."""

    return Uncatalogued


_Uncatalogued = _uncatalogued()


class _Kept:
    """A compute that stays open for the next round, and sees what its tasks took."""

    def __init__(self, compute: Any, job: Job) -> None:
        self._compute, self._job = compute, job

    def ordered(self, task: Any, items: Any) -> Iterator[Any]:
        for found in self._compute.ordered(task, items):
            self._job.peak = max(self._job.peak, found["peak_megabytes"])
            yield found

    def close(self) -> None:
        """Later."""


class Peer:
    """ONNX Runtime on blocks in memory."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._sessions = [
            onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
            for _ in range(threads)
        ]
        self._threads = threads

    def scored(self, rows: np.ndarray) -> np.ndarray:
        """The scores of all rows."""
        scores = np.empty(len(rows), np.float32)
        step = -(-len(rows) // self._threads)

        def work(number: int) -> None:
            run = self._sessions[number].run
            for start in range(number * step, min((number + 1) * step, len(rows)), BLOCK):
                end = min(start + BLOCK, (number + 1) * step, len(rows))
                scores[start:end] = run(["probabilities"], {"input": rows[start:end]})[0][:, 1]

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(work, range(self._threads)))
        return scores


def cpu() -> float:
    """CPU seconds of this process and of the children that have ended."""
    return sum(
        one.ru_utime + one.ru_stime
        for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def cpu_of(pid: int) -> float:
    """CPU seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """This process and its children on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(folder: Path, sizes: tuple[int, ...], rounds: int) -> list[Row]:
    """The rows of the table."""
    make_model(folder)
    lake = lake_in(folder)
    cores = sorted(os.sched_getaffinity(0))[:2]
    versions = {name: version(name) for name in ("onnxruntime", "duckdb", "pyarrow")}
    rows: list[Row] = []
    with pinned(cores):
        job, peer = Job(folder, lake, len(cores)), Peer(folder, len(cores))
        number = 0
        for n in sizes:
            table = f"input_{n}"
            for first in range(0, n, _ROWS_PER_WRITE):
                some = min(_ROWS_PER_WRITE, n - first)
                lake.append(table, rows_of(some, first))
            snapshot = lake.latest()
            ours, theirs, ours_cpu, theirs_cpu = [], [], [], []
            for turn in range(rounds + 1):
                number += 1
                before = cpu() + sum(map(cpu_of, job.compute.pids()))
                started = time.perf_counter()
                job.scored(number, table, snapshot, f"output_{number}")
                took = time.perf_counter() - started
                cpu_took = cpu() + sum(map(cpu_of, job.compute.pids())) - before
                peer_took, peer_cpu = _peer(peer, n, lake, f"output_{number}", first=not turn)
                if turn:
                    ours.append(n / took)
                    theirs.append(n / peer_took)
                    ours_cpu.append(cpu_took / n * 1e6)
                    theirs_cpu.append(peer_cpu / n * 1e6)
            rows += _told(n, ours, theirs, ours_cpu, theirs_cpu, versions)
            rows.append(
                Row("peak of a scoring process", f"{n:,} rows", "MB", job.peak, versions=versions)
            )
        job.compute.close()
    return rows


def _peer(peer: Peer, n: int, lake: Any, output: str, *, first: bool) -> tuple[float, float]:
    """Seconds and CPU seconds of the peer; the first time, its scores are compared with ours."""
    took = cpu_took = 0.0
    for begin in range(0, n, _ROWS_PER_WRITE):  # so that its input need not all be in memory
        some = rows_of(min(_ROWS_PER_WRITE, n - begin), begin)
        matrix = np.stack([some.column(name).to_numpy() for name in NAMES], 1).astype(np.float32)
        before, started = cpu(), time.perf_counter()
        scores = peer.scored(matrix)
        took += time.perf_counter() - started
        cpu_took += cpu() - before
        if first:
            found = lake.scan(
                output,
                columns=["score"],
                where=f"row_number >= {begin} AND row_number < {begin + len(matrix)}",
                order_by=["row_number"],
            )
            if not np.array_equal(found.column("score").to_numpy().astype(np.float32), scores):
                raise RuntimeError("ours and the peer give other scores")
    return took, cpu_took


def _told(
    n: int,
    ours: list[float],
    theirs: list[float],
    ours_cpu: list[float],
    theirs_cpu: list[float],
    versions: Mapping[str, str],
) -> list[Row]:
    size, peer_name = f"{n:,} rows x {N_FEATURES}", "ONNX Runtime, in memory"
    rate = Row(
        "batch scoring, lake to lake", size, "rows/s", median(ours), median(theirs), peer_name,
        better="more", versions=dict(versions),
    )  # fmt: skip
    if n >= 10_000_000:
        rate.goal, rate.met = f"≥ {GOAL}", (rate.ratio or 0) >= GOAL
    used = Row(
        "batch scoring, lake to lake", size, "µs CPU/row", median(ours_cpu), median(theirs_cpu),
        peer_name, versions=dict(versions),
    )  # fmt: skip
    return [rate, used]


def blocks(folder: Path) -> None:
    """Print what a row costs ONNX Runtime in blocks of each size, on one thread."""
    import onnxruntime

    make_model(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    rows = np.random.default_rng(1).normal(size=(65_536, N_FEATURES)).astype(np.float32)
    took: dict[int, list[float]] = {}
    for _ in range(3):
        for size in (2**power for power in range(7, 17)):
            started = time.process_time()
            for start in range(0, len(rows), size):
                session.run(["probabilities"], {"input": rows[start : start + size]})
            took.setdefault(size, []).append((time.process_time() - started) / len(rows) * 1e6)
    for size, found in took.items():
        print(f"{size:6} rows a block: {median(found):.2f} µs CPU a row")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--rounds", type=int, help="default: 2 (small), 5 (full)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--blocks", action="store_true", help="only compare sizes of blocks")
    given = parser.parse_args()
    if given.blocks:
        with tempfile.TemporaryDirectory() as folder:
            blocks(Path(folder))
        return
    rounds = given.rounds or (2 if given.size == "small" else 5)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), SIZES[given.size], rounds)
    report("serving", "Batch scoring against ONNX Runtime alone, two cores", rows, given)


if __name__ == "__main__":
    # By name, so that the processes of the compute find the task in a module of that name.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    import batch

    batch.main()
