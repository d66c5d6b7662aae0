"""scikit-learn's estimators as trainers: each by name, each as ONNX."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
from falaj.testing.trainers import (
    ENCODING,
    NUMBER,
    WORDS,
    TrainerSuite,
    examples,
    examples_of,
)
from falaj.training.adapters.trainer_sklearn import ESTIMATORS, SklearnTrainer
from falaj.training.metrics import auc
from falaj.training.rowmetrics import metrics_of

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

    @pytest.fixture
    def params_of_numbers(self):
        return {"estimator": "ridge"}


def of_task(name, target, **params):
    parts = examples_of(target, 1), examples_of(target, 2)
    found = SklearnTrainer(SklearnToOnnx().convert).fit(
        *parts, ENCODING, params={"estimator": name, **params}, seed=3,
        report=lambda share, told: None,
    )  # fmt: skip
    return replace(found, target=target)


@pytest.mark.parametrize("name", sorted(name for name, one in ESTIMATORS.items() if one.regressor))
def test_each_named_regressor_learns_and_becomes_onnx(name):
    found, rows = of_task(name, NUMBER, **FEW.get(name, {})), examples_of(NUMBER, 3)
    scores = SklearnTrainer(SklearnToOnnx().convert).scores(found, rows.matrix)
    assert metrics_of(NUMBER, rows.labels, scores)["r2"] > 0.5
    assert sum(found.importance.values()) == pytest.approx(1.0) or not found.importance


@pytest.mark.parametrize("name", sorted(name for name, one in ESTIMATORS.items() if one.entry))
def test_each_named_classifier_learns_several_classes_and_becomes_onnx(name):
    found, rows = of_task(name, WORDS, **FEW.get(name, {})), examples_of(WORDS, 3)
    scores = SklearnTrainer(SklearnToOnnx().convert).scores(found, rows.matrix)
    assert metrics_of(WORDS, rows.labels, scores)["balanced_accuracy"] > 0.55


def test_an_estimator_of_classes_learns_no_numbers_and_the_other_way_round():
    with pytest.raises(InvalidInput, match="does not learn the task 'regression'") as caught:
        of_task("naive_bayes", NUMBER)
    assert "ridge" in caught.value.hint
    with pytest.raises(InvalidInput, match="'ridge' does not learn the task 'binary'"):
        fitted("ridge")


def test_a_class_without_a_row_is_named():
    rows = examples_of(WORDS, 1)
    kept = rows.labels < 2
    with pytest.raises(InvalidInput, match="no row of the class 'high'"):
        SklearnTrainer(SklearnToOnnx().convert).fit(
            replace(rows, matrix=rows.matrix[kept], labels=rows.labels[kept]),
            examples_of(WORDS, 2), ENCODING, params={}, seed=3, report=lambda share, told: None,
        )  # fmt: skip


@pytest.mark.parametrize("name", sorted(name for name, one in ESTIMATORS.items() if one.entry))
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
    def differing(estimator, rows, target):
        wrong = type("Wrong", (), {"classes_": estimator.classes_})()
        wrong.predict_proba = lambda x: 1 - estimator.predict_proba(x)
        converter = SklearnToOnnx()
        converter._converted = lambda _, *given: SklearnToOnnx()._converted(estimator, *given)
        return converter.convert(wrong, rows, target)

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
