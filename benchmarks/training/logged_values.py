"""Runs created and metrics logged by one client: ours over TLS, MLflow's server in clear.

    .venv/bin/python benchmarks/training/logged_values.py [--size small|full] [--write]

On SQLite and on PostgreSQL. A batch has 1,000 points of 10 metrics. Each round of each work is
done by ours and by MLflow in turn, each on a fresh run; the rate is that of the median round.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

# This file's own folder comes last: its name is that of a module of the standard library.
sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report
from trackers import DATABASES, Tracker, both

KEYS = 10


def batch(run: str, number: int) -> bytes:
    """A batch of 1,000 points; their steps go on from batch to batch."""
    now = int(time.time() * 1000)
    points = [
        {
            "key": f"metric_{place % KEYS}",
            "value": 1 / (place + 1),
            "timestamp": now,
            "step": number * 1000 + place // KEYS,
        }
        for place in range(1000)
    ]
    return json.dumps({"run_id": run, "metrics": points}).encode()


def batches(tracker: Tracker, experiment: str, count: int) -> float:
    """Seconds of so many batches to a new run."""
    tracker.anew()
    run = tracker.run(experiment)
    bodies = [batch(run, number) for number in range(count)]
    return seconds_of(tracker, "runs/log-batch", bodies)


def metrics(tracker: Tracker, experiment: str, count: int) -> float:
    """Seconds of so many single metrics to a new run."""
    tracker.anew()
    run = tracker.run(experiment)
    now = int(time.time() * 1000)
    bodies = [
        json.dumps(
            {"run_id": run, "key": "loss", "value": 1 / (step + 1), "timestamp": now, "step": step}
        ).encode()
        for step in range(count)
    ]
    return seconds_of(tracker, "runs/log-metric", bodies)


def runs(tracker: Tracker, experiment: str, count: int) -> float:
    """Seconds of so many new runs, with the tags that the client sets."""
    tracker.anew()
    tags = [
        {"key": "mlflow.user", "value": "amina"},
        {"key": "mlflow.source.name", "value": "train.py"},
        {"key": "mlflow.source.type", "value": "LOCAL"},
        {"key": "mlflow.runName", "value": "spare-owl-7"},
    ]
    asked = {"experiment_id": experiment, "start_time": int(time.time() * 1000), "tags": tags,
             "run_name": "spare-owl-7", "user_id": "amina"}  # fmt: skip
    return seconds_of(tracker, "runs/create", [json.dumps(asked).encode()] * count)


def seconds_of(tracker: Tracker, path: str, bodies: list[bytes]) -> float:
    """Seconds of these calls, one after the other; what is before them is not timed."""
    started = time.perf_counter()
    for body in bodies:
        tracker.post(path, body)
    return time.perf_counter() - started


def same(ours: Tracker, theirs: Tracker) -> None:
    """Check that both keep the same points before anything is timed."""
    found = []
    for tracker in (ours, theirs):
        tracker.anew()
        run = tracker.run(tracker.experiment("same"))
        for number in range(2):
            tracker.post("runs/log-batch", batch(run, number))
        address = f"metrics/get-history?run_id={run}&metric_key=metric_3"
        kept = json.loads(tracker.get(address))["metrics"]
        found.append(sorted((one["step"], one["value"]) for one in kept))
    if found[0] != found[1] or len(found[0]) != 200:
        raise SystemExit("the two servers keep different points")


def main() -> None:
    given = arguments(__doc__ or "")
    n_batches, n_calls, rounds = (5, 60, 3) if given.size == "small" else (20, 300, 5)
    rows = []
    for database in DATABASES:
        with both(database) as (ours, theirs):
            same(ours, theirs)
            ours.anew()
            homes = {tracker.name: tracker.experiment("timed") for tracker in (ours, theirs)}
            for work, do, count, goal in (
                ("log-batch of 1,000 metrics, metrics", batches, n_batches, 12),
                ("log-metric, calls", metrics, n_calls, 5),
                ("runs created", runs, n_calls, 5),
            ):
                taken: dict[str, list[float]] = {"ours": [], "MLflow": []}
                for number in range(rounds + 1):  # the first round warms both
                    for tracker in (ours, theirs):
                        spent = do(tracker, homes[tracker.name], count)
                        if number:
                            taken[tracker.name].append(spent)
                each = 1000 * count if do is batches else count
                mine, peer = each / median(taken["ours"]), each / median(taken["MLflow"])
                rows.append(
                    Row(f"{work}, {database}", f"{count} calls", "1/s", mine, peer, "MLflow",
                        goal=f"≥ {goal} times", met=mine >= goal * peer, better="more")
                )  # fmt: skip
    report("training", "Logging by MLflow's API, one client", rows, given)


if __name__ == "__main__":
    main()
