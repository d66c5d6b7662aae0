"""From distances to judgements: which columns have drifted, over all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from falaj.monitoring.counts import benjamini_hochberg
from falaj.monitoring.driftwords import DriftLimits, FeatureDrift
from falaj.monitoring.measures import Measured
from falaj.monitoring.seen import Layout, Seen


def compared(
    layout: Layout, reference: Seen, observed: Seen, distances: Measured, limits: DriftLimits
) -> list[FeatureDrift]:
    """Each column with its distances and the judgement over all.

    Args:
        layout: the bins of both sides.
        distances: of the same two sides.
        limits: when a difference is a drift.
    """
    columns = [
        FeatureDrift(
            name=name,
            psi=psi,
            jensen_shannon=jensen_shannon,
            ks=_known(ks),
            wasserstein=_known(wasserstein),
            p_value=p_value,
            missing_reference=_share(missing_r, known_r),
            missing_observed=_share(missing_o, known_o),
        )
        for (
            name, psi, jensen_shannon, ks, wasserstein, p_value,
            missing_r, known_r, missing_o, known_o,
        ) in zip(
            layout.names, distances.psi.tolist(), distances.jensen_shannon.tolist(),
            distances.ks.tolist(), distances.wasserstein.tolist(), distances.p_value.tolist(),
            reference.missing.tolist(), reference.known.tolist(),
            observed.missing.tolist(), observed.known.tolist(), strict=True,
        )
    ]  # fmt: skip
    judge(columns, limits)
    return columns


def judge(columns: Sequence[FeatureDrift], limits: DriftLimits) -> None:
    """Say of each column whether it has drifted, over all of them together."""
    adjusted = benjamini_hochberg([one.p_value for one in columns])
    for one, p in zip(columns, adjusted, strict=True):
        one.adjusted_p_value = p
        reasons = _reasons(one, limits) if p <= limits.false_discovery_rate else []
        one.drifted = bool(reasons)
        one.why = "; ".join(reasons)


def weighted(columns: Sequence[FeatureDrift]) -> float | None:
    """The PSI of the inputs, weighted by their importance; None if none is known."""
    weights = [one.weight for one in columns if one.weight is not None]
    if not weights:
        return None
    return sum(one.psi * (one.weight or 0.0) for one in columns)


def _reasons(one: FeatureDrift, limits: DriftLimits) -> list[str]:
    reasons = []
    if one.psi >= limits.psi:
        reasons.append(f"PSI {one.psi:.3f} (limit {limits.psi:g})")
    for words, value, limit in (
        ("Wasserstein distance in standard deviations", one.wasserstein, limits.wasserstein),
        ("Kolmogorov-Smirnov distance", one.ks, limits.ks),
        ("Jensen-Shannon distance", one.jensen_shannon, limits.jensen_shannon),
    ):
        if limit is not None and value is not None and value >= limit:
            reasons.append(f"{words} {value:.3f} (limit {limit:g})")
    if abs(one.missing_observed - one.missing_reference) >= limits.missing:
        reasons.append(f"missing {one.missing_observed:.1%}, was {one.missing_reference:.1%}")
    return reasons


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _share(missing: float, known: float) -> float:
    rows = missing + known
    return missing / rows if rows else 0.0
