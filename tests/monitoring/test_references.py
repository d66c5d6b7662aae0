from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from falaj.monitoring.driftwords import DriftReference, DriftWatch
from falaj.monitoring.references import told, windows_of

HOUR = timedelta(hours=1)
SINCE = datetime(2026, 11, 30, 9, tzinfo=UTC)
UNTIL = SINCE + HOUR


def test_a_season_compares_an_hour_with_the_same_hour_of_the_weekday_before() -> None:
    weekly = DriftReference(kind="seasonal", windows=2)
    week = timedelta(days=7)
    assert windows_of(weekly, SINCE, UNTIL) == [
        (SINCE - week, UNTIL - week), (SINCE - 2 * week, UNTIL - 2 * week),
    ]  # fmt: skip
    daily = DriftReference(kind="seasonal", period=timedelta(days=1))
    day = timedelta(days=1)
    assert windows_of(daily, SINCE, UNTIL) == [(SINCE - day, UNTIL - day)]


def test_rolling_windows_lie_right_before_and_do_not_overlap() -> None:
    rolling = DriftReference(kind="rolling", windows=3)
    windows = windows_of(rolling, SINCE, UNTIL)
    assert windows[0] == (SINCE - HOUR, SINCE)
    assert all(later[0] == earlier[1] for later, earlier in itertools.pairwise(windows))
    assert windows[-1][0] == SINCE - 3 * HOUR


def test_training_rows_are_no_window_and_a_fixed_one_stays() -> None:
    assert windows_of(DriftReference(), SINCE, UNTIL) == []
    assert told(DriftReference(), SINCE, UNTIL) == "the training rows"
    fixed = DriftReference(kind="fixed", since=SINCE - 9 * HOUR, until=SINCE - 8 * HOUR)
    assert windows_of(fixed, SINCE, UNTIL) == [(SINCE - 9 * HOUR, SINCE - 8 * HOUR)]


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "fixed"},
        {"kind": "fixed", "since": UNTIL, "until": SINCE},
        {"kind": "rolling", "since": SINCE},
        {"kind": "seasonal", "period": timedelta(0)},
    ],
)
def test_a_reference_that_means_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DriftReference.model_validate(given)


def test_three_of_two_windows_are_refused() -> None:
    with pytest.raises(ValidationError, match="3 of 2"):
        DriftWatch(needed=3, of_last=2)
