"""Turns of a lane: who waits, who is told to come back, and that each is answered once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Conflict, FalajError
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import Overloaded
from falaj.serving.lanes import Lane
from falaj.serving.meters import Meters
from falaj.serving.model import Durability, Limits, ServableModel
from falaj.serving.plan import RequestPlan
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.predictions import Parsed, Scored
from falaj.serving.standingin import in_the_place_of
from falaj.testing.serving import MemoryBundles, MemorySpools, make_release


class Paced:
    """A model that takes its time, notes the rows of each run, and cannot bear a negative."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.n_inputs = 3
        self.seconds = seconds
        self.runs: list[int] = []

    def run(self, rows: np.ndarray) -> np.ndarray:
        self.runs.append(len(rows))
        time.sleep(self.seconds(len(rows)))
        if (rows[:, 0] < 0).any():
            raise ValueError("negative")
        return rows[:, :1].astype(np.float64)


class PacedRuntime:
    formats = ("paced",)

    def __init__(self, model: Paced) -> None:
        self.model = model

    def load(self, servable: ServableModel) -> Paced:
        return self.model


def paced(seconds: Callable[[int], float], **values: Any) -> tuple[RequestPlan, Paced]:
    model = Paced(seconds)
    bundles = MemoryBundles({"sha256:a": ServableModel("paced", b"", ("a", "b", "c"))})
    plan = PlanCompiler(bundles, [PacedRuntime(model)], None).compile(make_release(**values))  # type: ignore[list-item]
    model.runs.clear()
    return plan, model


def asked(plan: RequestPlan, *firsts: float, at: str = "") -> Any:
    rows = ",".join(f'{{"a":{first},"b":0,"c":0}}' for first in firsts)
    more = f',"at":"{at}"' if at else ""
    body = f'{{"inputs":[{rows}]{more}}}'.encode()
    return plan.parse(body, caller="user:a", started=time.perf_counter())


@contextmanager
def laned(tmp_path: Path, *, log: PredictionLog | None = None) -> Any:
    with ThreadPoolExecutor(1) as aside:
        yield Lane(
            "delays",
            Meters(tmp_path / "meters", "w0").of("delays"),
            log or PredictionLog(MemorySpools()),
            aside,
            asyncio.get_running_loop(),
        )


def test_a_slow_model_gathers_what_comes_while_it_runs(tmp_path: Path) -> None:
    plan, model = paced(lambda n: 0.03)

    async def main() -> None:
        with laned(tmp_path) as lane:
            await lane.scored(plan, asked(plan, 1))  # what a run costs is known behind it
            first = lane.scored(plan, asked(plan, 2))
            await asyncio.sleep(0.01)
            rest = [lane.scored(plan, asked(plan, x)) for x in range(3, 13)]
            await asyncio.gather(first, *rest)

    asyncio.run(main())
    assert model.runs == [1, 1, 10]


def test_the_loop_goes_on_while_a_slow_model_runs(tmp_path: Path) -> None:
    plan, _ = paced(lambda n: 0.2)

    async def main() -> int:
        with laned(tmp_path) as lane:
            await lane.scored(plan, asked(plan, 1))
            slow, turns = lane.scored(plan, asked(plan, 2)), 0
            while not slow.done():
                turns += 1
                await asyncio.sleep(0.01)
            return turns

    assert asyncio.run(main()) >= 5


def test_what_would_wait_too_long_is_told_to_come_back(tmp_path: Path) -> None:
    plan, _ = paced(lambda n: 0.002 * n, limits=Limits(queue_seconds=0.1))

    async def main() -> list[Any]:
        with laned(tmp_path) as lane:
            for size in (1, 2, 3):  # what it will measure, on a machine that is not busy
                lane.costs.saw(size, 0.002 * size)
            found = []
            for number in range(100):
                try:
                    found.append(lane.scored(plan, asked(plan, number)))
                except Overloaded as error:
                    found.append(error)
            answers = [one for one in found if not isinstance(one, Overloaded)]
            await asyncio.gather(*answers)
            assert lane.inside == 0
            assert not lane.full(plan)  # when it is done it takes requests again
            return found

    refused = [isinstance(one, Overloaded) for one in asyncio.run(main())]
    assert refused == sorted(refused)  # those that came first are in
    assert 49 <= refused.index(True) <= 52


def test_who_waited_to_be_read_for_longer_than_the_queue_may_last_is_told_to_come_back(
    tmp_path: Path,
) -> None:
    plan, _ = paced(lambda n: 0.0, limits=Limits(queue_seconds=0.05))

    async def main() -> tuple[list[bool], list[bool]]:
        with laned(tmp_path) as lane:
            now = time.perf_counter()
            idle = [lane.full(plan, now - 10)]  # nothing was run since: there is room
            for number in range(100):  # others are answered meanwhile
                await lane.scored(plan, asked(plan, number))
            now = time.perf_counter()
            late = [lane.full(plan, now - 10) for _ in range(10)]
            return [*idle, lane.full(plan), lane.full(plan, now)], late

    others, late = asyncio.run(main())
    assert others == [False, False, False]
    assert late == [True] * 10


