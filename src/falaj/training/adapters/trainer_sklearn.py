"""scikit-learn's classifiers and regressors, by name from a list, as ONNX.

An estimator is named (``random_forest``), never given as an object, and what leaves this
module is ONNX: a fitted estimator could be kept only as a pickle. Which estimators there are
is decided by whether skl2onnx converts them so that what they give stays the same.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import Encoding
from falaj.training.environment import code_version
from falaj.training.model import CodeVersion
from falaj.training.parameters import check_learnable, completed, finite
from falaj.training.ports import UNKEPT, Checkpoints, FittedModel, Report, Rows, Traits
from falaj.training.targets import Target

Convert = Callable[[Any, npt.NDArray[np.float32], Target], bytes]
"""A fitted estimator to ONNX, compared with it on rows; raises InvalidInput if they differ."""
_COMPARED_ROWS = 5_000
_TREES: dict[str, Any] = {"max_depth": int, "min_samples_leaf": int, "max_features": float}


@dataclass(frozen=True)
class _Named:
    """An estimator that may be named: where it stands, what may be set, what it needs."""

    module: str
    entry: str
    """The class that learns classes; empty if it has none."""
    regressor: str
    """The class that learns numbers; empty if it has none."""
    defaults: Mapping[str, Any]
    also: Mapping[str, type]
    scaled: bool = False
    """Its inputs are brought to mean 0 and variance 1."""
    seeded: bool = True
    threads: bool = False


ESTIMATORS: dict[str, _Named] = {
    "logistic_regression": _Named(
        "sklearn.linear_model", "LogisticRegression", "",
        {"C": 1.0, "max_iter": 1000}, {"tol": float, "l1_ratio": float}, scaled=True,
    ),
    "decision_tree": _Named(
        "sklearn.tree", "DecisionTreeClassifier", "DecisionTreeRegressor", {"min_samples_leaf": 20},
        {**_TREES, "criterion": str, "ccp_alpha": float},
    ),
    "random_forest": _Named(
        "sklearn.ensemble", "RandomForestClassifier", "RandomForestRegressor",
        {"n_estimators": 200, "min_samples_leaf": 20}, {**_TREES, "max_samples": float},
        threads=True,
    ),
    "extra_trees": _Named(
        "sklearn.ensemble", "ExtraTreesClassifier", "ExtraTreesRegressor",
        {"n_estimators": 200, "min_samples_leaf": 20}, _TREES, threads=True,
    ),
    "gradient_boosting": _Named(
        "sklearn.ensemble", "GradientBoostingClassifier", "GradientBoostingRegressor",
        {"n_estimators": 100, "learning_rate": 0.1, "min_samples_leaf": 20},
        {**_TREES, "subsample": float},
    ),
    "hist_gradient_boosting": _Named(
        "sklearn.ensemble", "HistGradientBoostingClassifier", "HistGradientBoostingRegressor",
        {"max_iter": 200, "learning_rate": 0.06, "min_samples_leaf": 20},
        {"max_leaf_nodes": int, "max_depth": int, "l2_regularization": float, "max_bins": int},
    ),
    "naive_bayes": _Named(
        "sklearn.naive_bayes", "GaussianNB", "", {"var_smoothing": 1e-9}, {},
        scaled=True, seeded=False,
    ),
    "ridge": _Named(
        "sklearn.linear_model", "", "Ridge", {"alpha": 1.0}, {"tol": float}, scaled=True,
    ),
}  # fmt: skip


class SklearnTrainer:
    """Fits a scikit-learn estimator that ``params`` name as ``estimator``.

    Missing values become the median of their column in the training rows (the histogram
    booster reads them itself). A fit is one call of scikit-learn's: it is not stopped early,
    keeps no checkpoints, and can be cancelled only before and after.

    Args:
        convert: makes ONNX of a fitted estimator, and proves that it answers the same.
    """

    name = "sklearn"
    traits = Traits(
        identical=True,
        stops_early=False,
        resumes=False,
        tasks=("binary", "regression", "classes"),
    )

    def __init__(self, convert: Convert) -> None:
        self._convert = convert

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``estimator``, and its defaults with the given ones over them."""
        rest = dict(given)
        name = rest.pop("estimator", "logistic_regression")
        if name not in ESTIMATORS:
            raise InvalidInput(
                f"The scikit-learn trainer has no estimator {name!r}.",
                hint=f"It has: {', '.join(sorted(ESTIMATORS))}.",
            )
        named = ESTIMATORS[name]
        defaults = {**named.defaults, **({"n_jobs": 1} if named.threads else {})}
        return {"estimator": name, **completed(f"scikit-learn {name}", rest, defaults, named.also)}

    def fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        params: Mapping[str, Any],
        seed: int,
        report: Report,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """Fit on the training rows; see ``Trainer.fit``."""
        check_learnable(train, validation)
        full = self.parameters(params)
        name = full.pop("estimator")
        pipeline = _pipeline(name, full, seed, train.target)
        report(0.0, f"fitting {name}")
        options = {} if train.weights is None else {"estimator__sample_weight": train.weights}
        warned = 0
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                pipeline.fit(finite(train.matrix), _labels(train), **options)
            warned = sum("converge" in str(one.message).lower() for one in told)
        except ValueError as error:
            raise InvalidInput(
                f"scikit-learn refused the rows or parameters: {str(error)[:300]}",
                hint="Check the parameters and the rows.",
            ) from None
        report(0.9, "converting to ONNX")
        _check_all_seen(pipeline, train.target)
        compared = finite(validation.matrix[:_COMPARED_ROWS])
        return FittedModel(
            format="onnx",
            data=self._convert(pipeline, compared, train.target),
            encoding=encoding,
            facts={"estimator": name, "not_converged": float(warned)},
            importance=_importance(pipeline.named_steps["estimator"], encoding),
        )

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The scores by ONNX Runtime: all that is left of the estimator is ONNX."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            fitted.data, options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {session.get_inputs()[0].name: finite(matrix)})
        scores = np.asarray(found, dtype=np.float64)
        return scores if fitted.target.classes else scores[:, 0]

    def code(self, params: Mapping[str, Any] | None = None) -> CodeVersion:
        """This module."""
        return code_version(type(self))


