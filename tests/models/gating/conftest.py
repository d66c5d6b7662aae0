"""Made-up versions before their gates: real words, real rows, a scorer that is a formula."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from falaj.models.gating.examined import Examined
from falaj.models.model import Signature
from falaj.models.reference import statistics_of
from falaj.testing.smallbundles import SMALL
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType
from falaj.training.model import TimeSplit, TrainingSet, TrainingSetSpec

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
ENCODING = Encoding(
    features=(
        EncodedFeature(name="x"),
        EncodedFeature(name="n"),
        EncodedFeature(name="w", type=FeatureType.CATEGORY, categories=("a", "b", "c")),
    )
)


class Formula:
    """Scores rows by a function of the matrix; missing values count as 0."""

    def __init__(self, function):
        self._function = function

    def scores(self, matrix):
        """The probabilities."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self._function(np.nan_to_num(matrix.astype(float))), dtype=float)

    def seconds_per_row(self, matrix):
        """A microsecond for each."""
        return np.full(len(matrix), 1e-6)


def sigmoid(values):
    """From 0 to 1; as wide as floats go."""
    return 1 / (1 + np.exp(-np.clip(values, -700, 700)))


def made_rows(n=3000, /, seed=0, **columns):
    """Rows through a year, two thirds of them to train on; ``y`` follows ``x``."""
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, 300 * 86_400, n))
    x = random.normal(size=n)
    at = [BEGIN + timedelta(seconds=int(s)) for s in seconds]
    told = {
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "x": x,
        "n": random.normal(size=n),
        "w": np.array(["a", "b", "c"])[random.integers(0, 3, n)].tolist(),
        "y": random.random(n) < sigmoid(1.5 * x),
        "split": np.where(seconds < 150 * 86_400, "train",
                          np.where(seconds < 200 * 86_400, "validation", "test")).tolist(),
        **columns,
    }  # fmt: skip
    return pa.table(told)


def set_of(rows, features=("x", "n", "w")):
    """The training set that such rows are of."""
    return TrainingSet(
        id="ts_1",
        table="training_set_1",
        spec=TrainingSetSpec(
            feature_service="delays",
            label="y",
            spine="departures",
            timestamp="at",
            split=TimeSplit(
                train_until=BEGIN + timedelta(days=150),
                validation_until=BEGIN + timedelta(days=200),
            ),
        ),
        features=features,
        spine_snapshot=1,
        snapshot=2,
        spine_hash="sha256:1",
        content_hash="sha256:2",
        definitions={},
        n_rows={},
        positive_rate={},
        created_at=BEGIN,
        created_by="user:amina",
    )


def examined(rows=None, function=lambda m: sigmoid(1.5 * m[:, 0]), encoding=ENCODING, **more):
    """A version before its gates, judged on the test part of the rows."""
    rows = made_rows() if rows is None else rows
    part = lambda name: rows.filter(pa.array([s == name for s in rows["split"].to_pylist()]))  # noqa: E731
    train = encoding.matrix(part("train"))
    manifest = SMALL.model_copy(update={"signature": Signature(encoding=encoding, label="y")})
    bundle = SimpleNamespace(
        manifest=manifest.model_copy(update=more.pop("manifest", {})),
        statistics=statistics_of(encoding, train, np.full(3, 0.5)),
        attestation=more.pop("attestation", None),
        model=b"formula",
        size=2_500_000,
        files={},
        entries=(),
        signers=(),
    )
    return Examined(
        bundle=bundle,
        scorer=Formula(function),
        training_set=set_of(rows),
        rows=part("test"),
        whole=rows,
        **more,
    )


@pytest.fixture
def made():
    """The makers of this module."""
    return SimpleNamespace(
        rows=made_rows, examined=examined, sigmoid=sigmoid, set_of=set_of, encoding=ENCODING,
        begin=BEGIN,
    )  # fmt: skip
