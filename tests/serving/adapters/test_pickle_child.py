"""What a pickle may name: classifiers of scikit-learn with their parts, and nothing else."""

import io
import pickle
import warnings

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from falaj.serving.adapters.pickle_child import ALLOWED, Model, NotAllowed, read

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(120, 3))
LABELS = (ROWS[:, 0] > 0).astype(int)
LOGISTIC = LogisticRegression()
MODELS = [
    LOGISTIC,
    SGDClassifier(loss="log_loss"),
    RandomForestClassifier(5),
    ExtraTreesClassifier(5),
    GradientBoostingClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    DecisionTreeClassifier(),
    GaussianNB(),
    MLPClassifier((4,), max_iter=5),
    KNeighborsClassifier(),
    LinearDiscriminantAnalysis(),
    AdaBoostClassifier(n_estimators=3),
    CalibratedClassifierCV(LOGISTIC, cv=2),
    BaggingClassifier(LOGISTIC, n_estimators=2),
    VotingClassifier([("a", LOGISTIC), ("b", GaussianNB())], voting="soft"),
    make_pipeline(SimpleImputer(), StandardScaler(), LOGISTIC),
    make_pipeline(PolynomialFeatures(2), KBinsDiscretizer(3), LOGISTIC),
    make_pipeline(
        ColumnTransformer([("a", MinMaxScaler(), [0]), ("b", RobustScaler(), [1, 2])]), LOGISTIC
    ),
]


def fitted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(ROWS, LABELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model).split("(", 1)[0])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_classifier_is_read_and_answers_the_same(tmp_path, model, protocol):
    fitted(model)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model, protocol))
    assert np.array_equal(Model(tmp_path).predict(ROWS), model.predict_proba(ROWS))


def test_a_function_of_the_author_is_not_read():
    model = make_pipeline(FunctionTransformer(np.tanh), LOGISTIC)
    with pytest.raises(NotAllowed, match="FunctionTransformer"):
        read(io.BytesIO(pickle.dumps(fitted(model))))


def test_a_name_is_compared_as_it_is():
    for module, name in (("sklearn.pipeline", "Pipeline.fit"), ("sklearn.pipeline", "pipeline"),
                         ("sklearn.pipeline ", "Pipeline"), ("SKLEARN.PIPELINE", "Pipeline"),
                         ("sklearn", "pipeline.Pipeline")):  # fmt: skip
        assert (module, name) not in ALLOWED


def test_nothing_on_the_list_has_dots_in_its_name_or_runs_code_by_its_name():
    risky = {"getattr", "setattr", "eval", "exec", "open", "compile", "import_module", "partial",
             "attrgetter", "methodcaller", "load", "loads", "system", "Popen"}  # fmt: skip
    assert not [name for _, name in ALLOWED if "." in name or name in risky]


@pytest.mark.parametrize("thing", [StandardScaler(), np.zeros(3), {"a": 1}, [LOGISTIC]])
def test_what_is_no_classifier_is_refused(tmp_path, thing):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(thing))
    with pytest.raises(NotAllowed):
        Model(tmp_path)
