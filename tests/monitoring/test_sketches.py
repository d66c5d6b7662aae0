"""Sketches: they merge by addition, and say of rows what the rows say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.model import FeatureStatistics, Histogram, Statistics
from falaj.models.reference import counted, quantile_edges
from falaj.monitoring.sketches import Bins, Sketch, merged, put_together, unpacked

RANDOM = np.random.default_rng(1)
TRAINED = RANDOM.lognormal(0, 2, 5_000)
EDGES = quantile_edges(TRAINED)
BINS = Bins.of(
    Statistics(
        n_rows=5_000,
        features=(
            FeatureStatistics(
                name="x", type="number", edges=tuple(EDGES), n_missing=0,
                counts=tuple(counted(TRAINED, EDGES).tolist()),
            ),
            FeatureStatistics(
                name="carrier", type="category", categories=("AA", "UA"), counts=(3, 2, 0),
                n_missing=0,
            ),
        ),
        scores=Histogram(edges=(0.25, 0.5, 0.75), counts=(1, 1, 1, 1)),
    )
)  # fmt: skip

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
rows = st.lists(
    st.tuples(numbers, st.sampled_from([0.0, 1.0, 2.0, 7.0, float("nan")]), st.floats(0, 1)),
    max_size=40,
)


def sketched(found):
    table = np.array(found, dtype=np.float64).reshape(-1, 3)
    with np.errstate(over="ignore"):
        return Sketch.of(BINS, table[:, :2].astype(np.float32), table[:, 2])


def same(one, other):
    for name in Sketch.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)
    return True


@given(rows, st.integers(0, 40))
def test_the_sketch_of_parts_is_the_sketch_of_the_whole(found, cut):
    assert same(sketched(found[:cut]) + sketched(found[cut:]), sketched(found))
    assert same(sketched(found[cut:]) + sketched(found[:cut]), sketched(found))


@given(rows)
def test_a_sketch_says_of_rows_what_the_rows_say(found):
    sketch = sketched(found)
    x = np.array([one[0] for one in found], dtype=np.float32).astype(np.float64)
    finite = x[np.isfinite(x)]
    assert sketch.n == len(found)
    assert sketch.missing[0] == np.isnan(x).sum()
    assert sketch.infinite[0] == np.isinf(x).sum()
    assert sketch.totals[0] == pytest.approx(finite.sum())
    assert sketch.of_input(BINS, 0).tolist() == counted(x[~np.isnan(x)], EDGES).tolist()
    if finite.size:
        assert (sketch.low[0], sketch.high[0]) == (finite.min(), finite.max())


def test_a_word_that_the_model_never_saw_is_counted_with_all_others():
    sketch = sketched([(1.0, 0.0, 0.1), (1.0, 7.0, 0.1), (1.0, 2.0, 0.1), (1.0, 1.0, 0.1)])
    assert sketch.of_input(BINS, 1).tolist() == [1, 1, 2]


@given(rows)
def test_a_sketch_that_is_kept_is_read_as_it_was(found):
    sketch = sketched(found)
    assert same(unpacked(sketch.packed()), sketch)


@settings(max_examples=30, deadline=None)
@given(st.lists(rows, max_size=5), st.integers(0, 3))
def test_kept_sketches_are_put_together_as_they_would_be_one_by_one(parts, n_large):
    sketches = [sketched(one) for one in parts]
    sketches += [merged(BINS, [sketched([(1.0, 0.0, 0.3)] * 10)] * 300)] * n_large
    kept = [one.packed() for one in sketches]
    together, one_by_one = put_together(BINS, kept), merged(BINS, sketches)
    assert together.n == one_by_one.n
    for name in ("counts", "missing", "infinite", "scores", "low", "high"):
        assert getattr(together, name).tolist() == getattr(one_by_one, name).tolist()
    assert together.totals == pytest.approx(one_by_one.totals)
    assert together.score_totals == pytest.approx(one_by_one.score_totals)


def test_one_broken_sketch_among_good_ones_is_told():
    good = sketched([(1.0, 0.0, 0.3)]).packed()
    with pytest.raises(Corrupt):
        put_together(BINS, [good, good[:-3], good])
    with pytest.raises(Corrupt):
        put_together(BINS, [b"nothing", good])


def test_large_counts_are_kept_whole():
    sketch = merged(BINS, [sketched([(1.0, 0.0, 0.3)] * 10)] * 7_000)
    assert unpacked(sketch.packed()).scores.tolist() == [0, 70_000, 0, 0]


def test_no_sketches_are_the_empty_one():
    assert same(merged(BINS, []), Sketch.empty(BINS))


def test_a_minute_of_an_input_takes_less_than_three_hundred_bytes():
    found = [(x, 0.0, 0.5) for x in RANDOM.lognormal(0, 2, 3_000)]
    assert len(sketched(found).packed()) < 2 * 300


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a sketch", b"\x94\x01\x00\x90\x90"])
def test_bytes_that_are_no_sketch_are_told(data):
    with pytest.raises(Corrupt):
        unpacked(data)


def test_rows_of_another_model_are_refused():
    with pytest.raises(InvalidInput):
        Sketch.of(BINS, np.zeros((2, 3), dtype=np.float32), np.zeros(2))
