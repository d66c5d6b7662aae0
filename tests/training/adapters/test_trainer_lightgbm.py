"""LightGBM as a trainer: deterministic, stopped early, clear about what it cannot do."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.testing.trainers import TrainerSuite
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.metrics import auc
from falaj.training.ports import Rows

ENCODING = Encoding(features=(EncodedFeature(name="a"), EncodedFeature(name="b")))
SMALL = {"n_trees": 200, "min_data_in_leaf": 20, "early_stopping_rounds": 5}


def rows(seed, n=1500):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(n, 2)).astype(np.float32)
    return Rows(matrix, (matrix[:, 0] + random.normal(size=n) > 0).astype(np.float64))


def fit(train=None, validation=None, *, report=lambda share, message: None, seed=5, **params):
    return LightGbmTrainer().fit(
        train or rows(1),
        validation or rows(2),
        ENCODING,
        params={**SMALL, **params},
        seed=seed,
        report=report,
    )


def test_the_same_rows_and_seed_give_the_same_bytes_on_one_thread_and_on_two():
    def without_threads(data):
        return [line for line in data.splitlines() if not line.startswith(b"[num_threads")]

    one, again, two = fit(num_threads=1), fit(num_threads=1), fit(num_threads=2)
    assert one.data == again.data
    assert without_threads(one.data) == without_threads(two.data)
    assert one.data != fit(num_threads=1, seed=6).data


def test_it_learns_and_stops_early_and_says_what_mattered():
    fitted = fit()
    assert fitted.facts["best_iteration"] < SMALL["n_trees"]
    assert auc(rows(3).labels, LightGbmTrainer().scores(fitted, rows(3).matrix)) > 0.75
    assert sum(fitted.importance.values()) == pytest.approx(1.0)
    assert fitted.importance["a"] > fitted.importance["b"]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"leaves": 3}, "no parameter 'leaves'"),
        ({"num_leaves": "many"}, "not int"),
        ({"num_leaves": True}, "not int"),
        ({"extra_trees": 1}, "not bool"),
        ({"n_trees": 0}, "at least 1"),
        ({"num_leaves": 1}, "refused"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, told):
    with pytest.raises(InvalidInput, match=told):
        fit(**params)


class TestLightGbmTrainer(TrainerSuite):
    @pytest.fixture
    def trainer(self):
        return LightGbmTrainer()

    @pytest.fixture
    def params(self):
        return {
            "n_trees": 40, "checkpoint_rounds": 10, "num_leaves": 7, "min_data_in_leaf": 20,
            "learning_rate": 0.1, "num_threads": 1,
        }  # fmt: skip


def test_a_fit_of_one_stretch_is_what_lightgbm_itself_makes():
    import lightgbm

    params = {"n_trees": 15, "checkpoint_rounds": 15, "num_threads": 1}
    fitted = LightGbmTrainer().fit(
        rows(1), rows(2), ENCODING, params=params, seed=5, report=lambda share, told: None
    )
    own = {
        name: value for name, value in LightGbmTrainer().parameters(params).items()
        if name not in ("n_trees", "checkpoint_rounds", "early_stopping_rounds")
    }  # fmt: skip
    own |= {"objective": "binary", "deterministic": True, "force_row_wise": True, "verbosity": -1}
    data = lightgbm.Dataset(rows(1).matrix, rows(1).labels, params={**own, "seed": 5})
    booster = lightgbm.train({**own, "seed": 5, "data_random_seed": 5}, data, 15)
    best = int(fitted.facts["best_iteration"])
    np.testing.assert_array_equal(
        LightGbmTrainer().scores(fitted, rows(3).matrix),
        booster.predict(rows(3).matrix, num_iteration=best),
    )
