"""Intervals of proportions against published values and scipy; Holm against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.models.gating.proportions import distance, holm, newcombe, wilson
from falaj.models.intervals import Interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilsons_interval_has_the_values_of_newcombes_first_paper(successes, n, low, high):
    """Newcombe, Stat. Med. 17 (1998) 857-872, table I, method 3."""
    found = wilson(successes, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize(
    ("a", "m", "b", "n", "low", "high"),
    [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090),
     (5, 56, 0, 29, -0.0381, 0.1926), (0, 10, 0, 20, -0.1611, 0.2775),
     (10, 10, 0, 20, 0.6791, 1.0)],
)  # fmt: skip
def test_a_difference_has_the_values_of_newcombes_second_paper(a, m, b, n, low, high):
    """Newcombe, Stat. Med. 17 (1998) 873-890, table II, method 10."""
    found = newcombe(a, m, b, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(st.integers(1, 400), st.data())
@settings(deadline=None)  # the first example imports scipy.stats
def test_wilsons_interval_is_scipys(n, data):
    stats = pytest.importorskip("scipy.stats")
    k = data.draw(st.integers(0, n))
    ours = wilson(k, n, confidence=0.9)
    theirs = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)


def test_nothing_tried_tells_nothing():
    assert wilson(0, 0) == Interval(0.0, 0.0, 1.0)


def test_a_distance_does_not_care_which_is_greater():
    assert distance(Interval(-0.3, -0.4, -0.2)) == Interval(0.3, 0.2, 0.4)
    assert distance(Interval(0.1, -0.05, 0.25)) == Interval(0.1, 0.0, 0.25)


def test_holm_adjusts_step_by_step_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for given_p, found in zip(p_values, adjusted, strict=True):
        assert given_p <= found <= min(1.0, given_p * len(p_values)) + 1e-12 or found == max(
            adjusted
        )
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
