from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.monitoring import streamdetectors
from falaj.monitoring.driftwords import Detector, DetectorName
from falaj.monitoring.streamdetectors import follow

NOTHING = np.zeros(0)


def documented() -> list[int]:
    """The stream of the examples in river's own documentation."""
    generator = random.Random(12345)
    return generator.choices([0, 1], k=1000) + generator.choices(range(4, 8), k=1000)


@pytest.mark.parametrize(
    ("rule", "index"),
    [
        (Detector(name="adwin"), 1023),
        (Detector(name="page_hinkley"), 1006),
        (Detector(name="kswin", alpha=0.0001, seed=42), 1016),
    ],
)
def test_a_detector_alarms_at_the_index_that_rivers_documentation_tells(
    rule: Detector, index: int
) -> None:
    assert follow(rule, NOTHING, documented()).alarms[0] == index


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 199), max_size=3), st.sampled_from(["adwin", "page_hinkley"]))
def test_a_detector_that_is_restarted_goes_on_as_if_it_had_not_been(
    cuts: list[int], name: DetectorName
) -> None:
    rule = Detector(name=name, threshold=5.0) if name == "page_hinkley" else Detector(name=name)
    generator = np.random.default_rng(1)
    stream = np.concatenate((generator.normal(size=100), generator.normal(3, size=100)))
    whole = follow(rule, NOTHING, stream)
    values, alarms = NOTHING, []
    edges = [0, *sorted(set(cuts)), len(stream)]
    for start, end in itertools.pairwise(edges):
        part = follow(rule, values, stream[start:end])
        alarms += [start + one for one in part.alarms]
        values = part.values
    assert alarms == whole.alarms
    assert values.tolist() == whole.values.tolist()


def test_a_long_series_starts_anew_from_its_newest_half_wherever_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(streamdetectors._MOST, "adwin", 100)
    stream = np.random.default_rng(2).normal(size=350)
    rule = Detector(name="adwin")
    whole = follow(rule, NOTHING, stream)
    assert len(whole.values) <= 100
    half = follow(rule, follow(rule, NOTHING, stream[:173]).values, stream[173:])
    assert half.values.tolist() == whole.values.tolist()


def test_a_minute_without_a_value_is_left_out() -> None:
    rule = Detector(name="adwin")
    assert follow(rule, NOTHING, [1.0, float("nan"), 2.0]).values.tolist() == [1.0, 2.0]


def test_a_setting_of_another_detector_is_refused() -> None:
    with pytest.raises(InvalidInput, match="threshold"):
        follow(Detector(name="adwin", threshold=3.0), NOTHING, [])
