"""A rollout's shares: from the decision to the last request on the challenger, and their cost.

A real endpoint with a champion and a challenger, a worker under full load (``wrk``, 16
connections), and a checker that asks on connections of its own and notes who answered. The
challenger is given half of the units, and after a while the decision is made to take them
away, as an automatic rollback makes it: one call of ``divide`` in a transaction of its own.
Counted from the beginning of that call: when it returned, when the last request began that the
challenger answered, and when its last answer came. No request may be answered by the
challenger that began behind the call's return.

The cost is that of the request plan without HTTP, from a body's bytes to the answer's, in
processor time; releases take turns in short blocks. The floor is the same release without a
rollout.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from measuring import Row, arguments, median, report
from plan import by_json, in_blocks, json_bodies
from stand import ours
from stand.classifier import NAMES, Classifier, make_classifier
from stand.load import Load, client_name
from stand.processes import cores

from falaj.serving.layers import Stretch
from falaj.serving.model import Endpoint, FieldType, RequestField
from falaj.serving.splits import Assignment, LayerPlace, Split

GOAL_SECONDS, CONNECTIONS, CHECKERS = 1.0, 16, 4
SHARE = 0.5


@dataclass
class Checker:
    """Asks at a steady pace from a few threads, and notes who answered."""

    port: int
    bearer: str
    bodies: list[bytes]
    seen: list[tuple[float, float, str]] = field(default_factory=list)
    """When a request began and ended, and the variant that answered."""
    errors: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def work(self, first: int) -> None:
        """Ask until it is stopped."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        name, _, value = self.bearer.strip().partition(": ")
        headers = {name: value, "content-type": "application/json"}
        number = first
        while not self.stopped.is_set():
            number += CHECKERS
            body = self.bodies[number % len(self.bodies)]
            began = time.perf_counter()
            connection.request("POST", "/v1/endpoints/bench/predict", body, headers)
            answer = connection.getresponse()
            told = answer.read()
            ended = time.perf_counter()
            if answer.status == 200:
                variant = json.loads(told)["predictions"][0]["variant"]
                self.seen.append((began, ended, variant))
            else:
                self.errors.append(told.decode()[:200])
            time.sleep(0.001)


def prepared(platform: ours.Platform, models: list[Classifier]) -> Any:
    """An endpoint with a unit, whose rollout has begun."""
    ours.in_the_body(platform, models[0])
    fields = tuple(RequestField(name=one, type=FieldType.FLOAT) for one in NAMES)
    platform.declare(Endpoint(name="bench", model="bench", fields=fields, unit=NAMES[0]))
    platform.keep(models[1], "bench", 2)
    rollouts = platform.rollouts()
    with platform.premises.calls.opened("bench.prepare", "user:bench") as call:
        rollouts.begin_rollout(call, "bench", [("new", 2, SHARE)], salt="rol_bench")
    return rollouts


def divided(platform: ours.Platform, rollouts: Any, share: float) -> tuple[float, float]:
    """Change the share in a transaction of its own; when that began and returned."""
    began = time.perf_counter()
    with platform.premises.calls.opened("bench.divide", "user:bench") as call:
        rollouts.divide(call, "bench", {"new": share})
    return began, time.perf_counter()


