"""Who meets what in a rollout: layers, holdouts, segments, and shares that move nobody."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.rollouts.allocation import mismatch_p_value
from falaj.serving.assigning import Assigner
from falaj.serving.layers import alternated
from falaj.serving.model import FieldType, Release, RequestField, Variant
from falaj.serving.splits import Assignment, LayerPlace, Split
from falaj.testing.serving import make_release

ROWS = [SimpleNamespace(who=f"user-{number}", city=f"city-{number % 40}") for number in range(8000)]
CITIES = [f"city-{number}" for number in range(40)]
HOUR = 3_600 * 1_000_000
FIELDS = tuple(RequestField(name=name, type=FieldType.STRING) for name in ("who", "city"))


def release(
    final: dict[str, float], *, endpoint: str = "delays", shadow: bool = False, **given: Any
) -> Release:
    champion = Variant(model="delay", version=1, bundle="sha256:a")
    challengers = [
        Variant(name=name, model="delay", version=2, bundle="sha256:b", share=0.0, shadow=shadow)
        for name in final
    ]
    return make_release(
        endpoint=endpoint,
        variants=(champion, *challengers),
        fields=FIELDS,
        unit="who",
        assignment=Assignment(**{"salt": "rol_1", "final": final, **given}),
    )


def assigner(made: Release, **shares: float) -> Assigner:
    return Assigner(made, Split(endpoint=made.endpoint, release=made.id, shares=shares))


def met(one: Assigner, rows: list[Any] = ROWS, at_us: int = 0) -> list[int]:
    return one.variants(rows, at_us) or [0] * len(rows)


def test_units_meet_the_variants_by_their_present_shares() -> None:
    found = Counter(met(assigner(release({"b": 0.5, "c": 0.3}), b=0.2, c=0.3)))
    assert mismatch_p_value([found[0], found[1], found[2]], [5, 2, 3]) > 0.001


def test_a_split_of_another_release_and_none_at_all_leave_everybody_with_the_champion() -> None:
    made = release({"b": 0.5})
    other = Split(endpoint="delays", release="release_9", shares={"b": 0.5})
    for split in (None, other, Split(endpoint="delays", release=made.id)):
        one = Assigner(made, split)
        assert not one.on
        assert one.variants(ROWS, 0) is None


@settings(max_examples=25, deadline=None)
@given(
    salt=st.text(min_size=1, max_size=20),
    early=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    more=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    holdout=st.floats(0, 0.5),
    low=st.floats(0, 0.5),
)
def test_a_growing_share_moves_no_unit_whatever_the_holdout_and_the_layer(
    salt: str,
    early: tuple[float, float],
    more: tuple[float, float],
    holdout: float,
    low: float,
) -> None:
    made = release(
        {"b": 0.4, "c": 0.4},
        salt=salt,
        holdout=holdout,
        layer=LayerPlace(name="l", low=low, high=1.0),
    )
    late = [max(one, other) for one, other in zip(early, more, strict=True)]
    before = met(assigner(made, b=early[0], c=early[1]), ROWS[:300])
    after = met(assigner(made, b=late[0], c=late[1]), ROWS[:300])
    assert all(then == now for then, now in zip(before, after, strict=True) if then)


def test_two_rollouts_divide_the_same_units_independently() -> None:
    one = met(assigner(release({"b": 0.5}, salt="rol_1"), b=0.5))
    two = met(assigner(release({"b": 0.5}, salt="rol_2", endpoint="others"), b=0.5))
    cells = Counter(zip(one, two, strict=True))
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert mismatch_p_value([cells[pair] for pair in pairs], [1, 1, 1, 1]) > 0.001


def test_the_same_units_are_held_out_of_every_rollout_of_an_endpoint_and_of_no_other() -> None:
    def held(salt: str, endpoint: str) -> set[str]:
        made = release({"b": 1.0}, salt=salt, holdout=0.2, endpoint=endpoint)
        which = met(assigner(made, b=1.0))
        return {row.who for row, one in zip(ROWS, which, strict=True) if one == 0}

    first = held("rol_1", "delays")
    assert held("rol_2", "delays") == first
    assert mismatch_p_value([len(first), len(ROWS) - len(first)], [2, 8]) > 0.001
    both = len(first & held("rol_1", "others"))
    assert mismatch_p_value([both, len(first) - both], [2, 8]) > 0.001


def test_rollouts_of_one_layer_never_have_a_unit_in_common() -> None:
    def tried(endpoint: str, low: float, high: float) -> set[str]:
        place = LayerPlace(name="ranking", low=low, high=high)
        made = release({"b": 1.0}, salt=endpoint, endpoint=endpoint, layer=place)
        which = met(assigner(made, b=1.0))
        return {row.who for row, one in zip(ROWS, which, strict=True) if one}

    one, two = tried("delays", 0.0, 0.6), tried("others", 0.6, 1.0)
    assert not one & two
    assert one | two == {row.who for row in ROWS}
    assert mismatch_p_value([len(one), len(two)], [6, 4]) > 0.001


def test_a_row_without_a_unit_meets_the_champion() -> None:
    rows = [SimpleNamespace(who=None, city="x")] * 10
    assert met(assigner(release({"b": 1.0}), b=1.0), rows) == [0] * 10


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 10_000), st.integers(2, 5))
def test_a_segment_meets_each_variant_once_in_every_round_of_periods(
    salt: str, segment: str, block: int, n: int
) -> None:
    found = [alternated(salt, segment, block * n + place, n) for place in range(n)]
    assert sorted(found) == list(range(n))


def test_whole_segments_alternate_and_are_balanced_in_each_period() -> None:
    made = release({"b": 0.5}, segment="city", period=timedelta(hours=1))
    one = assigner(made, b=0.5)
    by_period = []
    for period in range(60):
        which = met(one, ROWS[:400], period * HOUR + 17)
        assert which == met(one, ROWS[:400], (period + 1) * HOUR - 1)
        meets = {}
        for row, variant in zip(ROWS[:400], which, strict=True):
            assert meets.setdefault(row.city, variant) == variant
        by_period.append(meets)
    for city in CITIES:
        assert sum(meets[city] for meets in by_period) == 30
    switches = sum(
        then[city] != now[city]
        for then, now in zip(by_period[1::2], by_period[2::2], strict=False)
        for city in CITIES
    )
    assert mismatch_p_value([switches, 29 * 40 - switches], [1, 1]) > 0.001
    total = Counter(variant for meets in by_period for variant in meets.values())
    assert total[0] == total[1]


def test_a_challenger_without_a_share_has_its_periods_served_by_the_champion() -> None:
    made = release({"b": 0.5, "c": 0.5}, segment="city", period=timedelta(hours=1))
    found = Counter(met(assigner(made, b=0.5), at_us=5 * HOUR))
    assert set(found) == {0, 1}
    assert found[0] > found[1]


def test_shadows_share_the_same_rows_as_far_as_their_shares_go() -> None:
    made = release({"b": 1.0, "c": 1.0}, shadow=True)
    one = assigner(made, b=0.3, c=0.1)
    ids = [f"pred_{number}" for number in range(len(ROWS))]
    b, c = (one.shadowed(ROWS, ids, which) for which in (0, 1))
    assert set(c) <= set(b)
    assert mismatch_p_value([len(b), len(ROWS) - len(b)], [3, 7]) > 0.001
    assert one.shadowed(ROWS, ids, 0) == b
    assert len(assigner(made, b=1.0).shadowed(ROWS, ids, 0)) == len(ROWS)
    assert assigner(made, b=1.0).shadowed(ROWS, ids, 1) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"final": {"b": 0.6, "c": 0.6}}, "more than 1"),
        ({"final": {}}, "challengers"),
        ({"final": {"champion": 0.1}}, "champion"),
        ({"final": {"b": 0.1}, "segment": "city"}, "go together"),
        ({"final": {"b": 0.1}, "segment": "x", "period": timedelta(hours=1)}, "request field"),
    ],
)
def test_assignments_that_cannot_be_kept_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        release(**given)
