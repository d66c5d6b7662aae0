from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.models.model import FeatureStatistics, Histogram, Statistics
from falaj.models.reference import counted, quantile_edges, statistics_of
from falaj.monitoring.comparing import compared as compared_columns
from falaj.monitoring.comparing import judge
from falaj.monitoring.driftwords import DriftLimits, FeatureDrift
from falaj.monitoring.measures import measured
from falaj.monitoring.seen import Layout, seen_in, seen_in_training
from falaj.monitoring.sketches import Bins, Sketch
from falaj.training.encoding import EncodedFeature, Encoding


def reference_of(values: np.ndarray) -> FeatureStatistics:
    edges = quantile_edges(values)
    return FeatureStatistics(
        name="x",
        type="number",
        edges=tuple(edges.tolist()),
        counts=tuple(counted(values, edges).tolist()),
        n_missing=0,
    )


def counts_of(values: np.ndarray, known: FeatureStatistics) -> np.ndarray:
    scores = Histogram(edges=(0.5,), counts=(1, 1))
    bins = Bins.of(Statistics(n_rows=1, features=(known,), scores=scores))
    matrix = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    return Sketch.of(bins, matrix, np.zeros(len(matrix))).counts.astype(float)


def with_missing(values: np.ndarray, n_missing: int) -> np.ndarray:
    return np.concatenate((values, np.full(n_missing, np.nan))).astype(np.float32).reshape(-1, 1)


def compared(
    reference: np.ndarray, live: np.ndarray, *, missing: tuple[int, int] = (0, 0)
) -> FeatureDrift:
    rows = [with_missing(one, n) for one, n in zip((reference, live), missing, strict=True)]
    encoding = Encoding(features=(EncodedFeature(name="x"),))
    known = statistics_of(encoding, rows[0], np.full(len(rows[0]), 0.5))
    layout = Layout.of(known)
    before = seen_in_training(known, layout)
    sketch = Sketch.of(Bins.of(known), rows[1], np.full(len(rows[1]), 0.5))
    now = seen_in(sketch, layout)
    distances = measured(layout, before, now)
    return compared_columns(layout, before, now, distances, DriftLimits())[0]


def decile_psi(reference: np.ndarray, live: np.ndarray) -> float:
    edges = np.quantile(reference, np.linspace(0, 1, 11)[1:-1])
    p, q = (
        np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) for x in (reference, live)
    )
    return float(np.sum((q - p) * np.log(q / p)))


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_psi_of_skewed_values_is_that_of_deciles(scale: float) -> None:
    random = np.random.default_rng(3)
    reference = random.lognormal(0, 2, 40_000)
    live = scale * random.lognormal(0, 2, 40_000)
    ours = compared(reference, live)
    want = decile_psi(reference, live)
    assert ours.psi == pytest.approx(want, rel=0.1, abs=0.002)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 1.0, 3.0])
def test_ks_of_skewed_values_is_within_a_thousandth_of_the_exact_one(shift: float) -> None:
    from scipy import stats

    random = np.random.default_rng(4)
    reference, live = random.lognormal(0, 2, 200_000), random.lognormal(shift, 2, 200_000)
    exact = stats.ks_2samp(reference, live).statistic
    ours = compared(reference, live).ks
    assert ours == pytest.approx(exact, abs=0.001)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 2**32))
def test_live_values_are_counted_on_the_very_bins_of_the_reference(
    values: list[float], seed: int
) -> None:
    reference = np.array(values)
    known = reference_of(reference)
    assert counts_of(reference, known).tolist() == list(known.counts)
    live = np.random.default_rng(seed).normal(scale=1e6, size=50)
    assert counts_of(live, known).sum() == 50


def test_a_category_is_counted_by_its_place_and_unknown_places_as_other() -> None:
    known = FeatureStatistics(
        name="c", type="category", categories=("a", "b"), counts=(3, 4, 0), n_missing=0
    )
    assert counts_of(np.array([0.0, 1.0, 1.0, 7.0]), known).tolist() == [1, 2, 1]


def test_equal_samples_raise_no_alarm_over_many_features() -> None:
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(20):
        features = []
        for _ in range(20):
            features.append(compared(random.normal(size=2000), random.normal(size=2000)))
        judge(features, DriftLimits(psi=0.001, false_discovery_rate=0.05))
        alarms += any(one.drifted for one in features)
    assert alarms <= 3


def test_a_sure_but_small_difference_is_no_drift_and_a_large_one_is() -> None:
    random = np.random.default_rng(6)
    reference = random.normal(size=100_000)
    small = compared(reference, random.normal(0.05, size=100_000))
    large = compared(reference, random.normal(0.8, size=100_000))
    judge([small, large], DriftLimits())
    assert small.adjusted_p_value < 1e-6
    assert not small.drifted
    assert large.drifted
    assert "PSI" in large.why


def test_missing_values_are_counted_apart() -> None:
    random = np.random.default_rng(7)
    reference = random.normal(size=5000)
    one = compared(reference, random.normal(size=3000), missing=(50, 2000))
    assert one.psi < 0.02
    assert one.drifted
    assert one.why == "missing 40.0%, was 1.0%"
    gone = compared(reference, np.array([]), missing=(0, 100))
    judge([gone], DriftLimits())
    assert gone.drifted
