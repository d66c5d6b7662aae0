from __future__ import annotations

import numpy as np

from falaj.testing.columns import Pair

N = 20_000


def lognormal(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(size=n)


def test_equal_columns_of_many_shapes_show_no_finding() -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)

        def rows(random: np.random.Generator = random) -> np.ndarray:
            made = np.column_stack(
                [random.lognormal(0, 2, (N, 5)), random.normal(size=(N, 5)),
                 random.integers(0, 3, (N, 3)), random.standard_t(3, (N, 4)),
                 random.integers(0, 2, N)]
            )  # fmt: skip
            made[random.uniform(size=made.shape) < 0.03] = np.nan
            return made

        assert Pair(rows(), rows()).findings() == []


def test_a_null_surge_is_told_with_both_shares() -> None:
    now = lognormal(2)
    now[: N // 5] = np.nan
    (one,) = Pair(lognormal(1), now).findings()
    assert (one.name, one.column) == ("null_surge", "x0")
    assert one.numbers == {"share": 0.2, "reference_share": 0.0}
    assert one.sentence == "x0 has no value in 20.0% of the rows, where it was 0.0%."


def test_a_change_of_unit_is_named_by_its_factor() -> None:
    before, now = lognormal(1), lognormal(2)
    thousands = Pair(before, now * 1000).findings()
    assert [one.name for one in thousands] == ["unit_change", "out_of_range"]
    assert abs(thousands[0].numbers["factor"] / 1000 - 1) < 0.05
    pounds = Pair(before, now * 2.2046).findings()[0]
    assert "2.20462 times" in pounds.sentence
    assert "kilograms and pounds" in pounds.sentence
    hours = Pair(before, now / 60).findings()[0]
    assert "1/60 times" in hours.sentence


def test_a_shift_is_no_change_of_unit() -> None:
    random = np.random.default_rng(3)
    before, now = random.normal(10, 1, N), random.normal(20, 1, N)
    assert "unit_change" not in [name for name, _ in Pair(before, now).named()]


def test_growth_of_a_skewed_column_is_no_change_of_unit() -> None:
    was, now = np.random.default_rng(1), np.random.default_rng(2)
    grown = {
        "other shape": (was.gamma(2, size=N), now.gamma(2 * 1.6**0.7, 1.6**0.3, size=N)),
        "no known factor": (was.exponential(size=N), now.exponential(2, size=N)),
    }
    for before, after in grown.values():
        names = [name for name, _ in Pair(before, after).named()]
        assert "unit_change" not in names
    miles = Pair(was.gamma(2, size=N), now.gamma(2, size=N) * 1.609344).findings()[0]
    assert "miles and kilometres" in miles.sentence


def test_a_stuck_value_is_told_and_a_value_that_always_was_the_only_one_is_not() -> None:
    before = lognormal(1)
    (one,) = Pair(before, np.full(5_000, 1.5)).findings()
    assert one.name == "stuck_value"
    assert one.numbers == {"rows": 5_000.0, "value": 1.5}
    assert Pair(np.full(N, 1.5), np.full(5_000, 1.5)).findings() == []
    rare = np.zeros(N)
    rare[:2] = 1.0
    assert Pair(rare, np.zeros(200)).findings() == []


def test_infinite_values_are_told_unless_the_reference_has_some() -> None:
    before, now = lognormal(1), lognormal(2)
    now[:3] = np.inf
    assert Pair(before, now).named() == [("infinite_values", "x0")]
    known = before.copy()
    known[0] = -np.inf
    assert Pair(known, now).findings() == []


def test_values_outside_the_known_range_are_told_and_a_new_record_is_not() -> None:
    before, now = lognormal(1), lognormal(2)
    now[0] = 1e6
    assert Pair(before, now).findings() == []
    now[:200] = -5.0
    (one,) = Pair(before, now).findings()
    assert one.name == "out_of_range"
    assert one.numbers["share"] >= 0.01
    assert one.numbers["low"] == -5.0


def test_words_that_the_reference_does_not_know_are_new_categories() -> None:
    random = np.random.default_rng(4)
    before, now = random.integers(0, 2, N).astype(float), random.integers(0, 2, N).astype(float)
    now[:100] = 2.0  # the place of all other words
    (one,) = Pair(before, now, {0: ("a", "b")}).findings()
    assert (one.name, one.numbers) == ("new_categories", {"share": 0.005})


def test_a_handful_of_rows_shows_no_finding() -> None:
    assert Pair(lognormal(1), np.full(20, np.nan)).findings() == []
