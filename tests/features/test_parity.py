"""Parity finds what differs, and nothing else."""

import math
from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features.parity import Parity, Served, agree, check
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import NotFound


@pytest.fixture
def filled(store, now):
    n = 40
    cards = [f"card {i % 7}" for i in range(n)]
    times = [now - timedelta(minutes=3 * i) for i in range(n)]
    rows = pa.table(
        {"card": cards, "at": pa.array(times, pa.timestamp("us", "UTC")),
         "amount": [0.1 * i for i in range(n)]}
    )  # fmt: skip
    store.push("payments", rows)
    store.push("accounts", rows.append_column("holder", pa.array(cards)))
    return store


def test_what_was_pushed_agrees(filled):
    report = Parity(filled).sampled("fraud", 30)
    assert report.agrees
    assert (report.n_rows, report.n_values, report.examples) == (30, 120, [])


def test_a_row_that_was_lost_online_is_found_and_named(filled):
    storage = filled.storage(filled.view_plan("spent"))
    entity = storage.keys.encoded(["card 3"])
    filled.online.forget([key for key in filled.online.keys(b"") if key.endswith(entity)])
    report = Parity(filled).sampled("fraud", 60)
    assert not report.agrees
    assert set(report.by_feature) == {"spent__sum_1h", "spent__n_1h"}
    assert report.n_mismatches == sum(report.by_feature.values())
    assert {example.keys["card"] for example in report.examples} == {"card 3"}


def test_a_store_without_events_agrees(store, now):
    assert Parity(store).sampled("fraud", 5).agrees
    assert Parity(store).sampled("fraud", 5, at=now).agrees
    with pytest.raises(NotFound):
        Parity(store).sampled("nothing", 5)


def test_served_vectors_are_recomputed_as_of_their_instants(filled, now):
    plan = filled.plan("fraud")
    rows = [{"card": f"card {i}", "asked": float(i)} for i in range(7)]
    times = [microseconds(now) + i * 10**9 for i in range(7)]
    values = filled.reader(plan).read(rows, times).values
    served = Served(rows, times, values)
    assert check(filled, plan, served).agrees
    assert check(filled, plan, served.sample(3, seed=1)).n_rows == 3
    values[2][0] = 99.0
    assert check(filled, plan, served).by_feature == {"asked": 1}


@pytest.mark.parametrize(
    ("online", "offline", "same"),
    [
        (None, None, True), (None, 0, False), (math.nan, math.nan, True), (math.nan, 1.0, False),
        (1.0, 1.0 + 1e-12, True), (1.0, 1.001, False), (1, 2, False), ("a", "a", True),
        (math.inf, math.inf, True), (math.inf, -math.inf, False),
    ],
)  # fmt: skip
def test_values_agree_only_if_they_are_the_same(online, offline, same):
    assert agree(online, offline) is same
