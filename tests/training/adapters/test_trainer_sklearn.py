"""scikit-learn's estimators as trainers: each by name, each as ONNX."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.testing.trainers import ENCODING, TrainerSuite, examples
from falaj.training.adapters.trainer_sklearn import ESTIMATORS, SklearnTrainer
from falaj.training.metrics import auc

FEW = {
    "random_forest": {"n_estimators": 10},
    "extra_trees": {"n_estimators": 10},
    "gradient_boosting": {"n_estimators": 15},
    "hist_gradient_boosting": {"max_iter": 20},
}


def fitted(name, **params):
    return SklearnTrainer(SklearnToOnnx().convert).fit(
        examples(1), examples(2), ENCODING, params={"estimator": name, **params}, seed=3,
        report=lambda share, told: None,
    )  # fmt: skip


class TestSklearnTrainer(TrainerSuite):
    @pytest.fixture
    def trainer(self):
        return SklearnTrainer(SklearnToOnnx().convert)

    @pytest.fixture
    def params(self):
        return {"estimator": "logistic_regression"}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_each_named_estimator_learns_and_becomes_onnx(name):
    trainer = SklearnTrainer(SklearnToOnnx().convert)
    found = fitted(name, **FEW.get(name, {}))
    assert found.facts["estimator"] == name
    rows = examples(3)
    assert auc(rows.labels, trainer.scores(found, rows.matrix)) > 0.75


def test_a_fit_that_did_not_converge_says_so():
    assert fitted("logistic_regression", max_iter=1).facts["not_converged"] == 1.0
    assert fitted("logistic_regression").facts["not_converged"] == 0.0
    assert issubclass(ConvergenceWarning, UserWarning)


def test_a_conversion_that_answers_otherwise_ends_the_fit():
    def differing(estimator, rows):
        wrong = type("Wrong", (), {"classes_": estimator.classes_})()
        wrong.predict_proba = lambda x: 1 - estimator.predict_proba(x)
        converter = SklearnToOnnx()
        converter._converted = lambda _estimator, n: SklearnToOnnx()._converted(estimator, n)
        return converter.convert(wrong, rows)

    with pytest.raises(InvalidInput, match="differ"):
        SklearnTrainer(differing).fit(
            examples(1), examples(2), ENCODING, params={}, seed=3, report=lambda share, told: None
        )


def test_only_what_is_on_the_list_is_made():
    for name in ("SVC", "os.system", "sklearn.svm.SVC", "", None):
        with pytest.raises(InvalidInput, match="no estimator"):
            fitted(name)
    with pytest.raises(InvalidInput, match="no parameter 'warm_start'"):
        fitted("random_forest", warm_start=True)
    assert np.isfinite(examples(1).labels).all()
