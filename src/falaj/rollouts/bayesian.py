"""What a Bayesian says of the variants: chances to be best, and what a wrong choice costs.

Under flat priors and normal posteriors of the means (for proportions: Beta posteriors under a
uniform prior). These are no error rates: looked at often, a chance of 95 per cent is reached
by chance far more often than in 5 per cent of rollouts without any difference.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from falaj.rollouts.effects import Sums, ratio_effect
from falaj.rollouts.model import ChanceReading, Metric, MetricKind

_DRAWS = 20_000
_LEAST_UNITS = 2


def chances(metric: Metric, variants: Mapping[str, Sums], *, seed: int = 0) -> list[ChanceReading]:
    """The chance of each variant to be best, and its expected loss; empty with too few units.

    Args:
        variants: sums by variant.
        seed: the same seed and sums give the same answer.
    """
    known = {name: sums for name, sums in variants.items() if sums.n >= _LEAST_UNITS}
    if metric.measures is MetricKind.RATIO:
        known = {name: sums for name, sums in known.items() if sums.d}
    if len(known) < 2:
        return []
    rng = np.random.default_rng(seed)
    draws = []
    for sums in known.values():
        if metric.measures is MetricKind.PROPORTION:
            draws.append(rng.beta(1 + sums.y, 1 + sums.n - sums.y, _DRAWS))
            continue
        if metric.measures is MetricKind.RATIO:
            both = ratio_effect(sums, sums)
            middle, spread = both.control, both.control_variance
        else:
            middle, spread = sums.mean(), sums.covariance("y", "y") / sums.n
        draws.append(rng.normal(middle, np.sqrt(max(spread, 0.0)), _DRAWS))
    drawn = np.array(draws) * (1.0 if metric.better == "higher" else -1.0)
    best = np.bincount(drawn.argmax(axis=0), minlength=len(known)) / _DRAWS
    losses = (drawn.max(axis=0) - drawn).mean(axis=1)
    return [
        ChanceReading(variant=name, best=float(share), expected_loss=float(loss))
        for name, share, loss in zip(known, best, losses, strict=True)
    ]
