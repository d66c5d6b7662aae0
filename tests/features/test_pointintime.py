"""The latest event across runs, among many that were recorded late."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.index.building import run_of
from falaj.features.index.runs import Span
from falaj.features.model import Entity, Feature, FeatureView
from falaj.features.pointintime import gathered, latest_of
from falaj.features.views import Events, ViewPlan

VIEW = FeatureView(
    name="v", entity="e", source="s", event_time="at", recorded_at="rec",
    features=[Feature("x", "int64")],
)  # fmt: skip
PLAN = ViewPlan.of(VIEW, Entity(name="e", keys={"k": "int64"}))


def run(keys, event_time, recorded, begin, end):
    part = slice(begin, end)
    positions = np.arange(len(keys))
    columns = {"x:int64": pa.array(positions[part])}
    events = Events(
        (pa.array(keys[part]),), event_time[part], recorded[part], columns, positions[part]
    )
    return run_of(PLAN, events, Span("t", begin, end, end - begin, 1))


@pytest.mark.parametrize("edges", [(0, 9000), (0, 8000, 8990, 9000), (0, 0, 9000)])
@pytest.mark.parametrize("latest", [3, 60, 100_000])
@pytest.mark.parametrize("bound", [9000, 8400, 50, 0])
def test_the_newest_event_that_was_known_is_found_however_many_were_not(edges, latest, bound):
    chance = np.random.default_rng(latest)
    n, m = 9000, 60
    keys, event_time = chance.integers(-1, 2, n), np.sort(chance.integers(0, 5000, n))
    recorded = event_time + chance.integers(-5, latest, n)
    runs = [run(keys, event_time, recorded, *edge) for edge in pairwise(edges)]
    asked, at = chance.integers(-1, 4, m), chance.integers(0, 6000, m)
    found = latest_of(runs, [pa.array(asked)], at, hide_late=True, bound=bound)
    words, bits = gathered(found, ["x:int64"])["x:int64"]
    there = np.unpackbits(bits, bitorder="little")[:m].astype(bool)
    for i in range(m):
        known = np.flatnonzero(
            (keys == asked[i]) & (event_time <= at[i]) & (recorded <= at[i])
            & (np.arange(n) < bound)
        )  # fmt: skip
        wanted = max(known, key=lambda j: (event_time[j], recorded[j], j), default=None)
        assert there[i] == (wanted is not None)
        assert not there[i] or words[i] == wanted
