"""Estimators that skops wrote: converted by an exact list of types, whatever the file asks."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.models.adapters.estimator_skops import SkopsToOnnx
from falaj.testing.smallmodels import rows_and_labels

skops = pytest.importorskip("skops.io")


def estimators():
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        "forest": make_pipeline(SimpleImputer(), RandomForestClassifier(10, random_state=0)),
        "boosting": HistGradientBoostingClassifier(max_iter=10, random_state=0),
    }


@pytest.mark.parametrize("name", ["logistic", "forest", "boosting"])
def test_an_estimator_of_scikit_learn_becomes_onnx(name):
    rows, labels = rows_and_labels()
    fitted = estimators()[name].fit(rows, labels)
    onnx = SkopsToOnnx().convert(skops.dumps(fitted), rows)
    assert len(onnx) > 100


class Foreign:
    """Of a module that nobody trusts."""


def test_a_type_that_is_not_trusted_is_refused_by_name():
    with pytest.raises(InvalidInput, match="Foreign"):
        SkopsToOnnx().convert(skops.dumps(Foreign()), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04N.", b"x" * 100])
def test_what_skops_did_not_write_is_refused(data):
    with pytest.raises(InvalidInput):
        SkopsToOnnx().convert(data, np.zeros((1, 3), np.float32))
