from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.fairness import Counted, difference, gaps, ratio
from falaj.monitoring.joined import MISSING, Joined, grouped
from falaj.monitoring.performancewords import Slice


def rows(scores: list[float], labels: list[float]) -> Joined:
    n = len(scores)
    nothing = np.full(n, np.nan)
    return Joined(
        np.zeros(n), np.array(scores), np.array(labels), nothing, np.zeros(n, dtype=np.int64)
    )


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # His table II, case (a): 56/70 - 48/80, 95 %: 0.0524 to 0.3339 (method 10).
    band = difference([(56, 70), (48, 80)], 0.95)
    assert band is not None
    assert band.estimate == pytest.approx(0.2)
    assert (band.low, band.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_a_gap_is_of_the_two_that_are_farthest_apart_and_wider_for_more_groups() -> None:
    two = difference([(20, 100), (60, 100)], 0.95)
    three = difference([(20, 100), (40, 100), (60, 100)], 0.95)
    assert two is not None
    assert three is not None
    assert two.estimate == three.estimate == pytest.approx(0.4)
    assert three.low < two.low
    assert difference([(1, 2), (0, 0)], 0.95) is None


def test_a_ratio_holds_its_estimate_and_stays_a_share() -> None:
    band = ratio([(30, 100), (60, 100)], 0.95)
    assert band is not None
    assert band.estimate == pytest.approx(0.5)
    assert 0.3 < band.low < 0.5 < band.high < 0.75
    none = ratio([(0, 100), (60, 100)], 0.95)
    assert none is not None
    assert none.estimate == 0
    assert ratio([(0, 100), (0, 100)], 0.95) is None


def test_groups_that_are_treated_alike_are_seldom_said_to_be_apart() -> None:
    random = np.random.default_rng(8)
    apart = 0
    for _ in range(400):
        counts = [(float(random.binomial(200, 0.3)), 200.0) for _ in range(4)]
        band = difference(counts, 0.95)
        assert band is not None
        apart += band.low > 0
    assert apart / 400 <= 0.06


def test_gaps_are_those_that_one_writes_down() -> None:
    one = Counted(rows([0.9] * 20 + [0.1] * 20, [1.0] * 10 + [0.0] * 30), 0.5)
    other = Counted(rows([0.9] * 10 + [0.1] * 30, [1.0] * 10 + [0.0] * 30), 0.5)
    found = gaps([one, other], 0.95)
    assert found["demographic_parity_difference"].estimate == pytest.approx(0.25)
    assert found["demographic_parity_ratio"].estimate == pytest.approx(0.5)
    assert found["equal_opportunity_difference"].estimate == 0
    assert found["equalised_odds_difference"].estimate == pytest.approx(1 / 3)
    assert found["calibration_difference"].estimate == pytest.approx(0.5 - 0.3)


def test_few_labels_leave_the_gaps_that_need_them_undefined() -> None:
    few = [Counted(rows([0.9] * 30, [1.0] * 10 + [float("nan")] * 20), 0.5) for _ in range(2)]
    assert set(gaps(few, 0.95)) == {"demographic_parity_difference", "demographic_parity_ratio"}
    assert gaps(few[:1], 0.95) == {}


def test_only_the_largest_groups_are_told_apart() -> None:
    names = [f"g{i}" for i in range(5_000)] + ["many"] * 10 + ["more"] * 20
    places, groups = grouped(pa.chunked_array([names]), Slice(by="unit"))
    assert groups[:2] == ("more", "many")
    assert len(groups) == 20
    assert (places < 0).sum() == 5_000 - 18


def test_numbers_and_what_is_missing_have_groups_of_their_own() -> None:
    column = pa.chunked_array([["1.5", None, "3", "nan"]])
    places, groups = grouped(column, Slice(by="age", edges=(2.0,)))
    assert [groups[one] for one in places] == ["< 2", MISSING, ">= 2", MISSING]
    with pytest.raises(InvalidInput, match="no numbers"):
        grouped(pa.chunked_array([["x"]]), Slice(by="age", edges=(2.0,)))
    few, names = grouped(pa.chunked_array([[0.0, 1.0, 1.0]]), Slice(by="flag"))
    assert [names[one] for one in few] == ["0", "1", "1"]


def test_a_number_that_stands_for_no_word_is_missing() -> None:
    column = pa.chunked_array([[0.0, 1.0, 7.0, None]])
    places, names = grouped(column, Slice(by="kind", of="input"), ("web", "shop"))
    assert [names[one] for one in places] == ["web", "shop", MISSING, MISSING]
