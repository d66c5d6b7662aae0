"""Releases switched once a second under full load: errors, stale answers and latency.

Three real releases of one endpoint, of two models that score differently, are activated in
turn as the action does it: the bundle is verified, every worker builds and warms the plan,
then all switch. Each of them was replaced two switches ago, so no worker has it in memory;
its trees are kept on the machine (ADR 0070), but for the first time that each is loaded.
Then two of them take turns: that is a rollback, for which a worker keeps the plan that served
before. ``wrk`` keeps 16 connections busy meanwhile; beside it a checker asks at a
steady pace and looks into each answer: a release that had been replaced before the request
was sent is stale, and every tenth score is compared with what that release must say. Quiet
is the same load, checker included, without switches; it is measured before and after. The
switches are made on the client's core, where they slow the load's client down too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report
from stand import ours
from stand.checker import BEGUN, RETURNED, Switches
from stand.classifier import Classifier, make_classifier, scores_of
from stand.load import Load, Measured, client_name
from stand.processes import ServerProcess, cores

CONNECTIONS, PAUSE_SECONDS = 16, 1.0
MOST_TIMES = 2
WORK = "switch of release, 1 a second, under full load"
BACK = "the same, back to the release before"


@dataclass
class Phase:
    """What one stretch of load saw."""

    measured: Measured
    checked: dict[str, Any]
    switches: list[float]
    """Seconds of each switch."""


class Trial:
    """One worker, three releases of two models, and the load."""

    def __init__(self, platform: ours.Platform, models: list[Classifier], folder: Path) -> None:
        self._platform, self._folder = platform, folder
        platform.keep(models[1], "bench", 2)
        self._releases = [platform.deploy("bench", version) for version in (1, 2, 1)]
        platform.activate(self._releases[0])
        rows = models[0].rows
        self.asked = ours.body_requests(rows, platform).now()
        self._told = folder / "told.json"
        self._told.write_text(
            json.dumps(
                {
                    "asked": [one.decode("latin-1") for one in self.asked],
                    "releases": [one.id for one in self._releases],
                    "scores": [scores_of(one.onnx, rows).tolist() for one in (*models, models[0])],
                }
            )
        )
        self._switches = Switches(folder / "switches")

    def phase(
        self, server: ServerProcess, core: int, seconds: float, order: tuple[int, ...] = (0,)
    ) -> Phase:
        """A stretch of load, with switches to the releases in this order or without."""
        stopped, taken = threading.Event(), []
        self._platform.activate(self._releases[order[0]])
        self._count, self._order, switch = 0, order, len(order) > 1
        self._switches.words[BEGUN] = self._switches.words[RETURNED] = 0

        def work() -> None:
            # The load must not wait for what the control plane does on its core.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            while not stopped.wait(max(0.0, PAUSE_SECONDS - (taken[-1] if taken else 0.0))):
                taken.append(self._switch())

        command = [sys.executable, "-m", "stand.checker", "--told", str(self._told)]
        command += ["--switches", str(self._folder / "switches"), "--port", str(server.port)]
        command += ["--core", str(core), "--seconds", str(seconds)]
        command += ["--order", ",".join(map(str, order))]
        checker = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        thread = threading.Thread(target=work)
        if switch:
            thread.start()
        try:
            measured = Load(server.port, self.asked, core=core).run(CONNECTIONS, seconds)
        finally:
            stopped.set()
            if switch:
                thread.join()
            output, _ = checker.communicate(timeout=60)
        return Phase(measured, json.loads(output), taken)

    def _switch(self) -> float:
        began = time.perf_counter()
        self._count += 1
        self._switches.words[BEGUN] = self._count
        self._platform.activate(self._releases[self._order[self._count % len(self._order)]])
        self._switches.words[RETURNED] = self._count
        return time.perf_counter() - began


def measure(folder: Path, *, seconds: float) -> list[Row]:
    """Quiet, switching, quiet again; the rows of the table."""
    server_core, client_core = cores()
    (folder / "second").mkdir()
    models = [make_classifier(folder), make_classifier(folder / "second", seed=8)]
    with ours.opened(folder / "ours") as platform:
        ours.in_the_body(platform, models[0])
        trial = Trial(platform, models, folder)
        with ours.worker(platform, trial.asked[0], core=server_core) as server:
            os.sched_setaffinity(0, {client_core})
            Load(server.port, trial.asked, core=client_core).run(CONNECTIONS, 2)
            before = trial.phase(server, client_core, seconds / 2)
            busy = trial.phase(server, client_core, seconds, (0, 1, 2))
            back = trial.phase(server, client_core, seconds / 2, (0, 1))
            after = trial.phase(server, client_core, seconds / 2)
    quiet = [before, after]
    return rows_of(WORK, busy, quiet) + rows_of(BACK, back, quiet)


def rows_of(work: str, busy: Phase, quiet: list[Phase]) -> list[Row]:
    """The rows of the table."""
    told = {"client": client_name()}
    size = f"{len(busy.switches)} switches in {busy.measured.seconds:.0f} s"
    p99 = median([one.measured.p99_ms for one in quiet])
    rate = median([one.measured.rate for one in quiet])
    checked = busy.checked
    errors = busy.measured.errors + checked["errors"]
    if checked["first_errors"]:
        print(checked["first_errors"], file=sys.stderr)
    bad = checked["stale"] + checked["wrong"]
    return [
        Row(f"{work}: errors", f"{size}, {busy.measured.n + checked['n']:,} answers", "answers",
            errors, goal="0", met=errors == 0, versions=told),
        Row(f"{work}: stale answers, or a score of another model",
            f"{size}, {checked['n']:,} answers checked", "answers", bad, goal="0",
            met=bad == 0 and checked["n"] > 0 and len(busy.switches) > 0, versions=told),
        Row(work, size, "p99 ms", busy.measured.p99_ms, p99, "ours, quiet",
            goal=f"≤ {MOST_TIMES} times quiet", met=busy.measured.p99_ms <= MOST_TIMES * p99,
            versions=told),
        Row(work, size, "p50 ms", busy.measured.p50_ms,
            median([one.measured.p50_ms for one in quiet]), "ours, quiet", versions=told),
        Row(work, size, "requests/s", busy.measured.rate, rate, "ours, quiet", better="more",
            versions=told),
        Row(f"{work}: one switch", size, "ms, median",
            median(busy.switches) * 1e3, versions=told),
    ]  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), seconds=10.0 if given.size == "small" else 60.0)
    report("serving", "Switching releases under load", rows, given)


if __name__ == "__main__":
    main()
