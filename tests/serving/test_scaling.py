"""The scaling policy, by simulation: workers that take a second or two to start, requests
that wait as in a queue of one server, traffic as it was seen: steps, spikes, days."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.serving.pools import Autoscaler
from falaj.serving.scaling import Decision, Observation, ScalingSettings, decide
from falaj.serving.scalingrecords import ScalingRecord

SETTINGS = ScalingSettings(least=1, most=12)


# -- traffic: how many workers' worth of work arrives, second by second ------------------


def steady(load: float, seconds: int = 900) -> Iterator[float]:
    for _ in range(seconds):
        yield load


def step(low: float, high: float, *, at: int = 100, seconds: int = 900) -> Iterator[float]:
    for second in range(seconds):
        yield high if second >= at else low


def spike(base: float, top: float, *, at: int = 100, lasts: int = 10) -> Iterator[float]:
    for second in range(900):
        yield top if at <= second < at + lasts else base


def spikes(base: float, top: float, *, every: int = 40, lasts: int = 4) -> Iterator[float]:
    for second in range(1200):
        yield top if second % every < lasts else base


def day(low: float, high: float, *, every: int = 10) -> Iterator[float]:
    """A day with its night, its noon and a restless minute: one value each ``every`` seconds."""
    for second in range(0, 86_400, every):
        share = (1 - math.cos(2 * math.pi * second / 86_400)) / 2
        ripple = 0.06 * math.sin(second / 37) + 0.04 * math.sin(second / 11)
        yield (low + (high - low) * share) * (1 + ripple)


# -- the simulated pool ------------------------------------------------------------------


class SimulatedPool:
    """Workers of one server each; a request takes ``service_seconds``."""

    name = "simulated"

    def __init__(
        self, workers: int, *, service_seconds: float = 0.002, start_seconds: float = 2.0
    ) -> None:
        self.workers = workers
        self.load = 0.0
        self.n_shed = 0
        self._service = service_seconds
        self._start = start_seconds
        self._ready_at = 0.0
        self._now = 0.0

    def observe(self, at: float) -> Observation | None:
        self._now = at
        ready = self._ready_at <= at
        seen = observed(at, self.workers, self.load, self._service)
        self.n_shed += seen.shed
        return seen if ready else None

    def resize(self, workers: int) -> None:
        if workers > self.workers:
            self._ready_at = self._now + self._start
        self.workers = workers


def observed(at: float, workers: int, load: float, service: float = 0.002) -> Observation:
    rho = min(1.0, load / workers)
    waited = 0.5 if rho >= 0.99 else min(0.5, 2.3 * service * rho / (1 - rho))
    return Observation(
        at=at,
        workers=workers,
        utilisation=(rho,) * workers,
        queue_p90=waited,
        queue_p99=2 * waited,
        shed=max(0, math.ceil((load - workers) * 100)),
    )


def simulated(
    traffic: Iterator[float],
    settings: ScalingSettings = SETTINGS,
    *,
    workers: int = 1,
    every: float = 1.0,
    service_seconds: float = 0.002,
) -> tuple[list[int], SimulatedPool, list[ScalingRecord]]:
    """The number of workers after each tick."""
    pool = SimulatedPool(workers, service_seconds=service_seconds)
    records: list[ScalingRecord] = []
    scaler = Autoscaler(pool, settings, records.append)
    sizes = []
    for number, load in enumerate(traffic):
        pool.load = load
        scaler.tick(number * every)
        sizes.append(pool.workers)
    return sizes, pool, records


def turns(sizes: list[int]) -> int:
    """How often the number changed its direction."""
    moves = [new - old for old, new in pairwise(sizes) if new != old]
    return sum((one > 0) != (other > 0) for one, other in pairwise(moves))


# -- traces ------------------------------------------------------------------------------


def test_a_step_is_answered_in_seconds_and_the_workers_end_as_busy_as_is_aimed_at() -> None:
    sizes, _, _ = simulated(step(0.3, 2.5))
    assert sizes[99] == 1
    assert sizes[103] >= 3  # shedding does not wait
    assert sizes[120] == math.ceil(2.5 / 0.6)
    assert turns(sizes) == 0


def test_a_step_that_sheds_nothing_waits_until_it_has_lasted() -> None:
    sizes, pool, _ = simulated(step(0.5, 0.75))
    assert sizes[100 + int(SETTINGS.up_seconds) - 1] == 1
    assert sizes[100 + int(SETTINGS.up_seconds) + 1] == 2
    assert pool.n_shed == 0


def test_a_spike_adds_workers_at_once_and_they_leave_one_by_one_much_later() -> None:
    sizes, _, _ = simulated(spike(0.4, 4.0))
    top = max(sizes)
    assert sizes[101] >= 3
    last_up = max(place for place, (old, new) in enumerate(pairwise(sizes)) if new > old)
    downs = [place for place, (old, new) in enumerate(pairwise(sizes)) if new < old]
    assert downs[0] - last_up >= SETTINGS.down_seconds
    assert all(later - earlier >= SETTINGS.down_seconds for earlier, later in pairwise(downs))
    assert all(old - new <= 1 for old, new in pairwise(sizes))
    assert sizes[-1] < top
    assert turns(sizes) == 1


def test_spikes_that_come_again_and_again_do_not_make_the_number_go_back_and_forth() -> None:
    sizes, pool, _ = simulated(spikes(0.4, 2.2))
    assert turns(sizes) == 0
    first = pool.n_shed
    _, later, _ = simulated(spikes(0.4, 2.2), workers=sizes[-1])
    assert later.n_shed == 0 < first


def test_a_day_is_followed_without_flapping_and_without_shedding() -> None:
    settings = replace(SETTINGS, down_seconds=300, memory_seconds=600, up_seconds=20)
    sizes, pool, records = simulated(day(0.4, 5.0), settings, every=10.0)
    assert pool.n_shed == 0
    assert min(sizes) == 1
    assert math.ceil(5.0 / 0.6) <= max(sizes) <= math.ceil(5.0 * 1.1 / 0.6)
    assert turns(sizes) <= 4
    assert len(records) <= 2 * (max(sizes) - 1) + 6
    used = [load / n for load, n in zip(day(0.4, 5.0), sizes, strict=True)]
    assert max(used) < 0.8
    assert sum(used) / len(used) > 0.35  # and no hall full of idle workers


def test_requests_that_wait_add_a_worker_although_none_is_very_busy() -> None:
    sizes, _, records = simulated(steady(0.5, 300), service_seconds=0.03)
    assert sizes[-1] > 1
    assert "waited" in records[0].reason
    assert turns(sizes) == 0


def test_requests_that_wait_for_idle_workers_add_none() -> None:
    window = [replace(observed(float(at), 2, 0.1), queue_p90=1.0) for at in range(10)]
    assert decide(window, SETTINGS).workers == 2


def test_every_change_is_recorded_with_what_was_seen() -> None:
    sizes, _, records = simulated(step(0.3, 2.5))
    changes = [(old, new) for old, new in pairwise([1, *sizes]) if old != new]
    assert [(one.before, one.after) for one in records] == changes
    assert "shed" in records[0].reason
    assert records[0].shed > 0
    assert records[0].utilisation == [1.0]
    assert records[-1].queue_p99_ms >= records[-1].queue_p90_ms > 0


# -- laws --------------------------------------------------------------------------------

at_leisure = tried(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LOADS = st.floats(0, 20, allow_nan=False)
BOUNDS = st.tuples(st.integers(1, 6), st.integers(0, 6)).map(lambda both: (both[0], sum(both)))


@at_leisure
@given(st.lists(LOADS, min_size=1, max_size=80), BOUNDS, st.integers(1, 16))
def test_the_number_is_never_outside_of_its_bounds(
    loads: list[float], bounds: tuple[int, int], began: int
) -> None:
    settings = ScalingSettings(least=bounds[0], most=bounds[1], down_seconds=5, memory_seconds=20)
    sizes, _, _ = simulated(iter(loads), settings, workers=began)
    assert all(settings.least <= size <= settings.most for size in sizes)


@at_leisure
@given(LOADS, st.integers(1, 12), st.sampled_from([0.0005, 0.002, 0.01, 0.05]))
def test_a_constant_load_settles_and_never_goes_back_and_forth(
    load: float, began: int, service: float
) -> None:
    settings = replace(SETTINGS, down_seconds=6, memory_seconds=30)
    sizes, _, _ = simulated(steady(load, 260), settings, workers=began, service_seconds=service)
    assert turns(sizes) <= 1
    assert len(set(sizes[-60:])) == 1


@at_leisure
@given(st.floats(0.61, 11), st.integers(1, 11))
def test_too_much_load_is_answered_within_the_time_that_is_set(load: float, workers: int) -> None:
    window: list[Observation] = []
    for at in range(int(SETTINGS.up_seconds) + 2):
        window.append(observed(float(at), workers, load))
        if decide(window, SETTINGS).workers > workers:
            break
    overloaded = load > SETTINGS.utilisation * workers + 1e-6
    assert not overloaded or decide(window, SETTINGS).workers > workers
    if load > workers:
        assert len(window) == 1  # what is shed is answered with the first look


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[Observation], list[Observation]]:
    """Two histories with the same workers; the second has at least as much to do."""
    low, high = [], []
    workers = draw(st.integers(1, 6))
    for at in range(draw(st.integers(1, 60))):
        if draw(st.integers(0, 20)) == 0:
            workers = draw(st.integers(1, 6))
        share = draw(st.floats(0, 1))
        more = draw(st.floats(share, 1))
        waited = draw(st.floats(0, 0.1))
        longer = draw(st.floats(waited, 0.2))
        shed = draw(st.sampled_from([0, 0, 0, 0, 3]))
        one = Observation(float(at), workers, (share,) * workers, waited, waited, 0, shed)
        low.append(one)
        high.append(
            replace(one, utilisation=(more,) * workers, queue_p90=longer, queue_p99=longer,
                    shed=shed + draw(st.sampled_from([0, 0, 2])))
        )  # fmt: skip
    return low, high


@at_leisure
@given(windows())
def test_more_load_never_asks_for_fewer_workers(
    both: tuple[list[Observation], list[Observation]],
) -> None:
    low, high = both
    settings = ScalingSettings(least=1, most=6, down_seconds=10, memory_seconds=40, up_seconds=2)
    assert decide(low, settings).workers <= decide(high, settings).workers


def test_a_number_outside_of_changed_bounds_is_brought_inside_at_once() -> None:
    settings = ScalingSettings(least=2, most=4)
    assert decide([observed(0.0, 1, 0.1)], settings) == Decision(2, "2 workers are the least")
    assert decide([observed(0.0, 9, 0.1)], settings) == Decision(4, "4 workers are the most")


@pytest.mark.parametrize(
    "wrong", [{"least": 0}, {"least": 3, "most": 2}, {"utilisation": 0.0}, {"utilisation": 1.0}]
)
def test_settings_that_contradict_themselves_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        ScalingSettings(**wrong)  # type: ignore[arg-type]
