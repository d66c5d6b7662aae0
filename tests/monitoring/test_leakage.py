"""Features that know what they cannot know, found in the prediction log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.errors import NotFound
from falaj.lake.adapters.ducklake_engine import Place
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.leakage import Leakage, LeakageLimits, LeakageReport
from falaj.monitoring.model import Labels
from falaj.serving.logged import SCHEMA
from falaj.testing.serving import make_release
from falaj.training.encoding import EncodedFeature, Encoding

NOW = datetime(2026, 11, 9, tzinfo=UTC)
N = 2_000
NAMES = ("honest", "leaky", "noise")
LABELS = Labels(table="outcomes", label="late", key="request")


def logged(labels: Any, *, leaky: bool, n_early: int) -> pa.Table:
    random = np.random.default_rng(3)
    honest = labels * 0.8 + random.normal(size=N)
    other = labels + random.normal(size=N) * (0.1 if leaky else 20.0)
    rows = np.stack([honest, other, random.normal(size=N)], axis=1).astype(np.float32)
    times = [NOW - timedelta(minutes=i) for i in range(N)]
    known = [at + timedelta(seconds=1 if i < n_early else -1) for i, at in enumerate(times)]
    given: dict[str, Any] = {
        "prediction_id": [f"pred_{i}" for i in range(N)],
        "request_id": [f"r{i}" for i in range(N)],
        "endpoint": ["delays"] * N, "release": ["release_1"] * N, "variant": ["champion"] * N,
        "model": ["delay"] * N, "version": [1] * N, "requested_at": times,
        "predicted_for": times, "features": rows.tolist(), "features_at": known,
        "score": random.uniform(size=N), "outputs": [[0.5]] * N, "latency_us": [100] * N,
        "caller": ["user:amina"] * N,
    }  # fmt: skip
    return pa.table(
        [pa.array(given.get(field.name, [None] * N), field.type) for field in SCHEMA],
        schema=SCHEMA,
    )


@pytest.fixture(scope="module", params=[True, False], ids=["leaky", "honest"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    leaky = bool(request.param)
    folder: Path = tmp_path_factory.mktemp("lake")
    lake = DuckLake(Place.of("ducklake:", folder), threads=1)
    labels = np.random.default_rng(5).uniform(size=N) < 0.3
    lake.append("predictions_delays", logged(labels, leaky=leaky, n_early=7 if leaky else 0))
    requests = [f"r{i}" for i in range(N)]
    lake.append("outcomes", pa.table({"request": requests, "late": labels}))
    encoding = Encoding(features=tuple(EncodedFeature(name=name) for name in NAMES))
    bundle = SimpleNamespace(manifest=SimpleNamespace(signature=SimpleNamespace(encoding=encoding)))
    leakage = Leakage(lake, SimpleNamespace(open_bundle=lambda _: bundle))  # type: ignore[arg-type]

    def looked(
        judged: dict[str, float], since: datetime = NOW - timedelta(days=7)
    ) -> LeakageReport:
        until = NOW + timedelta(seconds=1)
        return leakage.report(make_release(), LABELS, since, until, LeakageLimits(), judged)

    yield leaky, looked
    lake.close()


def test_what_lies_after_the_instant_of_a_prediction_is_found(found: Any) -> None:
    leaky, looked = found
    report = looked({})
    future = [one for one in report.findings if one.name == "from_the_future"]
    assert report.n_from_the_future == (7 if leaky else 0)
    assert [one.numbers["share"] for one in future] == ([7 / N] if leaky else [])


def test_a_feature_that_tells_the_label_by_itself_is_found_and_an_honest_one_is_not(
    found: Any,
) -> None:
    leaky, looked = found
    report = looked({})
    assert (report.n_predictions, report.n_labels) == (N, N)
    like = [one.column for one in report.findings if one.name == "label_like"]
    assert like == (["leaky"] if leaky else [])
    assert report.strongest[0].name == ("leaky" if leaky else "honest")


def test_a_feature_that_grew_far_stronger_than_it_was_judged_is_found(found: Any) -> None:
    leaky, looked = found
    judged = {"honest": 0.51, "leaky": 0.99 if leaky else 0.6}
    like = [one for one in looked(judged).findings if one.name == "label_like"]
    assert "honest" in [one.column for one in like]
    assert "0.51 when it was judged" in next(one for one in like if one.column == "honest").sentence


def test_a_window_without_predictions_is_named(found: Any) -> None:
    _, looked = found
    with pytest.raises(NotFound, match="no logged predictions of version 1"):
        looked({}, NOW + timedelta(milliseconds=1))
