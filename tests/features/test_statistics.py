"""Statistics of features: of each new part of a source's log, counted once, telling no person."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Aggregate, Entity, Feature, FeatureView
from falaj.features.statistics import QUANTILES, SAMPLED, FeatureStatistics, Summary, listed
from falaj.features.store import FeatureStore
from falaj.features.types import DType
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import NotFound
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.features import FixedSecrets, GivenDefinitions

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CARD = Entity(name="card", keys={"card": "string"})
FEATURES = [Feature("money", "float64"), Feature("tier", "string"), Feature("n", "int64"),
            Feature("tags", "list[string]")]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    views = [
        FeatureView(name="plain", entity=CARD, source="rows", event_time="at", features=FEATURES),
        FeatureView(name="secret", entity=CARD, source="rows", event_time="at", features=FEATURES,
                    classification="personal"),
        FeatureView(name="windows", entity=CARD, source="rows", event_time="at", aggregates=[
            Aggregate("total", "sum", "money", window=timedelta(hours=1)),
            Aggregate("seen", "count", "tier", window=timedelta(hours=1)),
            Aggregate("all", "count", window=timedelta(hours=1)),
        ]),
        FeatureView(name="empty", entity=CARD, source="nowhere", event_time="at",
                    features=FEATURES),
    ]  # fmt: skip
    lake = DuckLake.in_folder(tmp_path / "lake", threads=1)
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    made = FeatureStore(GivenDefinitions(CARD, *views), lake, online, FixedSecrets(), SetClock(NOW))
    yield made
    online.close()
    lake.close()


def rows(*money):
    n = len(money)
    return pa.table(
        {
            "card": ["c"] * n,
            "at": pa.array([NOW] * n, pa.timestamp("us", "UTC")),
            "money": pa.array(money, pa.float64()),
            "tier": pa.array([None if m is None else f"t{m}" for m in money], pa.string()),
            "n": pa.array(range(n), pa.int64()),
            "tags": pa.array([["x"]] * n, pa.list_(pa.string())),
        }
    )


@pytest.fixture
def kept(store):
    return FeatureStatistics(store, lambda _view: 3, SetClock(NOW))


def by_feature(store, view, limit=10):
    return {
        one.feature: one for one in reversed(listed(store.lake, view, feature=None, limit=limit))
    }


def test_what_was_written_is_counted_with_its_figures(store, kept):
    store.lake.append("rows", rows(1.0, 2.0, 3.0, None, float("nan"), float("inf")))
    assert kept.update("plain")
    found = by_feature(store, "plain")
    money = found["money"]
    assert (money.view, money.version, money.n, money.n_null, money.n_not_finite) == (
        "plain", 3, 6, 1, 2
    )  # fmt: skip
    assert (money.mean, money.min, money.max) == (2.0, 1.0, 3.0)
    assert money.std == pytest.approx(np.std([1, 2, 3]))
    assert money.quantiles["0.5"] == 2.0
    assert (found["tier"].n_distinct, found["tier"].min, found["tier"].n_null) == (5, None, 1)
    assert (found["tags"].n, found["tags"].mean) == (6, None)


def test_rows_are_counted_once_in_the_part_that_brought_them(store, kept):
    store.lake.append("rows", rows(1.0, 2.0))
    assert kept.update("plain")
    assert not kept.update("plain")
    store.lake.append("rows", rows(10.0))
    assert kept.update_all() == 3
    assert kept.update_all() == 0
    parts = listed(store.lake, "plain", feature="money", limit=10)
    assert [(one.since, one.until, one.n, one.mean) for one in parts] == [
        (2, 3, 1, 10.0), (0, 2, 2, 1.5)
    ]  # fmt: skip


def test_of_a_personal_view_only_numbers_of_rows_and_nulls_are_kept(store, kept):
    store.lake.append("rows", rows(1.0, None))
    kept.update("secret")
    for one in by_feature(store, "secret").values():
        assert one.n == 2
        assert (one.mean, one.std, one.min, one.max, one.n_distinct, one.quantiles) == (
            None, None, None, None, None, {}
        )  # fmt: skip
    text = repr(store.lake.scan("feature_statistics").to_pylist())
    assert "'n_null': 1" in text


def test_of_a_window_view_the_values_that_go_in_are_told(store, kept):
    store.lake.append("rows", rows(1.0, None, 5.0))
    kept.update("windows")
    found = by_feature(store, "windows")
    assert (found["total"].mean, found["total"].n_null) == (3.0, 1)
    assert (found["seen"].n, found["seen"].n_null, found["all"].n, found["all"].n_null) == (
        3,
        1,
        3,
        0,
    )


def test_a_view_without_rows_has_none_and_one_that_there_is_not_is_not_found(store, kept):
    assert not kept.update("empty")
    assert listed(store.lake, "plain", feature=None, limit=5) == []
    with pytest.raises(NotFound):
        kept.update("nothing")


def test_figures_of_many_batches_are_those_of_all_values():
    chance = np.random.default_rng(1)
    values = chance.normal(1e6, 3, 160_000)
    summary = Summary(DType.FLOAT64, False, np.random.default_rng(2))
    for part in np.array_split(values, 7):
        summary.add(pa.array(part))
    told = summary.told()
    assert told["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert told["std"] == pytest.approx(values.std(), rel=1e-9)
    exact = np.quantile(values, QUANTILES)
    assert len(summary.kept) == SAMPLED
    assert np.abs(np.array(told["quantiles"]) - exact).max() < 0.3
