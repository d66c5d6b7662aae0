from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.serving.batching import Costs, Linger


@given(st.floats(0, 0.01), st.floats(1e-6, 0.001), st.lists(st.integers(1, 64), min_size=20))
def test_costs_are_learned_from_runs_of_different_sizes(
    fixed: float, per_row: float, sizes: list[int]
) -> None:
    costs = Costs()
    for size in sizes:
        costs.saw(size, fixed + per_row * size)
    for size in sizes:
        assert costs.expected(size) == pytest.approx(fixed + per_row * size, rel=0.35)


@given(st.integers(1, 50), st.floats(1e-6, 0.01))
def test_runs_of_one_size_are_told_as_the_cost_of_their_rows(size: int, per_row: float) -> None:
    costs = Costs()
    for _ in range(10):
        costs.saw(size, per_row * size)
    assert costs.per_row == pytest.approx(per_row)
    assert costs.rows_within(per_row * 100) in {99, 100}


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0, 1)), min_size=1))
def test_costs_are_never_negative_and_a_run_of_one_row_is_always_allowed(
    runs: list[tuple[int, float]],
) -> None:
    costs = Costs()
    for size, seconds in runs:
        costs.saw(size, seconds)
    assert costs.fixed >= 0
    assert costs.per_row >= 0
    assert costs.rows_within(0.001) >= 1


@pytest.mark.parametrize("seconds", [5e-324, 1e-310, 1e-300])
def test_rows_that_cost_next_to_nothing_fit_in_any_number_that_is_one(seconds: float) -> None:
    costs = Costs()
    costs.saw(1, seconds)
    assert costs.rows_within(0.001) == 1 << 20
    costs.fixed = 1.0
    assert costs.rows_within(0.001) == 1


def rows_a_second(
    *,
    fixed: float,
    per_row: float,
    clients: int,
    think: float,
    linger: Linger | None,
    seconds: float = 40.0,
) -> float:
    """Closed-loop clients against one server that batches what waits; the last half of a while."""
    costs = Costs()
    arrivals = [(number * 1e-5, number) for number in range(clients)]
    heapq.heapify(arrivals)
    now, answered = 0.0, 0
    while now < seconds:
        begin = max(now, arrivals[0][0])
        if linger is not None:
            begin += linger.seconds(costs)
        batch = []
        while arrivals and arrivals[0][0] <= begin:
            batch.append(heapq.heappop(arrivals)[1])
        took = fixed + per_row * len(batch)
        now = begin + took
        costs.saw(len(batch), took)
        if linger is not None:
            linger.saw(len(batch), costs, now)
        for number in batch:
            heapq.heappush(arrivals, (now + think * (1 + number % 3), number))
        if now > seconds / 2:
            answered += len(batch)
    return answered / (seconds / 2)


def test_waiting_pays_where_a_run_costs_much_beside_its_rows() -> None:
    world = {"fixed": 0.02, "per_row": 0.0001, "clients": 16, "think": 0.001}
    linger = Linger()
    assert rows_a_second(**world, linger=linger) > 1.2 * rows_a_second(**world, linger=None)  # type: ignore[arg-type]


def test_waiting_is_never_tried_where_a_run_costs_little() -> None:
    world = {"fixed": 0.00005, "per_row": 0.00002, "clients": 16, "think": 0.0001}
    world["seconds"] = 4.0  # of many small runs
    linger = Linger(rest=0.5)
    assert rows_a_second(**world, linger=linger) == rows_a_second(**world, linger=None)  # type: ignore[arg-type]
    assert not linger.on


def test_waiting_costs_a_lonely_client_nothing() -> None:
    world = {"fixed": 0.02, "per_row": 0.0001, "clients": 1, "think": 0.001}
    linger = Linger()
    assert rows_a_second(**world, linger=linger) == rows_a_second(**world, linger=None)  # type: ignore[arg-type]


def test_waiting_is_switched_off_again_when_it_does_not_pay_any_more() -> None:
    linger, costs, now = Linger(), Costs(), 0.0
    linger.on = True
    for _ in range(2_000):
        waited = linger.seconds(costs)
        now += waited + 0.01
        costs.saw(2, 0.01 + 1e-6 * (int(now * 1e6) % 3))
        costs.fixed = 0.009
        linger.saw(2, costs, now)  # the same rows whether it waits or not
    assert not linger.on
