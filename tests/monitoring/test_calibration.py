from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from falaj.monitoring.calibration import bin_edges, error_band, tell
from falaj.monitoring.performancereports import PeriodCalibration

AT = datetime(2026, 11, 2, tzinfo=UTC)


def test_the_error_is_the_mean_distance_over_the_bins() -> None:
    found, by_chance = error_band(
        np.array([0.2, 0.6]), np.array([100.0, 300.0]), np.array([30.0, 150.0]), 0.95
    )
    assert found.estimate == pytest.approx(0.25 * 0.1 + 0.75 * 0.1)
    assert found.low < found.estimate <= found.high
    # The mean of |binomial share - p| is about sqrt(2 / pi) of its standard error.
    normal = (2 / np.pi) ** 0.5 * (0.25 * (0.16 / 100) ** 0.5 + 0.75 * (0.24 / 300) ** 0.5)
    assert by_chance == pytest.approx(normal, rel=0.1)


def test_scores_that_come_true_are_not_said_to_be_off() -> None:
    random = np.random.default_rng(4)
    sure = 0
    for _ in range(100):
        scores = random.beta(2, 3, 500)
        labels = (random.random(500) < scores).astype(float)
        period = PeriodCalibration(since=AT, n_predictions=500, n_labels=500)
        tell(period, labels, scores, bin_edges(scores, 10), 0.95)
        assert period.error is not None
        sure += period.error.low > 0
    assert sure / 100 <= 0.05


def test_the_band_holds_the_true_error_as_often_as_it_says() -> None:
    random = np.random.default_rng(6)
    means, n = np.linspace(0.1, 0.9, 9), np.full(9, 150.0)
    rates = means**1.3
    true = float(np.abs(rates - means).mean())
    held = 0
    for _ in range(300):
        band, _ = error_band(means, n, random.binomial(150, rates).astype(float), 0.9)
        held += band.low <= true <= band.high
    assert held / 300 >= 0.9  # it errs on the side of saying too little


def test_bins_are_as_many_as_the_scores_allow() -> None:
    assert bin_edges(np.empty(0), 10).tolist() == []
    assert bin_edges(np.full(50, 0.3), 10).tolist() == []
    assert bin_edges(np.array([0.1] * 50 + [0.9] * 50), 10).tolist() == [0.1]
    assert len(bin_edges(np.linspace(0, 1, 1_000), 10)) == 9
