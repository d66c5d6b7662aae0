"""Overload: an endpoint is asked three times as much as it can answer.

Capacity is what 8 connections in closed loop reach, and normal is the p99 of that load.
Then an open-loop client (random arrivals, many connections) offers three times the
capacity. Requests have 50 rows, so that the model is most of the work and the client, on
its own core, is not the bottleneck: what it sent late, or could not send, is a row of the
table. The endpoint lets requests wait for 7 ms (``queue_seconds``; 200 is the default). What
is refused must be refused with 429 or 503 and Retry-After; a client that was refused often
is read later (``serving.backpressure``), and what it could not send for that is told. Then
fairness: a second endpoint of the same worker gets a tenth of the capacity, alone, and while
the first one is overloaded. Last, requests of a single row from a crowd of 2,048 clients of
``wrk`` that pause for a random while: there a refusal is not much cheaper than an answer.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report
from stand import ours
from stand.classifier import NAMES, make_classifier
from stand.load import HOW_TO_GET_WRK, Crowd, Load, client_name, has_wrk, request
from stand.openloop import Offered, Offering
from stand.processes import cores

AT_CAPACITY = 8
N_ROWS, CONNECTIONS, CROWD, TIMES, SMALL_SHARE = 50, 1_024, 2_048, 3, 0.1
LEAST_GOODPUT, MOST_P99 = 0.9, 3
QUEUE_SECONDS = 0.007
MOST_REFUSED = 0.01
WORK = f"overload, {TIMES} times capacity"


def requests_of(rows: np.ndarray, platform: ours.Platform, name: str) -> list[bytes]:
    """Requests of 50 rows each, all different."""
    named = [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]
    path = f"/v1/endpoints/{name}/predict"
    starts = range(0, len(named) - N_ROWS + 1, 5)
    bearer = platform.bearer()
    return [request(path, {"inputs": named[at : at + N_ROWS]}, headers=bearer) for at in starts]


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Capacity, overload and fairness; the rows of the table."""
    server_core, client_core = cores()
    classifier = make_classifier(folder)
    capacities, normals, loads, alone, beside = [], [], [], [], []
    with ours.opened(folder / "ours") as platform:
        for name in ("bench", "other"):
            ours.in_the_body(platform, classifier, name, queue_seconds=QUEUE_SECONDS)
        asked = requests_of(classifier.rows, platform, "bench")
        others = requests_of(classifier.rows, platform, "other")
        with ours.worker(platform, asked[0], core=server_core) as server:
            os.sched_setaffinity(0, {client_core})

            def offered(what: list[bytes], rate: float) -> Offering:
                return Offering(
                    server.port, what, folder, rate=rate, seconds=seconds,
                    connections=CONNECTIONS if what is asked else 256, core=client_core,
                )  # fmt: skip

            load = Load(server.port, asked, core=client_core)
            load.run(AT_CAPACITY, 1)
            for _ in range(rounds):
                measured = load.run(AT_CAPACITY, seconds)
                if measured.errors > MOST_REFUSED * measured.n:  # a moment's hiccup may do so
                    raise RuntimeError(
                        f"{measured.errors} of {measured.n} answers at capacity are errors"
                    )
                capacities.append(measured.rate)
                normals.append(measured.p99_ms)
                capacity = measured.rate
                loads.append(offered(asked, TIMES * capacity).result())
                alone.append(offered(others, SMALL_SHARE * capacity).result())
                crowd = offered(asked, TIMES * capacity)
                beside.append(offered(others, SMALL_SHARE * capacity).result())
                loads.append(crowd.result())
            rows = rows_of(capacities, normals, loads[::2], alone, beside)
            if has_wrk():
                single = ours.body_requests(classifier.rows, platform)
                load = Load(server.port, single, core=client_core)
                rows += crowded(load, rounds=rounds, seconds=seconds)
            else:
                print(HOW_TO_GET_WRK, "The crowd is left out.", file=sys.stderr)
    return rows


