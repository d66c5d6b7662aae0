from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from falaj.kernel.errors import FalajError
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import BadRequest, DeadlineExceeded, ModelFailed, ScoringFailed
from falaj.serving.lanes import INLINE_ROWS, Lane
from falaj.serving.meters import Meters
from falaj.serving.model import Durability, FieldType, Limits, RequestField
from falaj.serving.plan import RequestPlan
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.rings import Ring
from falaj.testing.serving import MemoryBundles, MemorySpools, make_release, servable


class Touchy:
    """A reader that cannot bear a negative a."""

    names = ("a", "b", "c")
    asks_nothing = False

    def compile(self, document: Mapping[str, Any], categories: Mapping[str, Any]) -> Touchy:
        return self

    def read(self, rows: Sequence[Mapping[str, Any]], at_us: int) -> tuple[Any, Any, Any]:
        if any(row.a < 0 for row in rows):
            raise ValueError("negative")
        values = np.array(
            [[getattr(row, name) for name in self.names] for row in rows], dtype=np.float32
        )
        return values, np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.int64)


def compiled(**values: Any) -> RequestPlan:
    bundles = MemoryBundles({"sha256:a": servable(0)})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], Touchy())  # type: ignore[arg-type]
    return compiler.compile(make_release(features={}, feature_service="touchy", **values))


def asked(plan: RequestPlan, *firsts: float, started: float | None = None) -> Any:
    rows = ",".join(f'{{"a":{first},"b":0,"c":0}}' for first in firsts)
    begun = time.perf_counter() if started is None else started
    return plan.parse(f'{{"inputs":[{rows}]}}'.encode(), caller="user:a", started=begun)


async def answers(plan: RequestPlan, requests: list[Any], tmp_path: Path) -> list[Any]:
    with ThreadPoolExecutor(1) as aside:
        log = PredictionLog(MemorySpools())
        loop = asyncio.get_running_loop()
        lane = Lane("delays", Meters(tmp_path / "meters", "w0").of("delays"), log, aside, loop)
        waiting = [lane.scored(plan, request) for request in requests]
        return await asyncio.gather(*waiting, return_exceptions=True)


def test_requests_of_one_turn_are_scored_together_and_one_that_fails_spoils_no_other(
    tmp_path: Path,
) -> None:
    plan = compiled()
    told = asyncio.run(answers(plan, [asked(plan, x) for x in (1, -1, 2)], tmp_path))
    assert isinstance(told[1], ModelFailed)
    assert "negative" in told[1].message
    assert isinstance(told[0], bytes)
    assert isinstance(told[2], bytes)


def test_a_request_that_waited_beyond_its_deadline_is_not_scored(tmp_path: Path) -> None:
    plan = compiled(limits=Limits(deadline_seconds=0.5))
    old = asked(plan, 1, started=time.perf_counter() - 1)
    told = asyncio.run(answers(plan, [old, asked(plan, 2)], tmp_path))
    assert isinstance(told[0], DeadlineExceeded)
    assert isinstance(told[1], bytes)
    (alone,) = asyncio.run(answers(plan, [old], tmp_path))
    assert isinstance(alone, DeadlineExceeded)


def test_a_large_request_that_fails_aside_fails_with_its_reason(tmp_path: Path) -> None:
    plan = compiled()
    (told,) = asyncio.run(answers(plan, [asked(plan, *[-1] * (INLINE_ROWS + 1))], tmp_path))
    assert isinstance(told, FalajError)
    assert "negative" in told.message


@pytest.mark.parametrize("n", [1, 3])
def test_ids_stay_unique_over_requests_of_one_turn(tmp_path: Path, n: int) -> None:
    plan = compiled()
    told = asyncio.run(answers(plan, [asked(plan, *range(n)) for _ in range(50)], tmp_path))
    ids = [part.split(b'"')[0] for answer in told for part in answer.split(b'"id":"')[1:]]
    assert len(set(ids)) == 50 * n


def test_a_fault_of_the_platform_ends_every_request_of_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compiled()

    def faulty(requests: list[Any]) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(plan, "score", faulty)
    told = asyncio.run(answers(plan, [asked(plan, 1), asked(plan, 2)], tmp_path))
    assert [type(one) for one in told] == [ScoringFailed] * 2
    assert "secret" not in str(told[0])


