"""Searches and histories by one client: ours over TLS, MLflow's server in clear.

    .venv/bin/python benchmarks/training/searching.py [--size small|full] [--write]

On SQLite and on PostgreSQL: runs of one experiment with 3 metrics, 5 parameters and 3 tags each,
searched by a metric that half of them fit, in the order of that metric, 100 at once; and the
whole history of one metric. Runs are written past the servers, straight into their databases,
for MLflow's server would need an hour for them; the first answers are compared before anything
is timed. The largest size is asked of ours alone.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import partial
from pathlib import Path

sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, report
from sqlalchemy import create_engine, text
from trackers import DATABASES, Tracker, both

METRICS, PARAMS, TAGS = 3, 5, 3
BEGUN = 1_700_000_000_000


def filled(url: str, experiment: str, count: int, *, ours: bool) -> None:
    """Write runs into a server's database."""
    chance = random.Random(7)
    engine = create_engine(url)
    rows = []
    for number in range(count):
        run = f"run_{BEGUN + number:012x}{number:020x}" if ours else f"{number:032x}"
        rows.append((run, BEGUN + number, [chance.random() for _ in range(METRICS)]))
    with engine.begin() as connection:
        for statement, values in (_ours if ours else _theirs)(experiment, rows):
            for start in range(0, len(values), 5_000):
                connection.execute(text(statement), values[start : start + 5_000])
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))
    engine.dispose()


def _ours(experiment, rows):
    yield (
        "INSERT INTO runs (id, experiment_id, workspace, name, state, started_at, started_by,"
        " open_ended) VALUES (:run, :experiment, 'default', 'owl', 'finished', :at,"
        " 'service:trainer', TRUE)",
        [{"run": run, "experiment": experiment, "at": at * 1000} for run, at, _ in rows],
    )
    yield (
        "INSERT INTO catalog_assets (kind, key, description, owner, tags, attributes, version,"
        " created_at, created_by, updated_at, searched) VALUES ('run', :run, '',"
        " 'service:trainer', '[]', :told, 1, :at, 'service:trainer', :at, '')",
        [{"run": run, "at": at * 1000, "told": '{"workspace": "default"}'} for run, at, _ in rows],
    )
    yield (
        "INSERT INTO run_latest_metrics (run_id, key, step, at, value, is_nan)"
        " VALUES (:run, :key, 0, :at, :value, FALSE)",
        [
            {"run": run, "key": f"m{place}", "at": at * 1000, "value": value}
            for run, at, values in rows
            for place, value in enumerate(values)
        ],
    )
    for table, n in (("run_params", PARAMS), ("run_tags", TAGS)):
        yield (
            f"INSERT INTO {table} (run_id, key, value) VALUES (:run, :key, 'x')",
            [{"run": run, "key": f"k{place}"} for run, _, _ in rows for place in range(n)],
        )


def _theirs(experiment, rows):
    yield (
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
        " status, start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
        " VALUES (:run, 'owl', 'LOCAL', '', '', 'amina', 'FINISHED', :at, '', 'active', '',"
        " :experiment)",
        [{"run": run, "experiment": int(experiment), "at": at} for run, at, _ in rows],
    )
    yield (
        "INSERT INTO latest_metrics (run_uuid, key, step, timestamp, value, is_nan)"
        " VALUES (:run, :key, 0, :at, :value, :nan)",
        [
            {"run": run, "key": f"m{place}", "at": at, "value": value, "nan": False}
            for run, at, values in rows
            for place, value in enumerate(values)
        ],
    )
    for table, n in (("params", PARAMS), ("tags", TAGS)):
        yield (
            f"INSERT INTO {table} (run_uuid, key, value) VALUES (:run, :key, 'x')",
            [{"run": run, "key": f"k{place}"} for run, _, _ in rows for place in range(n)],
        )


def search(tracker: Tracker, experiment: str, where: str, order: list[str]) -> list[float]:
    """The metric of the runs on the first page."""
    asked = {"experiment_ids": [experiment], "filter": where, "order_by": order,
             "max_results": 100}  # fmt: skip
    found = json.loads(tracker.post("runs/search", asked))["runs"]
    return [
        next(one["value"] for one in run["data"]["metrics"] if one["key"] == "m0") for run in found
    ]


