"""Fits with and without some of the rows are those of scikit-learn on the rows that are left."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from falaj.monitoring.isotonic import Rising

ROW = st.tuples(
    st.integers(0, 12), st.integers(1, 3), st.integers(0, 3), st.booleans()
)  # score, rows, labels 1 (at most as many as rows), left out
POINTS = np.linspace(-1.0, 13.0, 113)


@settings(deadline=None, max_examples=500)
@given(st.lists(ROW, min_size=1, max_size=40), st.booleans())
def test_a_fit_without_rows_is_scikit_learns_on_the_others(drawn, all_of_them):
    drawn.sort(key=lambda row: row[0])
    scores, n, ones = (np.array([row[i] for row in drawn], dtype=float) for i in range(3))
    ones = np.minimum(ones, n)
    left_out = np.array([row[3] for row in drawn])
    left_out[0] = False
    kept = ~left_out | all_of_them
    fit = Rising(scores, n, ones).fit(None if all_of_them else left_out)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(
        scores[kept], (ones / n)[kept], sample_weight=n[kept]
    )
    told = np.interp(POINTS, fit.scores, fit.rates)
    np.testing.assert_allclose(told, oracle.predict(POINTS), atol=1e-9)
    assert (np.diff(fit.scores) > 0).all()
    assert (np.diff(fit.rates) >= 0).all()
    assert fit.n.sum() == n[kept].sum()
    assert fit.ones.sum() == ones[kept].sum()
    assert set(fit.starts) <= set(scores[kept])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.5, 3.0))
def test_single_rows_of_labels_are_joined_without_a_difference(seed, power):
    random = np.random.default_rng(seed)
    scores = np.sort(random.random(400))
    labels = (random.random(400) < scores**power).astype(float)
    left_out = random.random(400) < 0.1
    fit = Rising(scores, np.ones(400), labels).fit(left_out)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores[~left_out], labels[~left_out])
    tested = scores[left_out]
    told = np.interp(tested, fit.scores, fit.rates)
    np.testing.assert_allclose(told, oracle.predict(tested), atol=1e-9)
