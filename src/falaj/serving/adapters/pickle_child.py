"""The ``model.py`` of a pickled model: read inside its confined process, by exact names alone.

It is copied beside ``model.pickle`` into the folder of a custom Python model, and imports
nothing of the platform; ``python_child`` has confined the process before this file runs. A
pickle can call whatever it can name, so it names only what stands in ``ALLOWED``: the pair of
module and name is compared as it is, before anything is imported. Names with dots (walks over
attributes) are none of them; persistent ids and the extension registry lead nowhere.
"""

from __future__ import annotations

import copyreg
import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

_ESTIMATORS: Mapping[str, str] = {
    "sklearn.calibration": "CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration",
    "sklearn.compose._column_transformer": "ColumnTransformer",
    "sklearn.discriminant_analysis": "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis",
    "sklearn.dummy": "DummyClassifier DummyRegressor",
    "sklearn.ensemble._bagging": "BaggingClassifier",
    "sklearn.ensemble._forest": "ExtraTreesClassifier RandomForestClassifier",
    "sklearn.ensemble._gb": "GradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.binning": "_BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": "HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.ensemble._voting": "VotingClassifier",
    "sklearn.ensemble._weight_boosting": "AdaBoostClassifier",
    "sklearn.impute._base": "SimpleImputer MissingIndicator",
    "sklearn.isotonic": "IsotonicRegression",
    "sklearn.linear_model._logistic": "LogisticRegression LogisticRegressionCV",
    "sklearn.linear_model._stochastic_gradient": "SGDClassifier",
    "sklearn.naive_bayes": "BernoulliNB ComplementNB GaussianNB MultinomialNB",
    "sklearn.neighbors._classification": "KNeighborsClassifier",
    "sklearn.neighbors._kd_tree": "KDTree newObj",
    "sklearn.neural_network._multilayer_perceptron": "MLPClassifier",
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.pipeline": "Pipeline",
    "sklearn.preprocessing._data": "MaxAbsScaler MinMaxScaler Normalizer PowerTransformer "
    "QuantileTransformer RobustScaler StandardScaler",
    "sklearn.preprocessing._discretization": "KBinsDiscretizer",
    "sklearn.preprocessing._encoders": "OneHotEncoder OrdinalEncoder",
    "sklearn.preprocessing._label": "LabelBinarizer LabelEncoder",
    "sklearn.preprocessing._polynomial": "PolynomialFeatures SplineTransformer",
    "sklearn.svm._classes": "SVC",
    "sklearn.tree._classes": "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier",
}
_PARTS: Mapping[str, str] = {
    "_codecs": "encode",
    "builtins": "bytes frozenset object set slice",
    "__builtin__": "bytes frozenset object set slice",
    "collections": "OrderedDict",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "sklearn._loss._loss": "CyHalfBinomialLoss CyExponentialLoss",
    "sklearn._loss.link": "Interval LogitLink HalfLogitLink",
    "sklearn._loss.loss": "HalfBinomialLoss ExponentialLoss",
    "sklearn.metrics._dist_metrics": "EuclideanDistance64 EuclideanDistance32 newObj",
    "sklearn.tree._tree": "Tree",
    "sklearn.utils._bunch": "Bunch",
}
ALLOWED: frozenset[tuple[str, str]] = frozenset(
    (module, name)
    for table in (_ESTIMATORS, _PARTS)
    for module, names in table.items()
    for name in names.split()
)
"""Every pair of module and name that a pickle may say."""
_MOVED = {"__builtin__": "builtins", "copy_reg": "copyreg",
          "numpy.core.multiarray": "numpy._core.multiarray"}  # fmt: skip


class NotAllowed(pickle.UnpicklingError):
    """A pickle names something that is not on the list."""


class AllowedUnpickler(pickle.Unpickler):
    """Reads a pickle that names nothing but what stands in ``ALLOWED``."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names, compared as it is; raises NotAllowed."""
        if (module, name) not in ALLOWED:
            raise NotAllowed(f"the pickle names {module[:80]}.{name[:80]}, which is not allowed")
        if name == "encode":
            return _encoded
        return getattr(importlib.import_module(_MOVED.get(module, module)), name)

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is kept outside of a pickle; raises NotAllowed."""
        raise NotAllowed("the pickle refers to something outside of it")


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How bytes are written in a pickle of protocol 2; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise NotAllowed(f"the pickle asks for the codec {encoding[:40]}")
    return text.encode("latin-1")


def read(file: IO[bytes]) -> Any:
    """The object of a pickle; raises NotAllowed, and whatever its classes raise."""
    registry: dict[Any, Any] = getattr(copyreg, "_inverted_registry", {})
    registry.clear()
    return AllowedUnpickler(file).load()


class Model:
    """A fitted classifier of scikit-learn that was pickled."""

    def __init__(self, folder: Path) -> None:
        with (folder / "model.pickle").open("rb") as file:
            self._model = read(file)
        kind = type(self._model)
        if kind.__module__ not in _ESTIMATORS:
            raise NotAllowed(f"the pickle holds a {kind.__name__}, no classifier")
        if not hasattr(self._model, "predict_proba"):
            raise NotAllowed(f"a {kind.__name__} gives no probabilities (predict_proba)")

    def predict(self, rows: Any) -> Any:
        """Probabilities of the classes, one row for each row."""
        return np.asarray(self._model.predict_proba(rows), dtype=np.float64)
