"""The signs of leakage, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.models.gating.leakagesigns import MOST_ROWS, own_rows, power, sampled
from falaj.models.reference import counted, quantile_edges, statistics_of
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(4000) < 0.3).astype(float)


def test_noise_has_no_power_and_a_copy_of_the_label_has_all():
    assert power(RANDOM.normal(size=4000).astype(np.float32), LABELS) < 0.55
    assert power(LABELS.astype(np.float32), LABELS) == 1.0
    assert power(-LABELS.astype(np.float32), LABELS) == 1.0


def test_a_feature_that_is_missing_exactly_where_the_label_is_one_is_found():
    values = np.where(LABELS == 1, np.nan, RANDOM.normal(size=4000)).astype(np.float32)
    assert power(values, LABELS) > 0.99


def test_a_feature_that_is_extreme_on_both_sides_is_found_though_its_auc_is_a_half():
    values = np.where(LABELS == 1, 3.0, 0.0) * RANDOM.choice([-1, 1], 4000)
    assert power((values + RANDOM.normal(size=4000) * 0.1).astype(np.float32), LABELS) > 0.95


def test_a_column_of_nothing_has_no_power():
    assert power(np.full(4000, np.nan, np.float32), LABELS) == pytest.approx(0.5)


def test_counts_of_one_beside_an_honest_mean_are_no_sign():
    count = RANDOM.integers(0, 4, 4000).astype(np.float32)
    mean = RANDOM.normal(size=4000).astype(np.float32)
    assert own_rows(("count", "mean"), np.stack([count, mean], 1), LABELS, 0.97) == []
    told = np.where(LABELS == 1, 5, 0).astype(np.float32)
    found = own_rows(("count", "mean"), np.stack([count, told], 1), LABELS, 0.97)
    assert [(one.count, one.feature) for one in found] == [("count", "mean")]
    assert (
        own_rows(("count", "mean"), np.stack([count, told], 1), LABELS, 0.97, words=["count"]) == []
    )
    few = np.stack([count, told], 1)[:150]
    assert own_rows(("count", "mean"), few, LABELS[:150], 0.97) == []


def test_a_sample_is_the_same_each_time_and_keeps_the_order():
    places = sampled(MOST_ROWS * 3)
    assert len(places) == MOST_ROWS
    assert (np.diff(places) > 0).all()
    assert (places == sampled(MOST_ROWS * 3)).all()


@settings(deadline=None)
@given(st.lists(st.floats(width=32), max_size=200))
def test_every_value_is_counted_once_on_growing_edges(values):
    known = np.array(values, float)
    known = known[~np.isnan(known)]
    edges = quantile_edges(known)
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 63
    assert counted(known, edges).sum() == len(known)


def test_a_reference_counts_words_missing_values_and_scores():
    encoding = Encoding(
        features=(
            EncodedFeature(name="x"),
            EncodedFeature(name="w", type=FeatureType.CATEGORY, categories=("a", "b")),
        )
    )
    matrix = np.array([[1, 0], [2, 1], [np.nan, np.nan], [np.inf, 1]], np.float32)
    found = statistics_of(encoding, matrix, np.array([0.0, 0.5, 1.0]))
    number, words = found.features
    assert (number.n_missing, sum(number.counts), number.mean) == (1, 3, 1.5)
    assert (words.counts, words.n_missing) == ((1, 2, 0), 1)
    assert len(found.scores.counts) == 65
    assert (found.scores.counts[0], found.scores.counts[-1]) == (1, 1)
    empty = statistics_of(encoding, np.full((2, 2), np.nan, np.float32), np.array([0.5]))
    assert empty.features[0].edges == ()
    assert empty.features[0].mean is None
