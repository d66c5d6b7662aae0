"""Decisions about the success metric, against published bounds, scipy, statsmodels, simulation."""

import math

import numpy as np
import pytest

from falaj.rollouts.allocation import mismatch_p_value
from falaj.rollouts.bayesian import chances
from falaj.rollouts.deciding import Progress, decide, planned_units, relative_interval
from falaj.rollouts.effects import Effect, Sums, mean_effect
from falaj.rollouts.groupsequential import Design, next_bound, spending_design
from falaj.rollouts.model import Metric, Success
from falaj.rollouts.planning import plan
from falaj.rollouts.pooled import clusters, comparison, pooled
from falaj.rollouts.segments import adjusted, segment_readings
from falaj.testing.rolloutsimulations import Canary, canaries, successes


def conversions(n, converted):
    return Sums(n=n, y=converted, yy=converted)


def decided(success, a, b, n, progress=None, **more):
    more = {"error": 0.05, "better": "higher", "units": (n, n), **more}
    effect = mean_effect(conversions(n, a), conversions(n, b))
    return decide(success, "new", effect, progress or Progress(), **more)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_bounds_that_are_asked_for_one_look_at_a_time_are_those_of_the_design(spending):
    times = (0.1, 0.35, 0.36, 0.8, 1.0)
    design = spending_design(times, spending=spending)
    found = [next_bound(times[: n + 1], 0.05, spending) for n in range(len(times))]
    assert found == pytest.approx(design.bounds, abs=1e-9)


def test_the_relative_interval_is_fiellers_and_leaves_zero_out_with_the_plain_test():
    # Fieller's example form: g = k² V_a / a², bounds by the printed quadratic.
    a, b, va, vb, k = 10.0, 12.0, 0.09, 0.16, 1.96
    g = k**2 * va / a**2
    q = b / a
    root = k / a * math.sqrt(vb + q**2 * va - g * vb)
    low, high = relative_interval(Effect(a, b, va, vb, 100), k)
    assert (low, high) == pytest.approx(((q - root) / (1 - g) - 1, (q + root) / (1 - g) - 1))
    at_the_edge = Effect(a, a + k * math.sqrt(va + vb), va, vb, 100)
    assert relative_interval(at_the_edge, k)[0] == pytest.approx(0, abs=1e-12)
    assert relative_interval(Effect(0.1, 0.2, 1, 1, 9), k) == (-math.inf, math.inf)


def test_less_is_better_where_it_is_said_and_of_a_loss_too():
    success = Success(metric="m", effect=0.2)
    assert decided(success, 3_000, 2_000, 10_000, better="lower").decided == "better"
    assert decided(success, 3_000, 2_000, 10_000).decided == "worse"
    loss = Effect(-10.0, -5.0, 0.01, 0.01, 10_000)
    more = {"error": 0.05, "units": (1, 1)}
    assert decide(success, "n", loss, Progress(), better="higher", **more).decided == "better"


@pytest.mark.parametrize("method", ["always_valid", "group_sequential"])
def test_too_few_units_and_a_champion_of_nothing_decide_nothing(method):
    success = Success(metric="m", method=method, looks=1, most_units=10)
    assert decided(success, 10, 1, 20).decided is None
    assert decided(success, 0, 500, 1_000).decided is None
    reading = decide(success, "n", None, Progress(), error=0.05, better="higher", units=(0, 0))
    assert (reading.decided, reading.estimate) == (None, None)


def test_the_planned_sample_is_that_of_the_textbook():
    from statsmodels.stats.power import NormalIndPower

    # A conversion of 10 %, a lift of a tenth: the variance of the relative effect of n units in
    # two equal arms is 4 (1 - p) / (p n).
    success = Success(metric="m", method="group_sequential", looks=1, effect=0.1, power=0.9)
    units = planned_units(success, 4 * 0.9 / 0.1, 0.05)
    known = NormalIndPower().solve_power(0.01 / 0.3, power=0.9, alpha=0.05)
    assert units == pytest.approx(2 * known, rel=1e-3)
    assert plan(difference=0.01, standard_deviation=0.3).fixed_units == pytest.approx(
        units, rel=1e-3
    )


def test_a_plan_counts_units_by_what_they_are_worth():
    success = Success(metric="m", most_units=10_000)
    assert planned_units(success, 1.0, 0.05, worth_of_unit=0.36) == 3_600


def test_kohavis_sample_ratio_and_scipys_test_agree():
    from scipy.stats import chisquare

    counts = (821_588, 815_482)
    assert mismatch_p_value(counts, (1, 1)) == pytest.approx(1.8e-6, rel=0.02)
    assert mismatch_p_value(counts, (1, 1)) == pytest.approx(chisquare(counts).pvalue, rel=1e-9)


def test_adjusted_p_values_are_those_of_benjamini_and_hochbergs_paper():
    from scipy.stats import false_discovery_control

    printed = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240,
               0.4262, 0.5719, 0.6528, 0.7590, 1.000]  # fmt: skip
    found = adjusted(printed)
    assert sum(one <= 0.05 for one in found) == 4  # as the paper finds
    assert found == pytest.approx(false_discovery_control(printed))
    assert adjusted([]) == []


def test_segments_that_are_alike_are_seldom_called_different():
    rng, called = np.random.default_rng(5), 0
    metric = Metric(name="m", sql="SELECT 1")
    for _ in range(200):
        values = {
            f"s{k}": tuple(conversions(500, int(rng.binomial(500, 0.2))) for _ in range(2))
            for k in range(10)
        }
        called += any(one.differs for one in segment_readings(metric, {("new", "f"): values}, 0.05))
    assert called / 200 <= 0.09


