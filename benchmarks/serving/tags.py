"""What the tag of anomalies costs a request: the plan without HTTP, with and without it.

From a body's bytes to the answer's bytes, and the record of the prediction log, in one process:
the same LightGBM model of 20 inputs in two releases, one of which tags by the isolation forest
of its bundle (100 trees of 256 rows). Both take turns every few calls, on one core, and are
counted in CPU time. A thousand distinct rows; scores are compared before anything is timed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report
from plan import in_blocks, json_bodies
from stand.classifier import NAMES

from falaj.models.isolation import IsolationForest, grown
from falaj.serving.adapters.runtime_lightgbm import LightGbmRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.logged import encoded, logged
from falaj.serving.model import AnomalyPolicy, FieldType, RequestField, ServableModel
from falaj.serving.plan import RequestPlan
from falaj.testing.serving import MemoryBundles, make_release

N_TREES = 100


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rounds = 5 if given.size == "small" else 25
    data = np.random.default_rng(1).normal(size=(1000, len(NAMES))).astype(np.float32)
    model = made()
    plans = [compiled(model, policy) for policy in (AnomalyPolicy.ASKED, AnomalyPolicy.TAG)]
    check(plans, data, model)
    rows = [*of_requests(plans, data, rounds), *of_the_forest(model, data, rounds)]
    for row in rows:
        row.versions = {name: version(name) for name in ("lightgbm", "numba", "numpy")}
    report("serving", "The tag of anomalies", rows, given)


def made() -> ServableModel:
    """A model with its forest."""
    random = np.random.default_rng(0)
    x = random.normal(size=(6000, len(NAMES))).astype(np.float32)
    y = (x[:, :4].sum(axis=1) + random.normal(size=6000) > 0).astype(int)
    params = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(x, y), N_TREES)
    forest = grown(x, n_trees=N_TREES, rows_per_tree=256, share=0.01, seed=1)
    text = booster.model_to_string().encode()
    return ServableModel("lightgbm", text, tuple(NAMES), isolation=forest)


def compiled(model: ServableModel, policy: AnomalyPolicy) -> RequestPlan:
    """The plan of a release, with its trees compiled as a worker has them."""
    fields = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in NAMES)
    compiler = PlanCompiler(MemoryBundles({"sha256:a": model}), [LightGbmRuntime()], None)
    plan = compiler.compile(make_release(fields=fields, anomalies=policy))
    loaded: Any = plan.variants[0]._model
    if hasattr(loaded, "compile"):
        loaded.compile()
    return plan


def check(plans: list[RequestPlan], data: np.ndarray, model: ServableModel) -> None:
    """Raise unless both give the same scores, and the tag is that of the forest."""
    body = json_bodies(data[:50], 50)[0]
    plain, tagged = (msgspec.json.decode(scored(plan, body)[0])["predictions"] for plan in plans)
    if [one["score"] for one in plain] != [one["score"] for one in tagged]:
        raise RuntimeError("the tag changes a score")
    wanted = IsolationForest.read(model.isolation, len(NAMES)).scores(data[:50])
    np.testing.assert_array_equal([one["anomaly"]["score"] for one in tagged], wanted)


def scored(plan: RequestPlan, body: bytes) -> tuple[Any, Any]:
    """The answer to a body, and what the log takes."""
    parsed = plan.parse(body, caller="service:bench", started=time.perf_counter())
    answers, parts = plan.score([parsed])
    return answers[0], parts


def of_requests(plans: list[RequestPlan], data: np.ndarray, rounds: int) -> Iterator[Row]:
    """Requests of one row and of a hundred, and their records."""
    for n, calls in ((1, len(data)), (100, 200)):
        bodies = json_bodies(data, n)

        def asking(plan: RequestPlan, bodies: list[bytes] = bodies) -> Callable[[int], Any]:
            return lambda number: scored(plan, bodies[number % len(bodies)])

        def logging(plan: RequestPlan, bodies: list[bytes] = bodies) -> Callable[[int], Any]:
            parts = [scored(plan, body)[1][0] for body in bodies]
            return lambda number: encoded(logged(parts[number % len(parts)]))

        works = [make(plan) for make in (asking, logging) for plan in plans]
        off, on, off_log, on_log = (median(one) for one in in_blocks(works, calls, rounds=rounds))
        size = f"{n} rows, JSON" if n > 1 else "1 row, JSON"
        yield Row("a request with the tag", size, "µs CPU", on, off, "without it")
        yield Row("what the tag adds, a row", size, "µs CPU", (on - off) / n)
        yield Row("its record for the log", size, "µs CPU", on_log, off_log, "without it")


def of_the_forest(model: ServableModel, data: np.ndarray, rounds: int) -> Iterator[Row]:
    """The forest alone."""
    forest = IsolationForest.read(model.isolation, len(NAMES))
    for n, calls in ((1, len(data)), (100, 200)):
        parts = [np.ascontiguousarray(data[at : at + n]) for at in range(0, len(data), n)]

        def work(number: int, parts: list[np.ndarray] = parts) -> Any:
            return forest.scores(parts[number % len(parts)])

        (taken,) = in_blocks([work], calls, rounds=rounds)
        size = f"{n} rows" if n > 1 else "1 row"
        yield Row("the forest alone, a row", size, "µs CPU", median(taken) / n)


if __name__ == "__main__":
    main()
