"""Trees as arrays: what is no tree is refused, and every mode becomes one question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from falaj.serving.trees.blocks import Columns
from falaj.serving.trees.checking import difference, hard_rows
from falaj.serving.trees.ensemble import (
    Ensemble,
    Mode,
    NotCompilable,
    Transform,
    levels,
    sides,
)


def stump(mode: Mode = Mode.LEQ, threshold: float = 0.5, *, missing: bool = False) -> Ensemble:
    """One branch and two leaves."""
    return Ensemble(
        n_features=2,
        n_scores=1,
        roots=np.array([0]),
        mode=np.array([mode, Mode.LEAF, Mode.LEAF], dtype=np.int8),
        feature=np.array([1, 0, 0]),
        threshold=np.array([threshold, 0, 0], dtype=np.float32),
        if_true=np.array([1, 0, 0]),
        if_false=np.array([2, 0, 0]),
        missing_is_true=np.array([missing, False, False]),
        values=np.array([[0], [1], [2]], dtype=np.float32),
        first_score=np.array([0]),
        tree_scores=np.array([1]),
        base=np.zeros(1, dtype=np.float32),
        divisor=1.0,
        transform=Transform.NONE,
    )


def test_nodes_come_tree_by_tree_and_level_by_level() -> None:
    reached = levels(stump())
    assert reached.node.tolist() == [0, 1, 2]
    assert reached.tree.tolist() == [0, 0, 0]
    assert reached.depth.tolist() == [1]


@pytest.mark.parametrize("child", [0, 2, -1, 3], ids=["cycle", "shared", "negative", "beyond"])
def test_nodes_that_form_no_tree_are_refused(child: int) -> None:
    broken = replace(stump(), if_true=np.array([child, 0, 0]))
    with pytest.raises(NotCompilable, match="do not form trees"):
        levels(broken)


@pytest.mark.parametrize(
    ("mode", "threshold"),
    [
        (Mode.LEQ, np.nan),
        (Mode.EQ, np.inf),
        (Mode.NEQ, -np.inf),
        (Mode.LT, -np.inf),
        (Mode.GTE, np.inf),
    ],
)
def test_a_threshold_that_is_no_number_to_order_by_is_refused(mode: Mode, threshold: float) -> None:
    with pytest.raises(NotCompilable, match="infinite or NaN"):
        sides(stump(mode, threshold=threshold))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("mode", "threshold"),
    [(Mode.LEQ, np.inf), (Mode.GT, np.inf), (Mode.LEQ, -np.inf), (Mode.GT, -np.inf)],
)
def test_an_infinite_threshold_tells_missing_values_from_others(
    mode: Mode, threshold: float, missing: bool
) -> None:
    no, yes, stepped, missing_yes = sides(stump(mode, threshold=threshold, missing=missing))
    compare = {Mode.LEQ: np.less_equal, Mode.GT: np.greater}[mode]
    for x in np.array([-np.inf, -3.4e38, 0.0, 3.4e38, np.inf], dtype=np.float32):
        read = min(x, np.finfo(np.float32).max) if missing_yes[0] else x  # as kernels do
        assert (yes[0] if read > stepped[0] else no[0]) == (1 if compare(x, threshold) else 2)
    if missing_yes[0]:
        assert np.float32(np.inf) > stepped[0]  # which NaN is made


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("mode", [Mode.LEQ, Mode.LT, Mode.GT, Mode.GTE])
def test_every_order_is_the_question_whether_a_value_is_greater(mode: Mode, missing: bool) -> None:
    trees = stump(mode, missing=missing)
    no, yes, threshold, missing_yes = sides(trees)
    compare = {Mode.LEQ: np.less_equal, Mode.LT: np.less, Mode.GT: np.greater,
               Mode.GTE: np.greater_equal}[mode]  # fmt: skip
    half = np.float32(0.5)
    for x in (half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0))):
        wanted = 1 if compare(x, half) else 2
        assert (yes[0] if x > threshold[0] else no[0]) == wanted
    assert (yes[0] if missing_yes[0] else no[0]) == (1 if missing else 2)


def test_a_feature_that_the_model_does_not_take_is_refused() -> None:
    no = np.array([False])
    with pytest.raises(NotCompilable, match="beyond the 2"):
        Columns(2).kinds(np.array([2]), no, no)


def test_hard_rows_hold_each_threshold_its_neighbours_and_what_is_no_number() -> None:
    rows = hard_rows(stump())
    half = np.float32(0.5)
    found = set(rows[:, 1][np.isfinite(rows[:, 1])].tolist())
    assert {
        0.5,
        float(np.nextafter(half, np.float32(1))),
        float(np.nextafter(half, np.float32(0))),
    } <= found
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert kind(rows).any()


def test_a_difference_of_one_row_alone_is_seen() -> None:
    rows = hard_rows(stump())

    def theirs(some: np.ndarray) -> np.ndarray:
        return np.zeros((len(some), 1))

    def ours(some: np.ndarray) -> np.ndarray:
        return np.full((len(some), 1), 0.25 if len(some) == 1 else 0.0)

    assert difference(ours, theirs, rows) == 0.25
    assert difference(theirs, theirs, rows) == 0
