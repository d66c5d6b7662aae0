from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from falaj.monitoring.counts import (
    benjamini_hochberg,
    chi_squared,
    grouped,
    jensen_shannon,
    kolmogorov_smirnov,
    population_stability,
    proportions_differ,
)

counts = st.lists(st.integers(0, 10_000), min_size=2, max_size=64).filter(lambda c: sum(c) > 0)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_psi_of_a_published_scorecard_example() -> None:
    # Siddiqi (2006), the stability report's arithmetic: (A-E) ln(A/E) summed over bins.
    expected = array(10, 20, 40, 20, 10)
    actual = array(15, 25, 30, 20, 10)
    by_hand = (0.05 * np.log(1.5)) + (0.05 * np.log(1.25)) + (-0.10 * np.log(0.75))
    assert population_stability(expected, actual) == pytest.approx(by_hand, abs=1e-12)


def test_psi_of_a_shifted_normal_approaches_its_closed_form() -> None:
    # The symmetric Kullback-Leibler divergence of N(0,1) and N(d,1) is d².
    edges = stats.norm.ppf(np.linspace(0, 1, 1001)[1:-1])
    for shift in (0.1, 0.3, 0.5):
        p = np.diff(np.concatenate(([0], stats.norm.cdf(edges), [1])))
        q = np.diff(np.concatenate(([0], stats.norm.cdf(edges - shift), [1])))
        assert population_stability(p * 1e9, q * 1e9) == pytest.approx(shift**2, rel=0.02)


def test_jensen_shannon_is_that_of_scipy() -> None:
    from scipy.spatial.distance import jensenshannon

    p, q = array(1, 5, 2, 0), array(3, 1, 1, 4)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-12)
    assert jensen_shannon(array(1, 0), array(0, 1)) == pytest.approx(1)


def test_ks_on_the_values_own_edges_is_the_exact_one() -> None:
    random = np.random.default_rng(1)
    a, b = random.gamma(2, size=500), random.gamma(2.4, size=700)
    edges = np.unique(np.concatenate((a, b)))
    count = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (a, b)]
    exact = stats.ks_2samp(a, b).statistic
    assert kolmogorov_smirnov(*(c.astype(float) for c in count)) == pytest.approx(exact, abs=1e-12)


def test_chi_squared_of_agrestis_party_by_gender_table() -> None:
    # Agresti, Categorical Data Analysis (2007), table 2.5: X² = 30.1, df = 2.
    statistic, p = chi_squared(array(762, 327, 468), array(484, 239, 477))
    assert statistic == pytest.approx(30.07, abs=0.005)
    assert p == pytest.approx(2.954e-07, rel=1e-3)


@given(counts, st.data())
def test_chi_squared_is_scipys_where_no_bin_is_joined(
    first: list[int], data: st.DataObject
) -> None:
    second = data.draw(st.lists(st.integers(50, 9000), min_size=len(first), max_size=len(first)))
    first = [value + 50 for value in first]
    smaller = min(sum(first), sum(second)) / (sum(first) + sum(second))
    if any((a + b) * smaller < 5 for a, b in zip(first, second, strict=True)):
        return
    statistic, p = chi_squared(array(*first), array(*second))
    want = stats.chi2_contingency([first, second], correction=False)
    assert statistic == pytest.approx(want.statistic, rel=1e-9, abs=1e-9)
    assert p == pytest.approx(want.pvalue, rel=1e-6, abs=1e-12)


def test_rare_bins_are_joined_until_the_approximation_holds() -> None:
    assert chi_squared(array(1, 1, 1), array(1, 0, 1)) == (0.0, 1.0)
    assert chi_squared(array(0, 0), array(1, 1)) == (0.0, 1.0)
    statistic, _ = chi_squared(array(50, 1, 49), array(50, 0, 50))
    joined, _ = chi_squared(array(50, 50), array(50, 50))
    assert statistic < 1.1
    assert joined == 0


def test_benjamini_hochberg_on_the_papers_fifteen_p_values() -> None:
    # Benjamini and Hochberg (1995), section 3.2: four hypotheses are rejected at q = 0.05.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240,
         0.4262, 0.5719, 0.6528, 0.7590, 1.0000]  # fmt: skip
    adjusted = benjamini_hochberg(p)
    assert [value <= 0.05 for value in adjusted] == [True] * 4 + [False] * 11
    assert adjusted == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(list(stats.false_discovery_control(p)))


@given(counts, st.data())
def test_distances_are_none_for_equal_shares_and_never_negative(
    first: list[int], data: st.DataObject
) -> None:
    second = data.draw(st.lists(st.integers(0, 9000), min_size=len(first), max_size=len(first)))
    a = array(*first)
    assert population_stability(a, a) == 0
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-7)
    if not sum(second):
        return
    b = array(*second)
    assert population_stability(a, b) >= 0
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 <= jensen_shannon(a, b) <= 1 + 1e-9
    assert 0 <= kolmogorov_smirnov(a, b) <= 1 + 1e-9


@given(counts, st.integers(2, 12))
def test_grouping_keeps_every_row(first: list[int], n_groups: int) -> None:
    a = array(*first)
    coarse, other = grouped(a, a[::-1].copy(), n_groups)
    assert coarse.sum() == pytest.approx(a.sum())
    assert other.sum() == pytest.approx(a.sum())
    assert len(coarse) <= max(n_groups, len(a) if len(a) <= n_groups else 0)


def test_a_difference_of_proportions_is_the_textbooks() -> None:
    # 40 of 100 against 55 of 100: z = -2.125, p = 0.0336.
    assert proportions_differ(40, 100, 55, 100) == pytest.approx(0.0336, abs=5e-4)
    assert proportions_differ(0, 100, 0, 100) == 1
    assert proportions_differ(0, 0, 5, 100) == 1
