"""Single-row predictions over HTTP, features in the body: our worker against model servers.

All serve the same LightGBM classifier (300 trees, 20 features) on one pinned core; the load
comes from the other core. Ours verifies an Ed25519 token, asks the Cedar policy, checks
every field, writes the sealed prediction log and counts; the peers do none of that, and
each runs at its best setting for one core. A thousand distinct rows are sent in turn; the
scores of all are compared before anything is timed; who is not measured is stopped.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report
from stand import ours
from stand.classifier import make_classifier
from stand.load import Load
from stand.peers import PEERS
from stand.processes import cores
from stand.turns import CPU, P99, Contestant, agreed, measured, our_score, started, table, versions

CONNECTIONS = (1, 16, 64)
TIMES = {"mlserver": 12, "fastapi": 4}
MOST_CPU_US, MOST_P99_MS = 30, 3
WORK = "one row, JSON, features in the body"


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """All servers in turn; the rows of the table."""
    server_core, client_core = cores()
    classifier = make_classifier(folder)
    with (
        ours.opened(folder / "ours") as platform,
        started(
            PEERS, folder, classifier.rows, classifier.scores, server_core, client_core
        ) as peers,
    ):
        ours.in_the_body(platform, classifier)
        asked = ours.body_requests(classifier.rows, platform)
        with ours.worker(platform, asked.now()[0], core=server_core) as server:
            load = Load(server.port, asked, core=client_core)
            agreed("ours", load, our_score, classifier.scores)
            mine = Contestant("ours", server, load)
            measured([mine, *peers.values()], CONNECTIONS, rounds=rounds, seconds=seconds)
        told = versions(PEERS) | {name: version(name) for name in ("onnxruntime", "uvloop")}
        rows = table(WORK, mine, peers, CONNECTIONS, told, times=TIMES)
        lost = platform.unlogged("bench")
    for row in rows:
        if row.work == WORK and row.size == "16 connections":
            if row.unit == CPU:
                row.goal, row.met = f"≤ {MOST_CPU_US} µs", row.ours <= MOST_CPU_US
            elif row.unit == P99:
                row.goal, row.met = f"≤ {MOST_P99_MS} ms", row.ours <= MOST_P99_MS
    rows.append(
        Row(
            f"{WORK}: answered but not logged",
            "whole run",
            "predictions",
            lost,
            goal="0",
            met=lost == 0,
            versions=told,
        )
    )
    return rows


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 1.0) if given.size == "small" else (5, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Single-row predictions over HTTP, one server core", rows, given)


if __name__ == "__main__":
    main()
