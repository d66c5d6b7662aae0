"""Confidence sequences and tests of events: their errors over all looks, and their power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincc, logsumexp

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.sequences import EventTest, _log_above, mean_sequence, tightest


def test_the_tuning_makes_the_sequence_narrowest_where_it_was_asked_for():
    def width(n, tuned_for):
        found = mean_sequence(0.0, 1 / n, n, tuned_for=tuned_for)
        return found.high - found.low

    at = 5_000
    others = [width(at, at * factor) for factor in (0.25, 0.5, 0.8, 1.25, 2, 4)]
    assert width(at, at) <= min(others)


def test_the_sequence_is_the_printed_formula():
    n, alpha, variance = 400.0, 0.05, 2.0 / 400
    rho2 = tightest(10_000, alpha) ** 2
    radius = math.sqrt(variance * n) * math.sqrt(
        2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    )
    found = mean_sequence(1.0, variance, n, alpha=alpha)
    assert (found.low, found.high) == pytest.approx((1.0 - radius, 1.0 + radius))


@pytest.mark.parametrize("side", ["both", "below", "above"])
def test_the_truth_is_seldom_ever_outside(side):
    rng, walks, n = np.random.default_rng(3), 2_000, 4_000
    looks = np.unique(np.geomspace(100, n, 60).astype(int))
    out = np.zeros(walks, dtype=bool)
    for walk in range(walks):
        values = rng.exponential(size=n)
        sums, squares = np.cumsum(values), np.cumsum(values**2)
        for look in looks:
            mean = sums[look - 1] / look
            variance = (squares[look - 1] / look - mean**2) / look
            found = mean_sequence(mean, variance, look, side=side, tuned_for=1_000)
            if not found.low <= 1.0 <= found.high:
                out[walk] = True
                break
    assert out.mean() <= 0.06  # 5 % and what two thousand walks leave open


def test_one_side_is_bounded_more_tightly_than_two():
    both = mean_sequence(0.0, 1e-4, 10_000)
    assert both.low < mean_sequence(0.0, 1e-4, 10_000, side="below").low < 0
    assert mean_sequence(0.0, 1e-4, 10_000, side="above").low == -math.inf


@pytest.mark.parametrize(
    ("variance", "units", "alpha"), [(1.0, 0, 0.05), (-1, 5, 0.05), (1, 5, 0), (math.nan, 5, 0.1)]
)
def test_nonsense_is_refused(variance, units, alpha):
    with pytest.raises(InvalidInput):
        mean_sequence(0.0, variance, units, alpha=alpha)


@pytest.mark.parametrize("side", ["both", "below", "above"])
@pytest.mark.parametrize("units", [1, 4, 1_000_000])
def test_units_that_are_all_alike_make_nothing_certain(side, units):
    found = mean_sequence(1.0, 0.0, units, side=side)
    assert (found.estimate, found.low, found.high) == (1.0, -math.inf, math.inf)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.05, 0.9), st.floats(0.5, 2))
@settings(max_examples=40)
def test_the_evidence_is_the_integral_that_it_says(events, others, share, tolerated):
    test = EventTest(share, tolerated=tolerated)
    at = np.linspace(test.null, 1, 40_001)[1:-1]

    def logarithm(a, b):
        """ln of the integral of the likelihood ratio times the density, both cut off."""
        density = (a - 1) * np.log(at) + (b - 1) * np.log1p(-at)
        ratio = events * np.log(at / test.null) + others * np.log((1 - at) / (1 - test.null))
        return logsumexp(density + ratio) - logsumexp(density)

    both = [logarithm(*test._near()), logarithm(1.0, 1.0)]
    assert test.log_evidence(events, others) == pytest.approx(
        logsumexp(both) - math.log(2), abs=0.02
    )


def test_before_any_event_there_is_no_evidence():
    assert EventTest(0.1).log_evidence(0, 0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_variant_that_is_alike_is_seldom_ever_called_harmful(share):
    rng, n, runs = np.random.default_rng(4), 2_000, 1_500
    test = EventTest(share)
    looks = range(5, n, 25)
    wrong = 0
    for _ in range(runs):
        fell = np.cumsum(rng.random(n) < share)
        wrong += any(test.harmful(int(fell[k - 1]), int(k - fell[k - 1])) for k in looks)
    assert wrong / runs <= 0.06


def test_a_variant_that_fails_twice_as_often_is_found_within_some_hundred_events():
    rng, test = np.random.default_rng(6), EventTest(0.1)
    null = 0.1 * 2 / (0.1 * 2 + 0.9)
    found = []
    for _ in range(200):
        fell = np.cumsum(rng.random(3_000) < null)
        looks = (
            k for k in range(5, 3_000, 5) if test.harmful(int(fell[k - 1]), int(k - fell[k - 1]))
        )
        found.append(next(looks, 3_000))
    assert np.median(found) <= 250


def test_a_dead_variant_is_found_by_its_first_failures():
    assert EventTest(0.1).harmful(6, 0, alpha=0.01)


def test_what_is_tolerated_is_no_harm():
    events, others = 150, 900
    assert EventTest(0.1).harmful(events, others)
    assert not EventTest(0.1, tolerated=1.5).harmful(events, others)


def test_evidence_far_out_is_a_number():
    assert math.isfinite(EventTest(0.5).log_evidence(5_000_000, 10))
    assert math.isfinite(EventTest(0.5).log_evidence(10, 5_000_000))
    assert math.isfinite(EventTest(0.001).log_evidence(3, 90_000_000))


@pytest.mark.parametrize("share", [0.0, 1.0, -1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InvalidInput):
        EventTest(share)


@pytest.mark.parametrize(("a", "b", "p"), [(3, 900, 0.3), (40, 4_000, 0.12), (1, 500, 0.7)])
def test_the_far_tail_of_a_beta_goes_on_where_floating_point_ends(a, b, p, monkeypatch):
    known = math.log(betaincc(a, b, p))
    monkeypatch.setattr("falaj.rollouts.sequences._SMALLEST", 2.0)
    assert _log_above(a, b, p) == pytest.approx(known, rel=1e-9)
