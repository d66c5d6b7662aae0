"""Cross-validation without leakage, as laws over made-up rows."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from falaj.kernel.errors import InvalidInput
from falaj.training.folds import folds_of
from falaj.training.options import CrossValidation

HOUR = 3_600_000_000
laws = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def rows(seed, n, *, n_groups=12, n_instants=200):
    random = np.random.default_rng(seed)
    at = random.integers(0, n_instants, n) * HOUR
    labels = random.integers(0, 2, n).astype(np.float64)
    groups = [None if one == 0 else f"g{one}" for one in random.integers(0, n_groups, n)]
    return at, labels, groups


def cut(wanted, at, labels, groups):
    try:
        return folds_of(wanted, at=at, labels=labels, groups=groups, seed=3)
    except InvalidInput:
        assume(False)


@laws
@given(
    seed=st.integers(0, 10_000), n=st.integers(60, 400), folds=st.integers(2, 6),
    kind=st.sampled_from(["expanding", "rolling"]), embargo=st.integers(0, 30),
    grouped=st.booleans(),
)  # fmt: skip
def test_over_time_nothing_is_learned_from_the_future_nor_from_within_the_embargo(
    seed, n, folds, kind, embargo, grouped
):
    at, labels, groups = rows(seed, n)
    wanted = CrossValidation(
        kind=kind, folds=folds, embargo=timedelta(hours=embargo), group="g" if grouped else None
    )
    found = cut(wanted, at, labels, groups if grouped else None)
    assert len(found) == folds
    for fold in found:
        start = at[fold.judged].min()
        learned = np.concatenate([fold.train, fold.stopping])
        assert at[learned].max() < start - embargo * HOUR
        assert at[fold.train].max() < at[fold.stopping].min()
    for earlier, later in pairwise(found):
        assert at[earlier.judged].max() < at[later.judged].min()


@laws
@given(
    seed=st.integers(0, 10_000), n=st.integers(80, 400),
    kind=st.sampled_from(["expanding", "rolling", "grouped", "stratified"]),
)  # fmt: skip
def test_a_judged_group_is_never_learned_from(seed, n, kind):
    at, labels, groups = rows(seed, n, n_groups=30)
    wanted = CrossValidation(kind=kind, folds=3, group="g")
    for fold in cut(wanted, at, labels, groups):
        judged = {groups[place] for place in fold.judged} - {None}
        learned = {groups[place] for place in (*fold.train, *fold.stopping)} - {None}
        assert not judged & learned


@laws
@given(
    seed=st.integers(0, 10_000), n=st.integers(60, 300),
    kind=st.sampled_from(["expanding", "rolling", "grouped", "stratified"]),
)  # fmt: skip
def test_a_row_plays_one_part_in_a_fold_and_is_judged_at_most_once(seed, n, kind):
    at, labels, groups = rows(seed, n, n_groups=30)
    found = cut(
        CrossValidation(kind=kind, folds=3, group="g" if kind == "grouped" else None),
        at, labels, groups,
    )  # fmt: skip
    for fold in found:
        whole = np.concatenate([fold.train, fold.stopping, fold.judged])
        assert len(set(whole.tolist())) == len(whole)
    judged = np.concatenate([fold.judged for fold in found])
    assert len(set(judged.tolist())) == len(judged)
    if kind in ("grouped", "stratified"):
        assert len(judged) == n


def test_an_expanding_fold_learns_from_all_that_is_early_a_rolling_one_from_as_much_each_time():
    at = np.arange(600) * HOUR
    labels = np.tile([0.0, 1.0], 300)
    sizes = {
        kind: [
            len(fold.train) + len(fold.stopping)
            for fold in folds_of(
                CrossValidation(kind=kind, folds=5, folds_back=2), at=at, labels=labels
            )
        ]
        for kind in ("expanding", "rolling")
    }
    assert sizes == {
        "expanding": [100, 200, 300, 400, 500], "rolling": [100, 200, 200, 200, 200]
    }  # fmt: skip


def test_stratified_folds_have_the_share_of_ones_of_all_rows():
    labels = np.zeros(300)
    labels[:30] = 1
    for fold in folds_of(
        CrossValidation(kind="stratified", folds=5), at=np.zeros(300, np.int64), labels=labels
    ):
        assert labels[fold.judged].mean() == pytest.approx(0.1)


def test_what_cannot_be_judged_is_refused_with_the_reason():
    at, ones = np.arange(40) * HOUR, np.ones(40)
    with pytest.raises(InvalidInput, match="all the same: at least two are needed"):
        folds_of(CrossValidation(folds=2), at=at, labels=ones)
    with pytest.raises(InvalidInput, match="learns from 0 rows"):
        wanted = CrossValidation(folds=3, embargo=timedelta(days=400))
        folds_of(wanted, at=at, labels=np.tile([0.0, 1.0], 20))
    with pytest.raises(InvalidInput, match="into 3 folds"):
        wanted = CrossValidation(kind="grouped", folds=3, group="g")
        folds_of(wanted, at=at, labels=ones, groups=["a"] * 40)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "grouped"}, "needs the column"),
        ({"embargo": timedelta(days=-1)}, "before the judged rows"),
        ({"kind": "stratified", "embargo": timedelta(days=1)}, "over time alone"),
        ({"folds": 1}, "greater than or equal to 2"),
    ],
)
def test_a_cross_validation_that_means_nothing_is_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        CrossValidation(**fields)
