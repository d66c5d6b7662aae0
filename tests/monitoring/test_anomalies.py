from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.monitoring.anomalies import NoStatsmodels, Scale, expected, findings
from falaj.monitoring.anomalywords import AnomalyWatch, MetricSeries

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday; clocks in Europe change on the 29th
HOUR = timedelta(hours=1)
WATCH = AnomalyWatch()
DAYS, JUDGED = 28, 24


def traffic(seed, days=DAYS):
    """Requests by hour: none at night, most at noon, less than half at weekends."""
    hours = np.arange(days * 24)
    day = np.clip(np.sin((hours % 24 - 6) / 24 * 2 * np.pi) + 0.5, 0, None)
    week = np.where(hours // 24 % 7 >= 5, 0.4, 1.0)
    return np.random.default_rng(seed).poisson(400 * day * week).astype(float)


@pytest.fixture(scope="module")
def learned():
    """Three histories of four weeks, what they let one expect, and the day that follows."""
    found = []
    for seed in range(3):
        whole = traffic(seed, DAYS + 1)
        of = expected(whole[: DAYS * 24], JUDGED, per_day=24, scale=Scale.COUNTS, width=6.0)
        found.append((of, whole[DAYS * 24 :]))
    return found


def found_in(of, seen, watch=WATCH, **more):
    times = [START + timedelta(days=DAYS) + HOUR * k for k in range(len(seen))]
    return findings("traffic", times, np.asarray(seen, float), of, watch, HOUR, **more)


def test_a_clean_day_with_its_night_and_its_noon_raises_nothing(learned):
    for of, seen in learned:
        assert of.method == "seasonal"
        assert found_in(of, seen)[1] == []
        assert seen.min() == 0.0  # nobody comes at night, and that is as it should be


@pytest.mark.nightly
def test_of_a_hundred_clean_series_at_most_two_raise_a_finding():
    n = 0
    for seed in range(100, 200):
        whole = traffic(seed)
        of = expected(whole[:-JUDGED], JUDGED, per_day=24, scale=Scale.COUNTS, width=6.0)
        n += bool(found_in(of, whole[-JUDGED:])[1])
    assert n <= 2


@pytest.mark.parametrize(
    ("change", "side"),
    [
        (lambda day: np.concatenate([day[:10], day[10:14] * 0, day[14:]]), "below"),
        (lambda day: np.concatenate([day[:10], day[10:13] * 3, day[13:]]), "above"),
        (lambda day: np.concatenate([day[:9], day[9:] * 0.5]), "below"),
        (lambda day: np.concatenate([day[:2], day[2:5] + 100, day[5:]]), "above"),
    ],
    ids=["a dead noon", "a rush", "half of it from nine on", "a crowd at night"],
)
def test_planted_spikes_drops_and_level_shifts_are_found(learned, change, side):
    for of, seen in learned:
        _, found = found_in(of, change(seen))
        assert {one.side for one in found} == {side}
        worst = max(found, key=lambda one: one.n_points)
        assert (worst.seen < worst.low) if side == "below" else (worst.seen > worst.high)
        assert worst.low <= worst.expected <= worst.high


def test_one_point_alone_is_an_anomaly_but_no_finding(learned):
    of, seen = learned[0]
    seen = seen.copy()
    seen[12] = 0
    points, found = found_in(of, seen)
    assert [point.at.hour for point in points if point.anomalous] == [12]
    assert found == []
    assert len(found_in(of, seen, AnomalyWatch(persistence=1))[1]) == 1


def test_a_gap_neither_ends_a_stretch_nor_adds_to_it(learned):
    of, seen = learned[0]
    seen = seen.copy()
    seen[10:13] = [0, np.nan, 0]
    points, (found,) = found_in(of, seen)
    assert (found.n_points, found.until - found.since) == (2, 3 * HOUR)
    assert points[11].seen is None
    assert not found.lasts


def test_what_reaches_to_the_newest_known_point_lasts(learned):
    of, seen = learned[0]
    seen = seen.copy()
    seen[-4:] = [300, 300, 300, np.nan]
    (found,) = found_in(of, seen)[1]
    assert found.lasts
    assert found.message.startswith("traffic is above what is usual: 300 from 2026-03-30 20:00 UTC")


def test_a_history_with_gaps_still_shows_its_days():
    whole = traffic(5, 22)
    history = whole[: 21 * 24].copy()
    history[30:60] = np.nan
    history[200:210] = np.nan
    of = expected(history, 24, per_day=24, scale=Scale.COUNTS, width=6.0)
    assert of.method == "seasonal"
    assert found_in(of, whole[21 * 24 :])[1] == []


def test_a_short_history_is_judged_by_its_median_and_a_shorter_one_by_nothing():
    rng = np.random.default_rng(1)
    short = rng.poisson(100, 40).astype(float)
    of = expected(short, 3, per_day=24, scale=Scale.COUNTS, width=6.0)
    assert of.method == "rolling"
    assert found_in(of, [100, 95, 104])[1] == []
    assert [one.side for one in found_in(of, [100, 10, 9])[1]] == ["below"]
    nothing = expected(short[:11], 3, per_day=24, scale=Scale.COUNTS, width=6.0)
    assert nothing.method == "none"
    assert found_in(nothing, [0, 0, 1e9]) == ([], [])


def test_one_outlier_in_the_past_does_not_widen_the_band():
    past = np.random.default_rng(2).poisson(100, 48).astype(float)
    wild = past.copy()
    wild[[5, 20]] = 1e6
    calm, other = (
        expected(one, 1, per_day=24, scale=Scale.COUNTS, width=6.0) for one in (past, wild)
    )
    assert other.high[0] < 1.2 * calm.high[0]


def test_a_share_of_few_has_a_wide_band_and_too_few_errors_are_never_wrong():
    past = np.full(48, 0.01)
    of = expected(past, 2, per_day=24, scale=Scale.SHARES, width=6.0, sizes=np.array([20.0, 1e5]))
    assert of.high[0] > 0.3
    assert of.high[1] < 0.03
    assert found_in(of, [0.0, 0.0], only_above=True)[1] == []


def test_latencies_are_judged_by_their_ratio():
    past = np.exp(np.random.default_rng(3).normal(np.log(0.02), 0.05, 48))
    of = expected(past, 3, per_day=24, scale=Scale.POSITIVE, width=6.0)
    assert found_in(of, [0.02, 0.022, 0.019])[1] == []
    assert [one.side for one in found_in(of, [0.02, 0.08, 0.07])[1]] == ["above"]


VALUES = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(deadline=None, max_examples=40)
@given(st.lists(VALUES, max_size=60), st.lists(VALUES, min_size=1, max_size=5),
       st.sampled_from(list(Scale)))  # fmt: skip
def test_no_value_however_odd_breaks_the_judgement(history, seen, scale):
    of = expected(np.array(history, float), len(seen), per_day=24, scale=scale, width=6.0)
    points, _ = found_in(of, seen)
    assert len(points) in (0, len(seen))


def test_seasons_without_the_extra_say_which_one_is_missing(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(NoStatsmodels) as told:
        expected(traffic(1, 5), 1, per_day=24, scale=Scale.COUNTS, width=6.0)
    assert "falaj[monitoring]" in told.value.hint


def test_series_of_one_name_and_a_persistence_that_nothing_reaches_are_refused():
    with pytest.raises(ValueError, match="same name"):
        AnomalyWatch(metrics=(MetricSeries(name="traffic", table="t", at="at"),))
    with pytest.raises(ValueError, match="persistence"):
        AnomalyWatch(judged=3, persistence=4)
