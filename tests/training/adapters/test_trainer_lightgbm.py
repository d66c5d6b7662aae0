"""LightGBM as a trainer: deterministic, stopped early, clear about what it cannot do."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.training.metrics import SingleClass, auc
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


def test_progress_is_reported_and_what_the_report_raises_stops_the_work():
    class Stop(Exception):
        pass

    told = []
    fit(report=lambda share, message: told.append((share, message)))
    assert told
    assert "loss" in told[0][1]

    def stop(share, message):
        raise Stop

    with pytest.raises(Stop):
        fit(report=stop)


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


def test_an_empty_part_a_single_class_and_no_features_are_refused():
    empty = Rows(np.empty((0, 2), np.float32), np.empty(0))
    with pytest.raises(InvalidInput, match="train part has no rows"):
        fit(empty)
    with pytest.raises(SingleClass, match="validation"):
        fit(validation=Rows(rows(2).matrix, np.ones(1500)))
    with pytest.raises(InvalidInput, match="no features"):
        fit(Rows(np.empty((1500, 0), np.float32), rows(1).labels))


def test_its_code_is_named_with_its_content():
    code = LightGbmTrainer().code()
    assert code.entry == "falaj.training.adapters.trainer_lightgbm:LightGbmTrainer"
    assert code.content_hash.startswith("sha256:")
