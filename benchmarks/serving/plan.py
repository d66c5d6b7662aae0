"""The request plan without HTTP: from a body's bytes to the answer's bytes, in one process.

The floor is the model's own run on the same rows. Both take turns every few calls, on one
core, and are counted in CPU time, so that other work on the machine disturbs little. A
thousand distinct rows; the scores are compared before anything is timed.
"""

from __future__ import annotations

import gc
import importlib
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, median, report
from stand import ours
from stand.classifier import NAMES, Classifier, make_classifier, session_of
from stand.processes import cores

GOAL_US, GOAL_TIMES = 12, 1.15
BLOCK = 20
"""Calls of one work before the other has its turn."""

Work = Callable[[int], Any]
"""Does the work for the row, or the rows, of this number."""


def measure(folder: Path, *, rounds: int) -> list[Row]:
    """The rows of the table."""
    os.sched_setaffinity(0, {cores()[0]})
    classifier = make_classifier(folder)
    with ours.opened(folder / "ours") as platform:
        ours.in_the_body(platform, classifier)
        serving = platform.premises.serving
        release = serving.routing.release(serving.routing.active()[1]["bench"])
        plan = serving.plan_compiler.compile(release)
        if hasattr(model_of(plan), "compile"):
            model_of(plan).compile()  # a worker does it beside the first answers
        rows = list(single(plan, classifier, rounds))
        rows += batches(plan, classifier, rounds)
        rows += sizes(plan, classifier, max(1, rounds // 3))
    told = {name: version(name) for name in ("onnxruntime", "msgspec", "numpy", "pyarrow")}
    told["model runs in"] = type(model_of(plan)).__name__
    for row in rows:
        row.versions = told
    return rows


def model_of(plan: Any) -> Any:
    """The loaded model of the plan's only variant."""
    return plan.variants[0]._model


# -- works -----------------------------------------------------------------------------


def json_bodies(rows: np.ndarray, n: int) -> list[bytes]:
    """One body of n rows for each start, as a client writes them."""
    named = [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]
    return [msgspec.json.encode({"inputs": part}) for part in parts(named, n)]


def parts(rows: Sequence[Any], n: int) -> list[Any]:
    """Cut into parts of n; what is left at the end is dropped."""
    return [rows[first : first + n] for first in range(0, len(rows) - n + 1, n)]


def by_json(plan: Any, bodies: list[bytes]) -> Work:
    """Plain JSON in and out."""

    def work(number: int) -> Any:
        parsed = plan.parse(
            bodies[number % len(bodies)], caller="service:bench", started=time.perf_counter()
        )
        return plan.score([parsed])[0][0]

    return work


def by_arrow(plan: Any, matrices: list[np.ndarray]) -> Work:
    """Arrow IPC in, and out where our codec is there."""
    bodies = [arrow_body(matrix) for matrix in matrices]
    codec = found("falaj.serving.arrowpredictions")
    if codec is not None:

        def coded(number: int) -> Any:
            # The parts of a request that the codec reads.
            asked = SimpleNamespace(
                body=bodies[number % len(bodies)],
                query=b"",
                headers={},
                started=time.perf_counter(),
            )
            return plan.score([codec.request_of(plan, asked, "service:bench")])[0][0]

        return coded
    from falaj.serving.arrowbodies import table_of_stream

    def work(number: int) -> Any:
        table = table_of_stream(bodies[number % len(bodies)], plan.limits.rows)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        parsed = plan.parse_columns(columns, caller="service:bench", started=time.perf_counter())
        return plan.score([parsed])[0][0]

    return work


def by_v2(plan: Any, matrices: list[np.ndarray]) -> Work | None:
    """The Open Inference Protocol's binary tensors in and out; None if it is not there."""
    codec = found("falaj.serving.inferencebodies")
    if codec is None:
        return None
    bodies = [v2_body(matrix) for matrix in matrices]

    def work(number: int) -> Any:
        body, length = bodies[number % len(bodies)]
        parsed = codec.request_of(
            plan, body, length, version="", caller="service:bench", started=time.perf_counter()
        )
        return plan.score([parsed])[0][0]

    return work


def found(*names: str) -> Any:
    """The first of these modules that is there."""
    for name in names:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    return None


def arrow_body(matrix: np.ndarray) -> bytes:
    """The rows as an Arrow IPC stream of 20 float32 columns."""
    batch = pa.record_batch({name: matrix[:, place] for place, name in enumerate(NAMES)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def v2_body(matrix: np.ndarray) -> tuple[bytes, bytes]:
    """The rows as one V2 tensor [n, 20] in binary, asking for a binary answer; its length."""
    raw = np.ascontiguousarray(matrix, dtype="<f4").tobytes()
    document = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": "inputs",
                    "datatype": "FP32",
                    "shape": list(matrix.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "outputs": [{"name": "score", "parameters": {"binary_data": True}}],
        }
    )
    return document + raw, str(len(document)).encode()


# -- measuring -------------------------------------------------------------------------


def in_blocks(works: Sequence[Work], n: int, *, rounds: int) -> list[list[float]]:
    """CPU microseconds a call of each work in each round; they take turns in short blocks."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        sums = [0] * len(works)
        for first in range(0, n, BLOCK):
            for place, work in enumerate(works):
                began = time.thread_time_ns()
                for one in range(first, first + BLOCK):
                    work(one)
                sums[place] += time.thread_time_ns() - began
        if number:
            for place, total in enumerate(sums):
                taken[place].append(total / 1e3 / n)
        gc.collect()
    return taken


def single(plan: Any, classifier: Classifier, rounds: int) -> Iterator[Row]:
    """One row in JSON, and where the time goes."""
    bodies = json_bodies(classifier.rows, 1)
    run, session = model_of(plan).run, session_of(classifier.onnx)
    matrices = [np.ascontiguousarray(row) for row in parts(classifier.rows, 1)]
    whole = by_json(plan, bodies)
    for place in range(0, len(bodies), 50):
        told = msgspec.json.decode(whole(place))["predictions"][0]["score"]
        if abs(told - float(classifier.scores[place])) > 1e-5:
            raise RuntimeError(f"the plan scores {told}, not {classifier.scores[place]}")

    def bare(number: int) -> Any:
        return run(matrices[number])

    def onnx(number: int) -> Any:
        return session.run(None, {"input": matrices[number]})  # type: ignore[attr-defined]

    def parse(number: int) -> Any:
        return plan.parse(bodies[number], caller="service:bench", started=0.0)

    mine, floor, peer, decoded = (
        median(one) for one in in_blocks([whole, bare, onnx, parse], len(bodies), rounds=rounds)
    )
    size = "1 row, JSON"
    above = mine - floor
    yield Row("plan without HTTP: above the model's own run", size, "µs CPU", above,
              goal=f"≤ {GOAL_US} µs", met=above <= GOAL_US)  # fmt: skip
    yield Row("plan without HTTP: whole", size, "µs CPU", mine, floor=floor)
    yield Row("plan without HTTP: decoding and checking alone", size, "µs CPU", decoded)
    yield Row("the model's own run", size, "µs CPU", floor, peer, "ONNX Runtime")


def batches(plan: Any, classifier: Classifier, rounds: int) -> Iterator[Row]:
    """A hundred rows in each protocol."""
    n = 100
    matrices = [np.ascontiguousarray(part) for part in parts(classifier.rows, n)]
    run = model_of(plan).run

    def bare(number: int) -> Any:
        return run(matrices[number % len(matrices)])

    works = {
        "V2 binary": by_v2(plan, matrices),
        "Arrow": by_arrow(plan, matrices),
        "JSON": by_json(plan, json_bodies(classifier.rows, n)),
    }
    session = session_of(classifier.onnx)

    def onnx(number: int) -> Any:
        return session.run(None, {"input": matrices[number % len(matrices)]})  # type: ignore[attr-defined]

    here = {name: work for name, work in works.items() if work is not None}
    for name, work in here.items():
        check_batch(name, work(3), classifier.scores[300:400])
    taken = in_blocks([bare, onnx, *here.values()], 200, rounds=rounds)
    floor, peer = median(taken[0]), median(taken[1])
    yield Row("the model's own run", f"{n} rows", "µs CPU", floor, peer, "ONNX Runtime")
    for name, found_ in zip(here, taken[2:], strict=True):
        mine = median(found_)
        row = Row("plan without HTTP: bytes to bytes", f"{n} rows, {name}", "µs CPU", mine,
                  floor=floor)  # fmt: skip
        if name != "JSON":
            row.goal, row.met = f"≤ {GOAL_TIMES} times the model", mine <= GOAL_TIMES * floor
        yield row
        if name != "JSON":
            # What is asked for was measured with the model in ONNX Runtime, as others run it.
            yield Row("the same, against the model's own run in ONNX Runtime", f"{n} rows, {name}",
                      "µs CPU", mine, peer, "ONNX Runtime", goal=f"≤ {GOAL_TIMES} times it",
                      met=mine <= GOAL_TIMES * peer)  # fmt: skip


def check_batch(name: str, answer: Any, expected: np.ndarray) -> None:
    """Raise unless an answer, in whatever form, holds the expected scores."""
    body = answer if isinstance(answer, bytes) else getattr(answer, "body", None)
    if body is None:
        raise RuntimeError(f"{name}: no answer: {answer!r}")
    if body.startswith(b"{") and b'"predictions"' in body:
        told = [one["score"] for one in msgspec.json.decode(body)["predictions"]]
    elif body.startswith(b"{"):
        length = next(
            int(value)
            for key, value in answer.more.items()
            if key.lower() == b"inference-header-content-length"
        )
        told = list(struct.unpack(f"<{len(expected)}{'f' if len(body) - length == 4 * len(expected) else 'd'}", body[length:]))  # noqa: E501  # fmt: skip
    else:
        told = pa.ipc.open_stream(body).read_all().column("score").to_pylist()
    if not np.allclose(told, expected, atol=1e-5):
        raise RuntimeError(f"{name} scores {told[:3]}…, not {expected[:3]}…")


def sizes(plan: Any, classifier: Classifier, rounds: int) -> Iterator[Row]:
    """How it grows: 1, 10, 100 and 1,000 rows in JSON against the model's own run."""
    run = model_of(plan).run
    for n in (10, 1_000):
        matrices = [np.ascontiguousarray(part) for part in parts(classifier.rows, n)]

        def bare(number: int, matrices: list[np.ndarray] = matrices) -> Any:
            return run(matrices[number % len(matrices)])

        works = [bare, by_json(plan, json_bodies(classifier.rows, n))]
        floor, mine = (median(one) for one in in_blocks(works, BLOCK * 2, rounds=rounds))
        yield Row("plan without HTTP: bytes to bytes", f"{n:,} rows, JSON", "µs CPU", mine,
                  floor=floor)  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=5 if given.size == "small" else 25)
    report("serving", "The request plan without HTTP", rows, given)


if __name__ == "__main__":
    main()