def _labels(rows: Rows) -> npt.NDArray[Any]:
    return rows.labels if rows.target.task == "regression" else rows.labels.astype(np.int64)


def _check_all_seen(pipeline: Any, target: Target) -> None:
    """Raise InvalidInput if a class had no row: the estimator would give it no column."""
    if not target.classes:
        return
    seen = {int(one) for one in pipeline.named_steps["estimator"].classes_}
    for place, name in enumerate(target.classes):
        if place not in seen:
            raise InvalidInput(
                f"The train part has no row of the class {name!r}.",
                hint="Leave it out of the classes, or give the train part rows of it.",
            )


def _pipeline(name: str, params: Mapping[str, Any], seed: int, target: Target) -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for LightGBM: threads that sleep
    import importlib

    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    named = ESTIMATORS[name]
    entry = named.regressor if target.task == "regression" else named.entry
    if not entry:
        others = [
            other
            for other, one in sorted(ESTIMATORS.items())
            if (one.regressor if target.task == "regression" else one.entry)
        ]
        raise InvalidInput(
            f"scikit-learn's {name!r} does not learn the task {target.task!r}.",
            hint=f"Set `estimator` to one of: {', '.join(others)}.",
        )
    given = dict(params)
    if named.seeded:
        given["random_state"] = seed
    bears_missing = name == "hist_gradient_boosting"
    if bears_missing:
        given["early_stopping"] = False  # it would hold back rows of its own choosing
    estimator = getattr(importlib.import_module(named.module), entry)(**given)
    steps: list[tuple[str, Any]] = []
    if not bears_missing:
        steps.append(("missing", SimpleImputer(strategy="median", keep_empty_features=True)))
    if named.scaled:
        steps.append(("scale", StandardScaler()))
    return Pipeline([*steps, ("estimator", estimator)])


def _importance(estimator: Any, encoding: Encoding) -> dict[str, float]:
    """The shares that the estimator itself tells: of its splits, or of its coefficients."""
    shares = getattr(estimator, "feature_importances_", None)
    if shares is None and hasattr(estimator, "coef_"):
        shares = np.abs(np.atleast_2d(estimator.coef_)).mean(axis=0)
    if shares is None:
        return {}
    total = float(np.sum(shares)) or 1.0
    return {name: float(one) / total for name, one in zip(encoding.names, shares, strict=True)}