QUESTIONS = (
    ("search by metric, in its order", "metrics.m0 < 0.5", ["metrics.m0 ASC"]),
    ("search in the order of a metric", "", ["metrics.m0 DESC"]),
    ("search by metric and parameter, newest first", "metrics.m0 < 0.5 AND params.k1 = 'x'", []),
)


def with_history(tracker: Tracker, experiment: str, count: int) -> str:
    """The id of a new run with so many points of one metric."""
    run = tracker.run(experiment)
    for start in range(0, count, 1000):
        points = [
            {"key": "loss", "value": 1 / (step + 1), "timestamp": BEGUN + step, "step": step}
            for step in range(start, min(start + 1000, count))
        ]
        tracker.post("runs/log-batch", {"run_id": run, "metrics": points})
    tracker.post("runs/update", {"run_id": run, "status": "FINISHED"})
    return run


def p50(seconds: list[float]) -> float:
    """Milliseconds."""
    return median(seconds) * 1e3


def timed(database: str, n_runs: int, n_points: int, rounds: int) -> list[Row]:
    """Rows of one database, ours beside MLflow's."""
    rows = []
    with both(database) as (ours, theirs):
        homes = {}
        for tracker in (ours, theirs):
            tracker.anew()
            homes[tracker.name] = tracker.experiment("timed")
            filled(tracker.database, homes[tracker.name], n_runs, ours=tracker is ours)
        for work, where, order in QUESTIONS:
            works = []
            for tracker in (ours, theirs):
                tracker.anew()
                works.append(partial(search, tracker, homes[tracker.name], where, order))
            if works[0]() != works[1]():
                raise SystemExit(f"the two servers find different runs: {work}")
            mine, peer = map(p50, in_turn(*works, rounds=rounds))
            rows.append(
                Row(f"{work}, {database}, p50", f"{n_runs:,} runs", "ms", mine, peer, "MLflow",
                    goal="≥ 10 times, ≤ 30 ms", met=peer >= 10 * mine and mine <= 30)
            )  # fmt: skip
        works = []
        for tracker in (ours, theirs):
            tracker.anew()
            run = with_history(tracker, homes[tracker.name], n_points)
            ours.anew()
            works.append(partial(tracker.get, f"metrics/get-history?run_id={run}&metric_key=loss"))
        theirs.anew()
        found = [json.loads(work())["metrics"] for work in works]
        told = [[(one["step"], one["value"]) for one in one_side] for one_side in found]
        if told[0] != told[1]:
            raise SystemExit("the two servers keep different histories")
        ours.anew()
        mine, peer = map(p50, in_turn(*works, rounds=rounds))
        rows.append(
            Row(f"history of a metric, {database}, p50", f"{n_points:,} points", "ms", mine, peer,
                "MLflow", goal="≥ 10 times, ≤ 30 ms", met=peer >= 10 * mine and mine <= 30)
        )  # fmt: skip
    return rows


def alone(database: str, n_runs: int, rounds: int) -> list[Row]:
    """Rows of ours alone, with many runs."""
    from trackers import ours_on

    rows = []
    with ours_on(database) as ours:
        experiment = ours.experiment("timed")
        filled(ours.database, experiment, n_runs, ours=True)
        ours.anew()
        for work, where, order in QUESTIONS:
            seconds = []
            for _ in range(rounds + 1):
                started = time.perf_counter()
                search(ours, experiment, where, order)
                seconds.append(time.perf_counter() - started)
            mine = p50(seconds[1:])
            rows.append(
                Row(f"{work}, {database}, p50", f"{n_runs:,} runs", "ms", mine, goal="≤ 100 ms",
                    met=mine <= 100)
            )  # fmt: skip
    return rows


def main() -> None:
    given = arguments(__doc__ or "")
    small = given.size == "small"
    n_runs, n_points, many, rounds = (
        (1_000, 10_000, 10_000, 5) if small else (10_000, 100_000, 100_000, 15)
    )
    rows = []
    for database in DATABASES:
        rows += timed(database, n_runs, n_points, rounds)
    for database in DATABASES:
        rows += alone(database, many, rounds)
    report("training", "Search and history by MLflow's API, one client", rows, given)


if __name__ == "__main__":
    main()