@pytest.mark.parametrize(
    ("cause", "code"),
    [(Conflict("The rows are gone."), "conflict"), (RuntimeError("odd"), "scoring-failed")],
)
def test_a_challengers_failure_counts_though_the_champion_met_another_error_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, code: str
) -> None:
    plan, _ = paced(lambda n: 0.0)

    def failing(requests: list[Parsed]) -> Any:
        found = {"new": [(one, one.rows[0]) for one in requests]}

        def run() -> Scored:
            raise cause

        return in_the_place_of(found, run)

    monkeypatch.setattr(plan, "score", failing)

    erred: list[tuple[str, int]] = []
    counted: list[int] = []

    async def main() -> list[str]:
        with laned(tmp_path) as lane:
            monkeypatch.setattr(
                lane.meter, "erred", lambda variant, n=1: erred.append((variant, n))
            )
            told = await asyncio.gather(
                *(lane.scored(plan, asked(plan, x)) for x in range(3)), return_exceptions=True
            )
            counted.append(sum(n for variant, n in erred if variant == "new"))
            return [one.code for one in told if isinstance(one, FalajError)]

    assert asyncio.run(main()) == [code] * 3
    assert counted == [3]


def test_where_nobody_has_failed_an_error_of_the_champion_is_its_own() -> None:
    def run() -> Scored:
        raise Conflict("The rows are gone.")

    with pytest.raises(Conflict):
        in_the_place_of({}, run)


def test_who_waited_to_be_read_is_answered_when_the_crowd_has_gone(tmp_path: Path) -> None:
    plan, _ = paced(lambda n: 0.0, limits=Limits(queue_seconds=0.05))

    async def main() -> list[bool]:
        with laned(tmp_path) as lane:
            await lane.scored(plan, asked(plan, 1))
            since = time.perf_counter() - 10
            busy = lane.full(plan, since)
            await asyncio.sleep(0.1)
            return [busy, lane.full(plan, since)]

    assert asyncio.run(main()) == [True, False]


def test_what_a_turn_has_time_for_is_scored_in_it(tmp_path: Path) -> None:
    plan, model = paced(lambda n: 0.0)

    async def main() -> None:
        with laned(tmp_path) as lane:
            for size in (1, 200, 400):  # what it will measure, on a machine that is not busy
                lane.costs.saw(size, 1e-6 * size)
            rows = [float(one) for one in range(200)]
            parts = [lane.scored(plan, asked(plan, *rows)) for _ in range(2)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert all(part.done() for part in parts)

    asyncio.run(main())
    assert model.runs == [200, 200]


def test_a_few_rows_may_wait_however_slow_the_model_is(tmp_path: Path) -> None:
    plan, _ = paced(lambda n: 0.02 * n, limits=Limits(queue_seconds=0.001))

    async def main() -> None:
        with laned(tmp_path) as lane:
            for size in (1, 2):
                await lane.scored(plan, asked(plan, *range(size)))
            await asyncio.gather(*(lane.scored(plan, asked(plan, x)) for x in range(20)))

    asyncio.run(main())


def test_a_crowded_lane_lets_another_have_its_turn(tmp_path: Path) -> None:
    crowded, model = paced(lambda n: 0.0005 * n)
    quick, _ = paced(lambda n: 0.0)

    async def main() -> int:
        with laned(tmp_path / "a") as crowd, laned(tmp_path / "b") as other:
            for size in (1, 2, 4):  # what it will measure, on a machine that is not busy
                crowd.costs.saw(size, 0.0005 * size)
            waiting = [crowd.scored(crowded, asked(crowded, x)) for x in range(200)]
            await other.scored(quick, asked(quick, 1))
            before = sum(model.runs)
            await asyncio.gather(*waiting)
            return before

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert asyncio.run(main()) < 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from([1.0, 2.0, -1.0]),  # a negative spoils its run
        st.integers(1, 3),
        st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS, st.sampled_from([0.0, 0.0007, 0.006]), st.sampled_from(list(Durability)))
def test_every_request_is_answered_once_and_nobody_gets_anothers_answer(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[float, int, str, bool]],
    pace: float,
    durability: Durability,
) -> None:
    plan, _ = paced(lambda n: pace * n / 4, durability=durability)
    told: Counter[int] = Counter()
    right: list[bool] = []

    async def main() -> None:
        log = PredictionLog(MemorySpools())
        log.start()
        with laned(tmp_path_factory.mktemp("lane"), log=log) as lane:
            for number, (first, size, at, pause) in enumerate(steps):
                values = [first * (number + 1)] * size

                def tell(answer: Any, number: int = number, values: list[float] = values) -> None:
                    told[number] += 1
                    if isinstance(answer, FalajError):
                        right.append(values[0] < 0)
                    else:
                        right.append(answer.count(b'"score":%r' % values[0]) == len(values))

                lane.ask(plan, asked(plan, *values, at=at), tell)
                if pause:
                    await asyncio.sleep(0)
            while sum(told.values()) < len(steps) or lane.inside:
                await asyncio.sleep(0.001)
            assert lane._n_rows == 0
        log.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert set(told.values()) == {1}
    assert all(right)
