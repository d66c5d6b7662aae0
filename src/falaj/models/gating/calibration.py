"""Whether probabilities mean what they say, and how surely that is known.

The expected calibration error is the mean distance of predicted and observed rates over bins of
equal count. Its estimate is too high by the noise in the bins: a perfectly calibrated model of
3,000 rows shows an error of about 0.02. So the gate judges an interval.

With gaps ``g_b`` in the bins, noise ``e_b`` and weights ``w_b`` the estimate is
``sum w_b |g_b + e_b|``, and by the triangle inequality it lies within ``sum w_b |e_b|`` of the
truth, ``sum w_b |g_b|``, whatever the gaps are. The half width is a quantile of that sum for
normal noise (seeded, 20,000 draws): the interval holds the truth at least as often as it says. The
truth meant is that of these bins; what varies within a bin is not seen (Kumar, Liang and Ma,
Verified Uncertainty Calibration, NeurIPS 2019).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from falaj.models.gating.examined import Examined, Gate, result
from falaj.models.gating.rules import CalibrationRule
from falaj.models.intervals import Interval
from falaj.models.model import GateResult
from falaj.training.metrics import Vector, calibration_error, calibration_table, checked

_DRAWS = 20_000
_SEED = 7


def error_interval(
    labels: Vector, scores: Vector, *, n_bins: int = 10, confidence: float = 0.95
) -> Interval:
    """The expected calibration error with an interval that holds it at least as often."""
    bins = calibration_table(labels, scores, n_bins=n_bins)
    counts = np.array([one["n"] for one in bins])
    ones = counts * np.array([one["observed"] for one in bins])
    rates = (ones + 2) / (counts + 4)  # Agresti and Coull 1998: no bin is certain of itself
    noise = counts / counts.sum() * np.sqrt(rates * (1 - rates) / counts)
    half = float(np.quantile(_draws(len(bins)) @ noise, confidence))
    error = calibration_error(labels, scores, n_bins=n_bins)
    return Interval(error, max(0.0, error - half), min(1.0, error + half))


@lru_cache(maxsize=8)
def _draws(n_bins: int) -> Vector:
    """Distances from 0 of normal noise, one row for each draw."""
    return np.abs(np.random.default_rng(_SEED).normal(size=(_DRAWS, n_bins)))


def spiegelhalter(labels: Vector, scores: Vector) -> float | None:
    """Spiegelhalter's z (Stat. Med. 5, 1986): normal if every score is a true probability.

    None if all scores are 0, a half or 1, which it cannot judge.
    """
    y, p = checked(labels, scores)
    variance = float(np.sum((1 - 2 * p) ** 2 * p * (1 - p)))
    return float(np.sum((y - p) * (1 - 2 * p))) / variance**0.5 if variance > 0 else None


def calibration_gate(given: CalibrationRule | float) -> Gate:
    """The expected calibration error is not surely above its limit (or surely under it)."""
    rule = CalibrationRule(limit=given) if isinstance(given, int | float) else given

    def gate(examined: Examined) -> GateResult:
        found = error_interval(
            examined.labels, examined.scores, n_bins=rule.n_bins, confidence=rule.confidence
        )
        held = found.low if rule.require == "not_surely_beyond" else found.high
        asked = "not surely above" if rule.require == "not_surely_beyond" else "surely under"
        return result(
            "calibration",
            held <= rule.limit,
            f"calibration error {found.estimate:.4f} [{found.low:.4f}, {found.high:.4f}], asked "
            f"{asked} {rule.limit}",
            {
                "error": found.estimate,
                "interval": found.evidence(),
                "confidence": rule.confidence,
                "limit": rule.limit,
                "require": rule.require,
                "mean_score": float(examined.scores.mean()),
                "positive_rate": float(examined.labels.mean()),
                "spiegelhalter_z": spiegelhalter(examined.labels, examined.scores),
                "n_rows": len(examined.labels),
                "bins": calibration_table(examined.labels, examined.scores, n_bins=rule.n_bins),
            },
        )

    return gate