def rollbacks(
    platform: ours.Platform, rollouts: Any, rows: Any, *, n: int, seconds: float
) -> list[Row]:
    """The challenger loses its share again and again, under load."""
    server_core, client_core = cores()
    asked = ours.body_requests(rows, platform).now()
    returned: list[float] = []
    begun: list[float] = []
    ended: list[float] = []
    stale = 0
    with ours.worker(platform, asked[0], core=server_core) as server:
        os.sched_setaffinity(0, {client_core})
        checker = Checker(server.port, platform.bearer(), json_bodies(rows, 1))
        load = Load(server.port, asked, core=client_core)
        busy = threading.Thread(target=load.run, args=(CONNECTIONS, n * seconds * 2 + 2))
        threads = [threading.Thread(target=checker.work, args=(one,)) for one in range(CHECKERS)]
        for thread in (busy, *threads):
            thread.start()
        try:
            for _ in range(n):
                divided(platform, rollouts, SHARE)
                time.sleep(seconds)
                decided, back = divided(platform, rollouts, 0.0)
                time.sleep(seconds)
                mine = [one for one in list(checker.seen) if one[2] == "new"]
                returned.append(back - decided)
                begun.append(max((one[0] for one in mine), default=decided) - decided)
                ended.append(max((one[1] for one in mine), default=decided) - decided)
                stale += sum(one[0] > back for one in mine if one[0] > decided)
        finally:
            checker.stopped.set()
            for thread in (*threads, busy):
                thread.join()
    told = {"client": client_name()}
    size = f"{n} rollbacks, {len(checker.seen):,} answers checked"
    worst = max(ended)
    return [
        Row("rollback: decision to the last answer of the challenger, the worst", size, "ms",
            worst * 1e3, goal=f"≤ {GOAL_SECONDS:g} s", met=worst <= GOAL_SECONDS, versions=told),
        Row("the same, median", size, "ms", median(ended) * 1e3, versions=told),
        Row("rollback: decision to the last request that the challenger answered, median", size,
            "ms", median(begun) * 1e3, versions=told),
        Row("rollback: the call itself, median", size, "ms", median(returned) * 1e3,
            versions=told),
        Row("requests on the challenger behind the call's return", size, "answers", stale,
            goal="0", met=stale == 0 and len(checker.seen) > 0, versions=told),
        Row("requests that failed meanwhile", size, "answers", len(checker.errors), goal="0",
            met=not checker.errors, versions=told),
    ]  # fmt: skip


def costs(platform: ours.Platform, rows: Any, *, rounds: int) -> list[Row]:
    """The request plan of releases with and without a rollout."""
    serving = platform.premises.serving
    running = serving.routing.release(serving.routing.active()[1]["bench"])
    plain = running.model_copy(
        update={"variants": running.variants[:1], "assignment": None, "unit": None}
    )
    layer = LayerPlace(name="l", low=0.0, high=0.9)
    whole = Assignment(salt="rol_bench", final={"new": SHARE}, layer=layer, holdout=0.05)
    assert whole.layer is not None
    assert whole.layer.stretch == Stretch(0.0, 0.9)
    full = running.model_copy(update={"id": "release_full", "assignment": whole})
    same = running.variants[0].model_copy(update={"name": "new", "share": 0.0})
    # Both variants run the champion's model: the cost is that of dividing, not of the model.
    running, full = (
        one.model_copy(update={"variants": (one.variants[0], same)}) for one in (running, full)
    )
    plans = [serving.plan_compiler.compile(one) for one in (plain, running, running, full)]
    for plan in plans[2:]:
        plan.divide(Split(endpoint="bench", release=plan.release.id, shares={"new": 0.1}))
    for model in {id(one._model): one._model for plan in plans for one in plan.variants}.values():
        if hasattr(model, "compile"):
            model.compile()  # a worker does it beside the first answers
    bodies = json_bodies(rows, 1)
    taken = [median(one) for one in in_blocks([by_json(plan, bodies) for plan in plans],
                                               len(bodies), rounds=rounds)]  # fmt: skip
    names = (
        "champion alone, in a rollout",
        "a challenger with 10 %",
        "a challenger with 10 %, in a layer, with a holdout",
    )
    return [
        Row(f"request plan: {name}", "1 row, JSON", "µs CPU", mine, floor=taken[0])
        for name, mine in zip(names, taken[1:], strict=True)
    ]


def measure(folder: Path, *, full: bool) -> list[Row]:
    """The rows of the table."""
    (folder / "second").mkdir()
    models = [make_classifier(folder), make_classifier(folder / "second", seed=8)]
    with ours.opened(folder / "ours") as platform:
        rollouts = prepared(platform, models)
        rows = costs(platform, models[0].rows, rounds=15 if full else 3)
        n, seconds = (30, 0.5) if full else (5, 0.4)
        return rollbacks(platform, rollouts, models[0].rows, n=n, seconds=seconds) + rows


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), full=given.size == "full")
    report("monitoring", "Shares of a rollout", rows, given)


if __name__ == "__main__":
    main()
