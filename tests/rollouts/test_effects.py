"""Effects against the rows that their sums were made of, and against simulation."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.effects import Sums, adjusted_effect, mean_effect, ratio_effect


def summed(y, d=None, x=None):
    d = np.zeros_like(y) if d is None else d
    x = np.zeros_like(y) if x is None else x
    return Sums(len(y), y.sum(), y @ y, d.sum(), d @ d, y @ d, x.sum(), x @ x, x @ y)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(1, 29))
def test_sums_of_parts_are_the_sums_of_the_whole(values, cut):
    units = [Sums.of(value, d=1.0, x=value / 2) for value in values]
    whole = reduce(Sums.__add__, units)
    cut = min(cut, len(units) - 1)
    parts = reduce(Sums.__add__, units[:cut]) + reduce(Sums.__add__, units[cut:])
    assert parts.mean() == pytest.approx(whole.mean())
    assert whole.covariance("y", "y") == pytest.approx(np.var(values, ddof=1), abs=1e-6)


def test_a_difference_of_means_is_welchs():
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 2, 400), rng.normal(3.4, 1, 900)
    effect = mean_effect(summed(a), summed(b))
    assert effect.z == pytest.approx(ttest_ind(b, a, equal_var=False).statistic)


def test_a_ratio_has_the_spread_that_repeated_samples_show():
    rng = np.random.default_rng(2)

    def side(lift):
        views = 1 + rng.poisson(4, size=1_000)
        clicks = rng.binomial(views, 0.2 * lift * rng.uniform(0.5, 1.5, size=1_000))
        return summed(clicks.astype(float), views.astype(float))

    effects = [ratio_effect(side(1.0), side(1.1)) for _ in range(600)]
    seen = np.std([effect.difference for effect in effects])
    said = np.mean([effect.variance**0.5 for effect in effects])
    assert said == pytest.approx(seen, rel=0.08)
    assert np.mean([effect.difference for effect in effects]) == pytest.approx(0.02, abs=0.001)


def test_a_covariate_takes_its_share_of_the_variance_away_and_keeps_the_effect():
    rng = np.random.default_rng(3)

    def side(lift, n):
        x = rng.normal(0, 1, n)
        return summed(lift + 0.8 * x + 0.6 * rng.normal(0, 1, n), x=x)

    pairs = [(side(0.0, 500), side(0.1, 700)) for _ in range(400)]
    plain = [mean_effect(*pair) for pair in pairs]
    adjusted = [adjusted_effect(*pair) for pair in pairs]
    assert np.mean([one.difference for one in adjusted]) == pytest.approx(0.1, abs=0.006)
    shrunk = np.mean([one.variance for one in adjusted]) / np.mean([one.variance for one in plain])
    assert shrunk == pytest.approx(1 - 0.8**2, abs=0.02)  # the share that the correlation leaves
    said = np.mean([one.variance**0.5 for one in adjusted])
    assert said == pytest.approx(np.std([one.difference for one in adjusted]), rel=0.12)


def test_without_a_covariate_the_adjustment_changes_nothing():
    rng = np.random.default_rng(4)
    a, b = summed(rng.normal(size=50)), summed(rng.normal(size=60))
    assert adjusted_effect(a, b).z == pytest.approx(mean_effect(a, b).z)


def test_a_relative_difference_has_the_spread_that_repeated_samples_show():
    rng = np.random.default_rng(5)
    told = [
        mean_effect(summed(rng.exponential(2.0, 500)), summed(rng.exponential(2.2, 800))).relative()
        for _ in range(800)
    ]
    assert np.mean([share for share, _ in told]) == pytest.approx(0.1, abs=0.01)
    said = np.mean([variance**0.5 for _, variance in told])
    assert said == pytest.approx(np.std([share for share, _ in told]), rel=0.08)


def test_too_few_units_and_a_control_of_nothing_are_told():
    one, two = Sums.of(1.0), Sums.of(0.0) + Sums.of(0.0)
    with pytest.raises(InvalidInput, match="too few"):
        mean_effect(one, two)
    with pytest.raises(InvalidInput, match="denominator"):
        ratio_effect(two, two)
    with pytest.raises(InvalidInput, match="is 0"):
        mean_effect(two, two + one).relative()
