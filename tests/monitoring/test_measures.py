from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from falaj.monitoring import counts
from falaj.monitoring.measures import TEST_SHARES, measured
from falaj.monitoring.seen import Layout, Seen
from falaj.testing.columns import Pair

EDGES = 30
columns = st.lists(st.integers(0, 3_000), min_size=EDGES + 1, max_size=EDGES + 1)


def seen(rows: list[list[int]]) -> Seen:
    matrix = np.array(rows, dtype=np.float64)
    n = len(rows)
    zero, unknown = np.zeros(n), np.full(n, np.nan)
    return Seen(int(matrix.sum()), matrix, zero, zero, unknown, unknown, unknown, unknown)


def in_groups(before: np.ndarray, now: np.ndarray, n_rows: int) -> list[np.ndarray]:
    middles = (np.cumsum(before) - before / 2) / before.sum()
    fewest = 10 / max(n_rows, 1)
    cuts = TEST_SHARES[(fewest <= TEST_SHARES) & (1 - fewest >= TEST_SHARES)]
    full = middles[before > 0]
    groups = np.searchsorted(cuts, np.clip(middles, full.min(), full.max()), side="right")
    places = sorted(set(groups.tolist()))
    return [np.array([one[groups == place].sum() for place in places]) for one in (before, now)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(columns, columns), min_size=1, max_size=4), st.booleans())
def test_all_columns_at_once_measure_as_each_by_itself(
    pairs: list[tuple[list[int], list[int]]], ordered: bool
) -> None:
    n = len(pairs)
    edges = tuple(np.arange(EDGES, dtype=np.float64) for _ in range(n))
    layout = Layout(
        tuple(f"x{i}" for i in range(n)), np.full(n, ordered), np.zeros(n, dtype=bool),
        edges if ordered else tuple(np.zeros(0) for _ in range(n)), np.full(n, EDGES + 1),
    )  # fmt: skip
    ours = measured(layout, seen([one for one, _ in pairs]), seen([one for _, one in pairs]))
    n_rows = min(seen([one[side] for one in pairs]).n for side in (0, 1))
    for place, pair in enumerate(pairs):
        before, now = (np.array(one, dtype=np.float64) for one in pair)
        if not before.sum() or not now.sum():
            assert (ours.psi[place], ours.p_value[place]) == (0, 1)
            continue
        coarse = counts.grouped(before, now) if ordered else (before, now)
        assert ours.psi[place] == pytest.approx(counts.population_stability(*coarse), abs=1e-9)
        js = counts.jensen_shannon(*coarse)
        assert ours.jensen_shannon[place] == pytest.approx(js, abs=1e-7)
        if ordered:
            assert ours.ks[place] == pytest.approx(counts.kolmogorov_smirnov(before, now), abs=1e-9)
        else:
            assert np.isnan(ours.ks[place])
        tested = in_groups(before, now, n_rows) if ordered else (before, now)
        p = counts.chi_squared(*tested)[1]
        assert ours.p_value[place] == pytest.approx(min(1.0, 2 * p), rel=1e-6, abs=1e-12)


def test_the_measures_of_two_normals_are_their_closed_forms() -> None:
    random = np.random.default_rng(11)
    n = 200_000
    for shift, scale in ((0.25, 1.0), (0.5, 1.0), (0.0, 1.5), (0.0, 0.7), (1.0, 2.0)):
        pair = Pair(random.normal(size=n), random.normal(shift, scale, size=n))
        told = pair.drift()[0]
        # KS: the greatest difference of the two distribution functions.
        at = np.linspace(-8, 8, 20_001)
        first, second = stats.norm.cdf(at), stats.norm.cdf(at, shift, scale)
        assert told.ks == pytest.approx(np.abs(first - second).max(), abs=0.004)
        # Wasserstein: the area between them.
        area = float(np.trapezoid(np.abs(first - second), at))
        assert told.wasserstein == pytest.approx(area, rel=0.05, abs=0.005)
        if scale == 1:
            assert area == pytest.approx(shift, rel=1e-6)
            assert told.ks == pytest.approx(2 * stats.norm.cdf(shift / 2) - 1, abs=0.004)
        # PSI and Jensen-Shannon over deciles of the reference.
        edges = np.concatenate(([-np.inf], stats.norm.ppf(np.linspace(0.1, 0.9, 9)), [np.inf]))
        p, q = np.full(10, 0.1), np.diff(stats.norm.cdf(edges, shift, scale))
        assert told.psi == pytest.approx(float(np.sum((q - p) * np.log(q / p))), rel=0.06)
        middle = (p + q) / 2
        js = (p @ np.log2(p / middle) + q @ np.log2(q / middle)) / 2
        assert told.jensen_shannon == pytest.approx(np.sqrt(js), rel=0.04)


def test_wasserstein_is_scipys_on_skewed_values_with_a_few_far_outside() -> None:
    random = np.random.default_rng(12)
    before, now = random.lognormal(size=100_000), random.lognormal(0.2, 1, size=100_000)
    now[:500] *= 40
    told = Pair(before, now).drift()[0].wasserstein
    exact = stats.wasserstein_distance(before, now) / before.std()
    assert told == pytest.approx(exact, rel=0.05)


def test_a_constant_column_has_no_scale_and_a_change_of_it_is_still_seen() -> None:
    pair = Pair(np.full(2_000, 7.0), np.full(2_000, 8.0))
    told = pair.drift()[0]
    assert told.wasserstein is None
    assert told.drifted
    assert pair.named() == [("out_of_range", "x0")]