def test_chances_are_those_of_two_beta_posteriors():
    from scipy.stats import beta

    metric = Metric(name="m", sql="SELECT 1")
    sides = {"champion": conversions(1_000, 100), "new": conversions(1_000, 120)}
    found = {one.variant: one for one in chances(metric, sides)}
    at = np.linspace(0, 0.3, 20_001)
    wins = np.trapezoid(beta.pdf(at, 121, 881) * beta.cdf(at, 101, 901), at)
    assert found["new"].best == pytest.approx(wins, abs=0.01)
    assert found["champion"].expected_loss == pytest.approx(0.02, abs=0.003)
    assert chances(metric, {"champion": conversions(0, 0), "new": conversions(9, 1)}) == []


def test_stretches_are_compared_each_by_itself():
    """A challenger that is alike in both, whose share grew while the metric fell."""
    champion = {0: conversions(9_000, 2_700), 1: conversions(5_000, 500)}
    challenger = {0: conversions(1_000, 300), 1: conversions(5_000, 500), 2: conversions(1, 1)}
    both = pooled(champion, challenger, comparison(Metric(name="m", sql="s").measures))
    assert both.effect.difference == pytest.approx(0)
    assert both.worth == pytest.approx(4 * 9_000 * 1_000 / 10_000 + 10_000)
    assert pooled({0: conversions(5, 1)}, {1: conversions(5, 1)}, mean_effect) is None


def test_a_cluster_counts_as_one_unit_however_many_it_has():
    metric = Metric(name="m", sql="s")
    found = clusters(
        {("a", 0): conversions(10, 5), ("b", 0): conversions(1_000, 100)}, metric.measures
    )
    assert (found.n, found.mean()) == (2, pytest.approx(0.3))


@pytest.mark.parametrize("method", ["always_valid", "group_sequential"])
def test_rollouts_without_a_difference_are_seldom_decided_however_often_one_looks(method):
    success = Success(metric="c", method=method, looks=50, most_units=20_000, effect=0.15)
    found = successes(success, simulations=250, looks=50, most_units=20_000, rate=0.1, lift=0.0,
                      fixed_units=20_000, seed=1)  # fmt: skip
    assert found.decided <= 0.09  # 5 %, and what so few simulations leave open


def test_a_difference_is_found_with_a_third_fewer_users():
    success = Success(metric="c", method="group_sequential", looks=50, most_units=20_000)
    found = successes(success, simulations=250, looks=50, most_units=20_000, rate=0.1, lift=0.15,
                      fixed_units=20_000, seed=2)  # fmt: skip
    assert found.decided >= 0.85
    assert found.users <= 0.72


def test_a_healthy_canary_is_seldom_rolled_back_where_thresholds_always_do():
    found = canaries(Canary(look_seconds=60), simulations=100, minutes=300, seed=3)
    assert np.isfinite(found.ours).mean() <= 0.1
    assert np.isfinite(found.argo).mean() >= 0.95


def test_a_canary_that_converts_worse_is_found_in_time():
    tenth = canaries(Canary(conversion_harm=0.1), simulations=100, minutes=90, seed=4)
    assert np.median(tenth.ours) <= 40
    half = canaries(Canary(conversion_harm=0.5), simulations=100, minutes=10, seed=5)
    assert np.median(half.ours) <= 5


@pytest.mark.nightly
def test_the_figures_of_the_issue_hold_in_full():
    found = canaries(Canary(), simulations=2_000, minutes=24 * 60, seed=6)
    assert np.isfinite(found.ours).mean() <= 0.05
    assert np.median(canaries(Canary(conversion_harm=0.1), simulations=1_000, minutes=240,
                              seed=7).ours) <= 35  # fmt: skip
    success = Success(metric="c", method="group_sequential", looks=100, most_units=43_600)
    alike, better = (
        successes(success, simulations=10_000, looks=100, most_units=43_600, rate=0.1, lift=lift,
                  fixed_units=43_600, seed=8)
        for lift in (0.0, 0.1)
    )  # fmt: skip
    assert alike.decided <= 0.055
    assert better.decided >= 0.9
    assert better.users <= 0.7


@pytest.mark.parametrize("method", ["always_valid", "group_sequential"])
def test_most_units_is_a_number_of_units_whatever_the_shares_were_at_the_first_look(method):
    """Of a canary at 1 %, 100,000 units are worth 3,960; at 50 % so many came soon."""
    success = Success(metric="m", method=method, most_units=100_000, looks=5)
    progress = Progress()
    seen = []
    for counted, worth in ((5_000, 198), (10_000, 5_000), (60_000, 55_000), (100_000, 95_000)):
        half = worth // 2
        effect = mean_effect(conversions(half, half // 10), conversions(half, half // 10))
        reading = decide(success, "new", effect, progress, error=0.05, better="higher",
                         units=(half, half), worth_of_unit=1.0, counted=counted)  # fmt: skip
        seen.append(reading.decided)
    assert seen == [None, None, None, "no_difference"]


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_a_test_that_ends_with_less_information_spends_all_of_its_error_and_no_more(spending):
    times = (0.1, 0.35, 0.6)
    bounds = [next_bound(times[: n + 1], 0.05, spending, ends=n == 2) for n in range(3)]
    assert sum(Design(times, tuple(bounds), 0.05).crossing()) == pytest.approx(0.05, abs=1e-6)
    assert bounds[-1] < next_bound(times, 0.05, spending)
