"""Realised figures of predicted numbers, each with its confidence band.

The mean absolute error and the mean error have the normal band of a mean. The root mean squared
error is a root of a mean, and grows with it, so that its band is the roots of that one's ends.
All take rows as independent.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from falaj.monitoring.expected import Vector
from falaj.monitoring.model import Band
from falaj.monitoring.realised import mean_band


def realised_numbers(labels: Vector, scores: Vector, confidence: float) -> dict[str, Band]:
    """``mae``, ``rmse`` and ``bias``, in the label's unit.

    Args:
        labels: what came, at least one, finite.
        scores: what was predicted of it.
    """
    off = scores - labels
    return {
        "mae": mean_band(abs(off), confidence),
        "rmse": root_of(mean_band(off**2, confidence)),
        "bias": _signed(off, confidence),
    }


def root_of(band: Band) -> Band:
    """The band of the root of what has this one."""
    return Band(estimate=sqrt(band.estimate), low=sqrt(band.low), high=sqrt(band.high))


def _signed(off: Vector, confidence: float) -> Band:
    mean = float(off.mean())
    if len(off) < 2:
        return Band(estimate=mean, low=float("-inf"), high=float("inf"))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * float(off.std(ddof=1)) / len(off) ** 0.5
    return Band(estimate=mean, low=mean - half, high=mean + half)