def crowded(load: Load, *, rounds: int, seconds: float) -> list[Row]:
    """Single rows from a crowd."""
    capacities, crowds = [], []
    for _ in range(rounds):
        capacities.append(load.run(2 * AT_CAPACITY, seconds).rate)
        # They wait for their answers too: so pauses are shorter than three times would need.
        pause_ms = CROWD / ((TIMES + 1) * capacities[-1]) * 1e3
        crowds.append(load.crowd(CROWD, pause_ms, seconds))
    size, capacity = f"1 row, {CROWD:,} clients", median(capacities)

    def rate(count: Callable[[Crowd], int]) -> float:
        return median([count(one) / one.seconds for one in crowds])

    goodput = rate(lambda one: one.accepted)
    errors = sum(one.errors for one in crowds)
    told = {"client": client_name()}
    rows = [
        Row("a crowd: goodput", size, "requests/s", goodput, capacity, "ours, capacity",
            goal=f"≥ {LEAST_GOODPUT:.0%} of capacity", met=goodput >= LEAST_GOODPUT * capacity,
            better="more"),
        Row("a crowd: offered", size, "requests/s", rate(lambda one: one.accepted + one.refused),
            capacity, "ours, capacity", better="more"),
        Row("a crowd: refused with 429 or 503 and Retry-After", size, "requests/s",
            rate(lambda one: one.refused)),
        Row("a crowd: all answers, refusals too", size, "p99 ms",
            median([one.p99_ms for one in crowds])),
        Row("a crowd: other errors", size, "answers", errors, goal="0", met=errors == 0),
    ]  # fmt: skip
    for row in rows:
        row.versions = told
    return rows


def rows_of(
    capacities: list[float], normals: list[float], loads: list[Offered], alone: list[Offered],
    beside: list[Offered],
) -> list[Row]:  # fmt: skip
    """The rows of the table."""
    size, told = f"{N_ROWS} rows a request", {"client at capacity": client_name()}
    capacity, normal = median(capacities), median(normals)
    goodput = median([one.accepted for one in loads])
    p99 = median([one.p99_ms for one in loads])
    errors = sum(one.errors for one in (*loads, *alone, *beside))
    crowded = sum(one.crowded_out for one in loads)
    sent = sum(sum(one.statuses.values()) for one in loads)
    quiet, crowd = (median([o.p99_ms for o in some]) for some in (alone, beside))
    kept = median([one.accepted / one.offered for one in beside])
    rows = [
        Row(f"{WORK}: goodput", size, "requests/s", goodput, capacity, "ours, capacity",
            goal=f"≥ {LEAST_GOODPUT:.0%} of capacity", met=goodput >= LEAST_GOODPUT * capacity,
            better="more"),
        Row(f"{WORK}: accepted", size, "p99 ms", p99, normal, "ours, at capacity",
            goal=f"≤ {MOST_P99} times normal", met=p99 <= MOST_P99 * normal),
        Row(f"{WORK}: offered", size, "requests/s", median([one.offered for one in loads]),
            capacity, "ours, capacity", better="more"),
        Row(f"{WORK}: refused with 429 or 503 and Retry-After", size, "requests/s",
            median([one.refused for one in loads])),
        Row(f"{WORK}: other errors", f"{sent:,} answers", "answers", errors, goal="0",
            met=errors == 0),
        Row(f"{WORK}: answered when the load was over", f"{sent:,} answers", "answers",
            sum(one.afterwards for one in loads)),
        Row(f"{WORK}: due, and the client had no free connection", f"{sent:,} sent",
            "requests", crowded),
        Row(f"{WORK}: the client sent later than due", size, "p99 ms",
            median([one.late_ms for one in loads])),
        Row("another endpoint of the worker, while the first is overloaded", "a tenth of capacity",
            "share answered", kept, median([o.accepted / o.offered for o in alone]),
            "ours, alone", goal=f"≥ {LEAST_GOODPUT:.0%}", met=kept >= LEAST_GOODPUT,
            better="more"),
        Row("another endpoint of the worker, while the first is overloaded", "a tenth of capacity",
            "p99 ms", crowd, normal, "ours, the first one's at capacity",
            goal=f"≤ {MOST_P99} times normal", met=crowd <= MOST_P99 * normal),
        Row("another endpoint of the worker, alone", "a tenth of capacity", "p99 ms", quiet),
    ]  # fmt: skip
    for row in rows:
        row.versions = told
    return rows


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 3.0) if given.size == "small" else (5, 8.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Overload", rows, given)


if __name__ == "__main__":
    main()
