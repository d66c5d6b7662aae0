"""What a durable step of a pipeline costs: ours, DBOS's, and a journal on SQLite as the floor.

DBOS runs in an environment of its own (``.venv-peers/dbos``), made by this script if it can be
installed; its steps are functions of its own process. Ours run in a confined process beside the
worker, and are recorded in the metadata database with the proof that the lease is held.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import ROOT, Row, arguments, median, report

from falaj.interfaces.platform import near
from falaj.kernel.jobs import Worker
from falaj.kernel.settings import Settings
from falaj.training.pipelines.model import FromStep, Pipeline, PipelineStep
from falaj.wiring.assembly import assemble
from falaj.wiring.setup import initialise

SIZES = {"small": (50, 3), "full": (200, 7)}
PEER = ROOT / ".venv-peers" / "dbos"
PEER_PROGRAM = """
import json, sys, time
from dbos import DBOS, DBOSConfig

folder, n, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config: DBOSConfig = {"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
                      "run_admin_server": False, "log_level": "ERROR"}
DBOS(config=config)

@DBOS.step()
def nothing():
    return None

@DBOS.workflow()
def chain(n):
    for _ in range(n):
        nothing()

DBOS.launch()
chain(n)
found = []
for _ in range(rounds):
    started = time.perf_counter()
    chain(n)
    found.append((time.perf_counter() - started) / n * 1e3)
from importlib.metadata import version
print(json.dumps({"ms": found, "version": version("dbos")}))
DBOS.destroy()
"""


def ours(folder: Path, n: int, rounds: int) -> list[float]:
    """Milliseconds a step: a chain of n no-op steps, without its begin and its end."""
    initialise(Settings.read(folder), owner="bench")
    made = assemble(Settings.read(folder))
    steps = tuple(
        PipelineStep(
            name=f"s{number}",
            function="nothing",
            source="def nothing(before=None):\n    return None\n",
            takes={"before": FromStep(step=f"s{number - 1}")} if number else {},
            cached=False,
        )
        for number in range(n)
    )
    one = Pipeline(name="one", steps=steps[:1])
    many = Pipeline(name="many", steps=steps)
    found = []
    try:
        with near(made) as platform:
            platform.definitions.apply([one.document(), many.document()])
            worker = Worker(made.jobs, made.handlers, name="bench")
            for number in range(rounds + 1):
                seconds = {}
                for name in ("one", "many"):
                    run = platform.pipelines.run(name)
                    started = time.perf_counter()
                    worker.run_one()
                    seconds[name] = time.perf_counter() - started
                    if platform.pipelines.get(run.id).state != "done":
                        raise RuntimeError("the run is not done")
                if number:
                    found.append((seconds["many"] - seconds["one"]) / (n - 1) * 1e3)
    finally:
        made.close()
    return found


def floor(folder: Path, n: int, rounds: int) -> list[float]:
    """Milliseconds an entry of a journal that is synced to disk with each."""
    journal = sqlite3.connect(folder / "journal.db", isolation_level=None)
    journal.execute("PRAGMA journal_mode=WAL")
    journal.execute("PRAGMA synchronous=FULL")
    journal.execute("CREATE TABLE steps (run INTEGER, step INTEGER, at REAL)")
    found = []
    for number in range(rounds):
        started = time.perf_counter()
        for step in range(n):
            journal.execute("BEGIN IMMEDIATE")
            journal.execute("INSERT INTO steps VALUES (?, ?, ?)", (number, step, time.time()))
            journal.execute("COMMIT")
        found.append((time.perf_counter() - started) / n * 1e3)
    journal.close()
    return found


def peer(folder: Path, n: int, rounds: int) -> tuple[list[float], str] | None:
    """Milliseconds a step of DBOS on SQLite; None if it cannot be had here."""
    python = PEER / "bin" / "python"
    uv = ROOT / ".venv" / "bin" / "uv"
    if not python.exists():
        made = [[str(uv), "venv", "--quiet", "--python", sys.executable, str(PEER)],
                [str(uv), "pip", "install", "-q", "--python", str(python), "dbos"]]  # fmt: skip
        for command in made:
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
    done = subprocess.run(
        [str(python), "-c", PEER_PROGRAM, str(folder), str(n), str(rounds)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    if done.returncode:
        print(done.stderr[-500:])
        return None
    told = json.loads(done.stdout.splitlines()[-1])
    return told["ms"], told["version"]


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    n, rounds = SIZES[given.size]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        bare = floor(folder, n, rounds)
        other = peer(folder, n, rounds)
        mine = ours(folder, n, rounds)
    value = median(mine)
    versions = {} if other is None else {"dbos": other[1]}
    size = f"{n} steps"
    rows = [
        Row("a durable no-op step", size, "ms", value, floor=median(bare), goal="≤ 2 ms",
            met=value <= 2, versions=versions),
    ]  # fmt: skip
    if other is not None:
        rows.append(
            Row("a durable no-op step", size, "ms", value, peer=median(other[0]),
                peer_name=f"DBOS {other[1]} on SQLite", versions=versions)
        )  # fmt: skip
    report("training", "Steps of pipelines", rows, given)


if __name__ == "__main__":
    main()
