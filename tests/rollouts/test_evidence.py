"""E-values of harm, against integrals, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binom, norm

from falaj.rollouts.evidence import (
    _HARM_WEIGHTS,
    _HARMS,
    _RATIO_WEIGHTS,
    _RATIOS,
    EventCurve,
    mean_evidence,
    threshold,
)
from falaj.rollouts.guardrails import gap_harm, mean_harm, proportion_variance
from falaj.rollouts.sequences import EventTest


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.02, 0.98), st.floats(0, 1))
@settings(max_examples=40)
def test_the_evidence_of_events_is_a_mean_of_likelihood_ratios(events, others, share, tolerated):
    curve = EventCurve.empty(tolerated)
    curve.add(events, others, share, 1 - share)
    odds = share / (1 - share) * (1 + tolerated)
    n = events + others

    def likelihood(times):
        return binom.logpmf(events, n, odds * times / (1 + odds * times))

    ratios = [likelihood(np.exp(one)) - likelihood(1.0) for one in _RATIOS]
    wanted = logsumexp(ratios, b=_RATIO_WEIGHTS)
    assert curve.log_evidence()[0] == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@given(st.floats(0.02, 0.98), st.integers(1, 60), st.floats(0, 1), st.floats(0.2, 1))
@settings(max_examples=40)
def test_without_excess_the_mean_of_the_e_value_is_at_most_one(share, n, tolerated, less):
    """Over all splits of n events, under the largest rate that is tolerated, or a lesser one."""
    curve = EventCurve.empty(tolerated, (n + 1,), nulls=1)
    k = np.arange(n + 1)
    curve.add(k, n - k, np.full(n + 1, share), np.full(n + 1, 1 - share))
    odds = share / (1 - share) * (1 + tolerated) * less
    mean = logsumexp(curve.log_evidence()[:, 0] + binom.logpmf(k, n, odds / (1 + odds)))
    assert mean <= 1e-9


def test_stretches_of_any_share_add_up_in_any_order():
    parts = [(3, 40, 0.1, 0.9), (9, 10, 0.5, 0.5), (0, 2, 0.01, 0.99), (1, 1, 1.0, 0.0)]
    sums = []
    for order in (parts, parts[::-1]):
        curve = EventCurve.empty(0.0)
        for part in order:
            curve.add(*part)
        sums.append(curve.log_evidence())
    assert sums[0] == pytest.approx(sums[1])


def test_arrays_give_what_numbers_give():
    many = EventCurve.empty(0.2, (3,))
    many.add([1, 5, 9], [30, 20, 10], [10, 10, 10], [90, 50, 10])
    for place, part in enumerate([(1, 30, 10, 90), (5, 20, 10, 50), (9, 10, 10, 10)]):
        one = EventCurve.empty(0.2)
        one.add(*part)
        assert many.log_evidence()[place] == pytest.approx(one.log_evidence())


def test_the_grid_loses_little_against_the_mixture_over_all_rates():
    for events, others in ((30, 90), (150, 900), (20, 60), (9, 5)):
        curve = EventCurve.empty(0.0)
        curve.add(events, others, 0.1, 0.9)
        assert curve.log_evidence()[0] > EventTest(0.1).log_evidence(events, others) - 1.5


def test_how_much_worse_is_a_bound_that_seldom_exceeds_the_truth():
    rng, times, wrong = np.random.default_rng(3), 2.0, 0
    p = 0.2 * times / (0.2 * times + 0.8)
    for _ in range(300):
        curve = EventCurve.empty(0.0)
        for _ in range(40):
            events = rng.binomial(25, p)
            curve.add(events, 25 - events, 0.2, 0.8)
            told = curve.worse_by(0.05)
            if told is not None and told > times - 1 + 1e-9:
                wrong += 1
                break
    assert wrong / 300 <= 0.07
    assert curve.worse_by(0.05) >= 0.2


def test_evidence_of_events_far_out_is_a_number():
    for part in ((5_000_000, 10, 0.5, 0.5), (10, 5_000_000, 0.5, 0.5), (3, 9e7, 1e-9, 1.0)):
        curve = EventCurve.empty(0.0)
        curve.add(*part)
        assert np.isfinite(curve.log_evidence()).all()


def test_the_evidence_of_a_mean_is_the_mixture_that_it_says():
    x, v, scale = 0.012, 2e-5, 0.1
    theta = _HARMS * scale
    ratios = norm.logpdf(x, theta, v**0.5) - norm.logpdf(x, 0, v**0.5)
    assert mean_evidence(x, v, scale) == pytest.approx(logsumexp(ratios, b=_HARM_WEIGHTS))
    assert mean_evidence(x, 0.0, scale) == 0
    assert mean_evidence(-1.0, v, scale) < 0


@pytest.mark.parametrize(("better", "champion"), [("higher", 5.0), ("lower", 5.0), ("lower", -5.0)])
def test_harm_is_told_in_the_direction_that_is_worse(better, champion):
    worse = champion * (1 - 0.2 * np.sign(champion) * (1 if better == "higher" else -1))
    best = 2 * champion - worse
    harm, good = (
        mean_harm(champion, one, 1e-3, 1e-3, tolerated=0.1, better=better) for one in (worse, best)
    )
    assert harm > threshold(0.001)
    assert good < 0
    assert mean_harm(champion, worse, 1e-3, 1e-3, tolerated=0.3, better=better) < 0


def test_a_proportion_without_a_conversion_yet_is_not_certain():
    variance, enough = proportion_variance(0.05, 0.0, 100, tolerated=0.0, better="higher")
    assert variance == pytest.approx(0.05 * 0.95 / 100)
    assert not enough
    assert proportion_variance(0.05, 0.0, 300, tolerated=0.0, better="higher")[1]


def test_a_gap_that_was_there_before_is_no_harm_and_one_that_turned_round_neither():
    assert gap_harm(0.2, 0.2, 1e-4, 0.5, tolerated=0.0) < threshold(0.05)
    assert gap_harm(-0.2, 0.2, 1e-4, 0.5, tolerated=0.0) < threshold(0.05)
    assert gap_harm(0.0, 0.2, 1e-4, 0.5, tolerated=0.05) > threshold(0.001)
