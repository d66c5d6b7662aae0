"""Thompson sampling with a floor."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.bandit import conversion_shares, mean_shares


def test_shares_are_the_chances_to_be_best():
    # P(Beta(31, 71) > Beta(21, 81)) by an independent simulation.
    rng = np.random.default_rng(99)
    chance = (rng.beta(31, 71, 400_000) > rng.beta(21, 81, 400_000)).mean()
    shares = conversion_shares([20, 30], [100, 100], floor=0.0)
    assert shares[1] == pytest.approx(chance, abs=0.01)


def test_nobody_gets_less_than_the_floor_and_all_sums_to_one():
    shares = conversion_shares([5, 500, 900], [1000, 1000, 1000], floor=0.1)
    assert min(shares) == pytest.approx(0.1)
    assert sum(shares) == pytest.approx(1)
    assert shares[2] == pytest.approx(0.8)


def test_without_data_all_get_about_the_same():
    assert conversion_shares([0, 0], [0, 0]) == pytest.approx([0.5, 0.5], abs=0.02)
    assert mean_shares([1.0, 1.0, 1.0], [0.1] * 3) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_the_same_counts_and_seed_give_the_same_shares():
    assert conversion_shares([3, 4], [9, 9], seed=5) == conversion_shares([3, 4], [9, 9], seed=5)


def test_over_many_rounds_most_units_meet_the_better_variant():
    rng, rates = np.random.default_rng(3), np.array([0.10, 0.13])
    won, met = np.zeros(2), np.zeros(2)
    for round_ in range(60):
        shares = conversion_shares([int(w) for w in won], [int(m) for m in met], seed=round_)
        new = rng.multinomial(500, shares)
        met += new
        won += rng.binomial(new, rates)
    assert met[1] / met.sum() > 0.75


@pytest.mark.parametrize(
    ("conversions", "units", "floor"),
    [([2], [1], 0), ([1], [2], 0), ([1, 1], [2, 2], 0.6), ([-1, 1], [2, 2], 0)],
)
def test_counts_and_floors_that_do_not_fit_are_refused(conversions, units, floor):
    with pytest.raises(InvalidInput):
        conversion_shares(conversions, units, floor=floor)
