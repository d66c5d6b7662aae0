"""Assignment: uniform, independent between salts, and never moving a unit when a share grows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.allocation import mismatch_p_value
from falaj.serving.layers import Layer, Shares, Stretch

UNITS = [f"user-{number}" for number in range(20_000)]


def test_units_fall_by_the_shares():
    shares = Shares("r1", (0.3, 0.2), (0.3, 0.2))
    met = [shares.challenger_of(unit) for unit in UNITS]
    assert mismatch_p_value([met.count(None), met.count(0), met.count(1)], [5, 3, 2]) > 0.001


@given(
    st.text(min_size=1),
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_growing_share_moves_no_unit_that_is_already_in(salt, final, now, more):
    before = [last * one for last, one in zip(final, now, strict=True)]
    after = [b + (last - b) * one for last, b, one in zip(final, before, more, strict=True)]
    after = [min(a, last) for a, last in zip(after, final, strict=True)]
    early, late = Shares(salt, final, before), Shares(salt, final, after)
    for unit in UNITS[:200]:
        met = early.challenger_of(unit)
        assert met is None or late.challenger_of(unit) == met


def test_two_rollouts_divide_the_units_independently_of_each_other():
    one, two = Shares("r1", (0.5,), (0.5,)), Shares("r2", (0.5,), (0.5,))
    cells = [0, 0, 0, 0]
    for unit in UNITS:
        cells[2 * (one.challenger_of(unit) is None) + (two.challenger_of(unit) is None)] += 1
    assert mismatch_p_value(cells, [1, 1, 1, 1]) > 0.001


def test_rollouts_of_one_layer_exclude_each_other():
    layer = Layer("ranking", {}).with_rollout("a", 0.4).with_rollout("b", 0.4)
    met = [layer.rollout_of(unit) for unit in UNITS]
    assert mismatch_p_value([met.count("a"), met.count("b"), met.count(None)], [4, 4, 2]) > 0.001
    with pytest.raises(InvalidInput, match="no room"):
        layer.with_rollout("c", 0.3)
    with pytest.raises(InvalidInput, match="already"):
        layer.with_rollout("a", 0.1)


def test_a_place_that_was_given_back_is_given_again():
    layer = Layer("l", {"a": Stretch(0.0, 0.3), "c": Stretch(0.6, 0.9)}).with_rollout("b", 0.25)
    assert layer.stretches["b"].low == pytest.approx(0.3)


def test_a_holdout_in_a_layer_of_its_own_is_independent_of_all_others():
    holdout = Layer("holdout", {}).with_rollout("held", 0.1)
    ranking = Layer("ranking", {}).with_rollout("a", 0.5)
    held = [unit for unit in UNITS if holdout.rollout_of(unit)]
    inside = sum(ranking.rollout_of(unit) == "a" for unit in held)
    assert mismatch_p_value([inside, len(held) - inside], [1, 1]) > 0.001


@pytest.mark.parametrize(
    ("final", "present"), [((0.5, 0.6), (0, 0)), ((0.1,), (0.2,)), ((0.1,), ())]
)
def test_shares_that_do_not_fit_are_refused(final, present):
    with pytest.raises(InvalidInput):
        Shares("r", final, present)


def test_stretches_that_overlap_are_refused():
    with pytest.raises(InvalidInput, match="overlap"):
        Layer("l", {"a": Stretch(0.0, 0.5), "b": Stretch(0.4, 0.6)})