class Instants(Touchy):
    """A reader whose features are the second of the instant that is asked for."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def read(self, rows: Sequence[Any], at_us: Any) -> tuple[Any, Any, Any]:
        self.runs.append(len(rows))
        seconds = np.broadcast_to(np.asarray(at_us) // 1_000_000 % 60, len(rows))
        values = np.stack([seconds.astype(np.float32)] * 3, axis=1)
        return values, np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.int64)


@pytest.mark.parametrize("durability", list(Durability))
def test_requests_about_several_instants_are_one_run_and_each_is_logged_with_its_own(
    tmp_path: Path, durability: Durability
) -> None:
    reader = Instants()
    compiler = PlanCompiler(
        MemoryBundles({"sha256:a": servable(0)}), [OnnxRuntime(device="cpu")], reader
    )
    plan = compiler.compile(
        make_release(features={}, feature_service="instants", durability=durability)
    )
    reader.runs.clear()
    bodies = [
        f'{{"inputs":[{{"a":0,"b":0,"c":0}}],"at":"2026-11-01T12:00:{second:02}Z"}}'
        for second in (3, 1, 3, 2)
    ]
    bodies.append('{"inputs":[{"a":0,"b":0,"c":0}]}')
    requests = [
        plan.parse(body.encode(), caller="user:a", started=time.perf_counter()) for body in bodies
    ]
    spools = MemorySpools()

    async def told() -> list[Any]:
        with ThreadPoolExecutor(1) as aside:
            log = PredictionLog(spools)
            log.start()
            loop = asyncio.get_running_loop()
            lane = Lane("delays", Meters(tmp_path / "meters", "w0").of("delays"), log, aside, loop)
            found = await asyncio.gather(*[lane.scored(plan, one) for one in requests])
            log.stop()
            return found

    ids = [json.loads(answer)["predictions"][0]["id"] for answer in asyncio.run(told())]
    assert reader.runs == [5]
    rows = {row["prediction_id"]: row for row in spools.rows("predictions_delays")}
    assert len(rows) == 5
    for one, second in zip(ids, (3, 1, 3, 2), strict=False):
        assert rows[one]["predicted_for"].isoformat() == f"2026-11-01T12:00:{second:02}+00:00"
        assert rows[one]["features"] == [second] * 3
    now = rows[ids[4]]
    assert now["predicted_for"] == now["requested_at"]
    traffic = Meters(tmp_path / "meters", "w1").traffic("delays")
    assert traffic.requests == 5


NUMBERS = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in "abc")
MOMENT = RequestField(name="moment", type=FieldType.TIMESTAMP, required=False)


def at_moment(plan: RequestPlan, moment: str) -> Any:
    body = f'{{"inputs":[{{"a":1,"b":0,"c":0,"moment":"{moment}"}}]}}'
    return plan.parse(body.encode(), caller="user:a", started=time.perf_counter())


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_an_instant_that_has_no_date_in_utc_is_refused(moment: str) -> None:
    plan = compiled(fields=(*NUMBERS, MOMENT))
    with pytest.raises(BadRequest, match="no date in UTC"):
        at_moment(plan, moment)
    numbers = {"a": [1.0], "b": [0.0], "c": [0.0], "moment": [moment]}
    with pytest.raises(BadRequest, match="no date in UTC"):
        plan.parse_columns(numbers, caller="user:a", started=time.perf_counter())
    body = f'{{"inputs":[{{"a":1,"b":0,"c":0}}],"at":"{moment}"}}'
    with pytest.raises(BadRequest, match="no date in UTC"):
        plan.parse(body.encode(), caller="user:a", started=time.perf_counter())
    assert at_moment(plan, "9999-12-31T00:00:00+01:00").rows


def test_a_record_that_cannot_be_written_down_keeps_nobody_waiting(tmp_path: Path) -> None:
    plan = compiled(fields=(*NUMBERS, MOMENT))
    odd = at_moment(plan, "2026-11-01T00:00:00Z")
    odd.rows[0].moment = 1 << 80  # nothing that a decoder lets through
    ring = Ring(tmp_path, 1 << 16)
    meters = Meters(tmp_path / "meters", "w0")

    async def told() -> tuple[list[Any], int]:
        with ThreadPoolExecutor(1) as aside:
            log = PredictionLog(MemorySpools(), ring=ring)
            lane = Lane("delays", meters.of("delays"), log, aside, asyncio.get_running_loop())
            waiting = [lane.scored(plan, one) for one in (odd, asked(plan, 1))]
            answered = await asyncio.wait_for(asyncio.gather(*waiting), 5)
            return answered, lane.inside

    answered, inside = asyncio.run(told())
    assert [type(one) for one in answered] == [bytes, bytes]
    assert inside == 0
    assert meters.traffic("delays").unlogged == 2
    ring.close()


def test_what_waits_again_behind_a_failed_run_aside_is_told_when_its_deadline_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compiled(limits=Limits(deadline_seconds=0.3))
    runs: list[int] = []

    def slow(requests: list[Any]) -> Any:
        runs.append(len(requests))
        time.sleep(0.2)
        raise ModelFailed("It never answers.")

    monkeypatch.setattr(plan.aside, "score", slow)
    plan.waits = True
    told = asyncio.run(answers(plan, [asked(plan, x) for x in range(5)], tmp_path))
    assert [type(one) for one in told].count(ModelFailed) == 1
    assert [type(one) for one in told].count(DeadlineExceeded) == 4
    assert runs == [5, 1]


def test_a_run_that_waits_for_another_process_keeps_no_other_endpoint_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, large = compiled(), compiled()
    hanging.waits = True
    gate = threading.Event()
    score = hanging.aside.score
    monkeypatch.setattr(hanging.aside, "score", lambda found: gate.wait(20) and score(found))

    async def told() -> list[Any]:
        with ThreadPoolExecutor(1) as aside, ThreadPoolExecutor(2) as patient:
            log, meters = PredictionLog(MemorySpools()), Meters(tmp_path / "meters", "w0")
            loop = asyncio.get_running_loop()
            one, other = (
                Lane(name, meters.of(name), log, aside, loop, patient=patient)
                for name in ("python", "delays")
            )
            waiting = one.scored(hanging, asked(hanging, 1))
            await asyncio.sleep(0.05)
            try:
                many = other.scored(large, asked(large, *[1] * (INLINE_ROWS + 1)))
                first = await asyncio.wait_for(many, 5)
            finally:
                gate.set()
            return [first, await waiting]

    assert [type(one) for one in asyncio.run(told())] == [bytes, bytes]


def test_a_request_whose_answer_cannot_be_written_is_not_counted_as_answered(
    tmp_path: Path,
) -> None:
    plan = compiled()
    odd = asked(plan, 1)

    def render(*_: Any) -> Any:
        raise BadRequest("It asks for an output that there is not.")

    odd.render = render
    (told,) = asyncio.run(answers(plan, [odd], tmp_path))
    assert isinstance(told, BadRequest)
    assert Meters(tmp_path / "meters", "w1").traffic("delays").requests == 0


@pytest.mark.parametrize("late", [(0,), (0, 1)])
def test_a_request_whose_deadline_passes_in_the_queue_of_a_thread_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: tuple[int, ...]
) -> None:
    plan = compiled()
    scored: list[Any] = []
    run = plan.aside.score

    def noted(requests: list[Any]) -> Any:
        scored.extend(requests)
        return run(requests)

    monkeypatch.setattr(plan.aside, "score", noted)
    busy = threading.Event()

    async def told() -> list[Any]:
        with ThreadPoolExecutor(1) as aside:
            aside.submit(busy.wait, 10)
            log = PredictionLog(MemorySpools())
            meter = Meters(tmp_path / "meters", "w0").of("delays")
            lane = Lane("delays", meter, log, aside, asyncio.get_running_loop())
            lane.costs.fixed = 1.0  # known to be slow: what waits is run at once, on a thread
            requests = [asked(plan, 1), asked(plan, 2)]
            for place in late:
                requests[place].deadline = time.perf_counter() + 0.1
            waiting = [lane.scored(plan, request) for request in requests]
            await asyncio.sleep(0.2)
            busy.set()
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert lane.inside == 0
            assert scored == [one for place, one in enumerate(requests) if place not in late]
            return found

    answered = asyncio.run(told())
    kinds = [DeadlineExceeded if place in late else bytes for place in range(2)]
    assert [type(one) for one in answered] == kinds
