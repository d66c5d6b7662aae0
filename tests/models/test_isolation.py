from __future__ import annotations

import io

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest as Grower

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.isolation import IsolationForest, grown

ROWS = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
GROWN = grown(ROWS, n_trees=50, rows_per_tree=256, share=0.01, seed=3)


@pytest.fixture(scope="module")
def forest():
    return IsolationForest.read(GROWN, 4)


def test_scores_are_those_of_scikit_learn(forest):
    theirs = Grower(n_estimators=50, max_samples=256, random_state=3).fit(ROWS)
    others = np.random.default_rng(1).normal(size=(500, 4), scale=3).astype(np.float32)
    np.testing.assert_allclose(forest.scores(others), -theirs.score_samples(others), rtol=1e-9)


def test_a_row_unlike_the_others_is_an_anomaly_and_one_in_their_midst_is_not(forest):
    far, near = forest.scores(np.array([[9, -9, 9, 9], [0, 0, 0, 0]], np.float32))
    assert far > forest.limit > near
    assert far > 0.6 > 0.5 > near


def test_rows_of_another_width_are_refused(forest):
    with pytest.raises(InvalidInput, match="4 inputs"):
        forest.scores(np.zeros((2, 3), np.float32))


def test_one_row_scores_as_it_does_among_others_and_in_any_layout(forest):
    rows = np.random.default_rng(5).normal(size=(40, 4), scale=2).astype(np.float32)
    alone = [forest.scores(rows[place : place + 1])[0] for place in range(len(rows))]
    assert forest.scores(np.asfortranarray(rows)).tolist() == alone
    rows.setflags(write=False)
    assert forest.scores(rows).tolist() == alone


def test_the_declared_share_of_training_rows_lies_above_the_limit(forest):
    assert (forest.scores(ROWS) > forest.limit).mean() == pytest.approx(0.01, abs=0.002)


def test_the_same_rows_and_seed_give_the_same_bytes():
    assert grown(ROWS, n_trees=50, rows_per_tree=256, share=0.01, seed=3) == GROWN
    assert grown(ROWS, n_trees=50, rows_per_tree=256, share=0.01, seed=4) != GROWN


def test_missing_and_infinite_values_count_as_the_median(forest):
    odd = np.array([[np.nan, np.inf, -np.inf, np.nan]], np.float32)
    median = np.median(ROWS, axis=0)[None].astype(np.float32)
    assert forest.scores(odd) == pytest.approx(forest.scores(median), abs=1e-6)
    empty = np.full((50, 2), np.nan, np.float32)
    whole = IsolationForest.read(grown(empty, n_trees=10, rows_per_tree=256, share=0.1, seed=1), 2)
    assert np.isfinite(whole.scores(empty)).all()


def changed(**arrays):
    with np.load(io.BytesIO(GROWN)) as file:
        kept = {name: file[name] for name in file.files}
    for name, change in arrays.items():
        kept[name] = change(kept[name])
    file = io.BytesIO()
    np.savez(file, **kept)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 nonsense",
        GROWN[: len(GROWN) // 2],
        changed(feature=lambda v: np.full_like(v, 4)),
        changed(feature=lambda v: np.full_like(v, -1)),
        changed(left=lambda v: np.full_like(v, 10**6)),
        changed(left=lambda v: np.where(np.arange(v.shape[1]) == 5, 2, v)),
        changed(cut=lambda v: v.astype(object)),
        changed(length=lambda v: np.full_like(v, np.nan)),
        changed(fill=lambda v: v[:3]),
        changed(depth=lambda v: np.array(0.0)),
        changed(cut=lambda v: v[:, :3]),
    ],
)
def test_a_file_that_is_no_forest_over_these_inputs_is_refused(data):
    with pytest.raises(Corrupt, match="isolation forest"):
        IsolationForest.read(data, 4)
