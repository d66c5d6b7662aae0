"""Point-in-time search over many late events, and entities of many keys."""

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.columns import entity_codes
from falaj.features.pointintime import EventIndex


@pytest.mark.parametrize("latest", [3, 60, 1_000])
def test_the_newest_event_that_was_recorded_in_time_is_found_however_many_were_late(latest):
    chance = np.random.default_rng(latest)
    n, m = 400, 300
    codes = chance.integers(-1, 3, n)
    event_time = chance.integers(0, 100, n)
    recorded = event_time + chance.integers(-5, latest, n)
    asked, at = chance.integers(-1, 4, m), chance.integers(0, 200, m)
    found, _ = EventIndex(codes, event_time, recorded).latest(asked, at)
    for position, code, t in zip(found, asked, at, strict=True):
        known = [
            (event_time[i], recorded[i], i)
            for i in range(n)
            if code == codes[i] >= 0 and event_time[i] <= t and recorded[i] <= t
        ]
        assert position == (max(known)[2] if known else -1)


def test_entities_of_many_wide_keys_are_numbered_without_overflow():
    n = 3_000
    chance = np.random.default_rng(0)
    columns = [pa.array(chance.integers(0, 10**9, n)) for _ in range(8)]
    asked = [pa.concat_arrays([column.slice(0, 5), column.slice(0, 1)]) for column in columns]
    asked[0] = pa.concat_arrays([asked[0].slice(0, 5), pa.array([-1])])
    codes, found = entity_codes(columns, asked)
    assert len(np.unique(codes)) == n
    assert found.tolist() == [*codes[:5].tolist(), -1]


def test_without_events_nothing_is_found():
    none = np.empty(0, np.int64)
    positions, expired = EventIndex(none, none, none).latest(
        np.array([0, -1]), np.array([5, 5]), ttl_us=1
    )
    assert positions.tolist() == [-1, -1]
    assert not expired.any()
    assert entity_codes([pa.array([], pa.string())], [pa.array(["a", None])])[1].tolist() == [
        -1,
        -1,
    ]
