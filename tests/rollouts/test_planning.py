"""Plans against the textbook formula, and against tests that are run by them."""

import math

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.groupsequential import spending_design
from falaj.rollouts.planning import plan


def test_one_look_needs_what_the_textbook_says():
    # n = 2 (z(0.975) + z(0.9))^2 s^2 / d^2 in each of two equal groups.
    told = plan(difference=0.5, standard_deviation=2.0)
    each = 2 * (1.959964 + 1.281552) ** 2 * 4 / 0.25
    assert told.units == pytest.approx(2 * each, rel=1e-3)
    assert told.units == told.fixed_units


def test_a_small_share_needs_more_units():
    even = plan(difference=0.1, standard_deviation=1.0)
    tenth = plan(difference=0.1, standard_deviation=1.0, share=0.1)
    assert tenth.units / even.units == pytest.approx((1 / 0.1 + 1 / 0.9) / 4, rel=1e-2)


def test_looks_cost_some_units_at_most_and_save_more_on_average():
    told = plan(difference=0.1, standard_deviation=1.0, looks=20, units_a_day=500)
    assert told.fixed_units < told.units < 1.1 * told.fixed_units
    assert told.expected_units < 0.8 * told.fixed_units
    assert told.days == pytest.approx(told.units / 500)


def test_tests_that_are_run_by_the_plan_find_the_difference_as_often_as_it_says():
    told = plan(difference=0.3, standard_deviation=1.0, looks=5, power=0.8)
    design = spending_design([k / 5 for k in range(1, 6)])
    rng, found, n = np.random.default_rng(7), 0, math.ceil(told.units / 10)
    for _ in range(2_000):
        gap = rng.normal(0.3, 1, (5, n)).mean(axis=1) - rng.normal(0, 1, (5, n)).mean(axis=1)
        means = np.cumsum(gap) / np.arange(1, 6)
        z = means / np.sqrt(2 / (n * np.arange(1, 6)))
        found += bool((np.abs(z) >= np.array(design.bounds)).any())
    assert found / 2_000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [{"difference": 0.0}, {"share": 1.0}, {"looks": 0}, {"power": 0.01}, {"standard_deviation": 0}],
)
def test_a_plan_of_nothing_is_refused(wrong):
    with pytest.raises(InvalidInput):
        plan(**{"difference": 0.1, "standard_deviation": 1.0, **wrong})
