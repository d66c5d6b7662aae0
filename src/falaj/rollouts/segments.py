"""Whether the effect differs between segments of units; told, and decides nothing.

Each segment's effect is compared with that of all other units, by a z-test at this look; the
p-values are adjusted for all segments and challengers together (Benjamini and Hochberg 1995).
It is a reading for people, of one moment: it is not valid at every look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from falaj.rollouts.effects import Sums, ratio_effect
from falaj.rollouts.model import Metric, SegmentReading
from falaj.rollouts.pooled import comparison

LEAST_UNITS = 50
MOST_SEGMENTS = 200
"""Of a field; those with most units. A field such as a name has no segments."""


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The adjusted p-values: those at most ``q`` are found with a false discovery rate of ``q``."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    found, least = [1.0] * len(p_values), 1.0
    for rank in range(len(order), 0, -1):
        place = order[rank - 1]
        least = min(least, p_values[place] * len(p_values) / rank)
        found[place] = least
    return found


def segment_readings(
    metric: Metric,
    groups: Mapping[tuple[str, str], Mapping[str, tuple[Sums, Sums]]],
    error: float,
) -> list[SegmentReading]:
    """The effect within each segment that has units enough on both sides.

    Args:
        groups: by challenger and field, by value the sums of champion and challenger.
        error: the false discovery rate.
    """
    from scipy.special import ndtr

    compare = comparison(metric.measures)
    readings: list[SegmentReading] = []
    p_values: list[float] = []
    sign = 1.0 if metric.better == "higher" else -1.0
    for (challenger, field), values in groups.items():
        largest = sorted(values.items(), key=lambda one: -(one[1][0].n + one[1][1].n))
        effects = [
            (value, compare(*sums))
            for value, sums in largest[:MOST_SEGMENTS]
            if min(sums[0].n, sums[1].n) >= LEAST_UNITS
            and (compare is not ratio_effect or (sums[0].d and sums[1].d))
        ]
        told = [(value, one) for value, one in effects if one.variance > 0 and one.control]
        if len(told) < 2:
            continue
        for value, one in told:
            others = [other for name, other in told if name != value]
            weights = [1 / other.variance for other in others]
            rest = sum(
                w * other.difference for w, other in zip(weights, others, strict=True)
            ) / sum(weights)
            z = (one.difference - rest) / math.sqrt(one.variance + 1 / sum(weights))
            p_values.append(float(2 * ndtr(-abs(z))))
            readings.append(
                SegmentReading(
                    challenger=challenger,
                    field=field,
                    value=value,
                    units=round(one.units),
                    estimate=sign * one.difference / abs(one.control),
                    p_value=1.0,
                    differs=False,
                )
            )
    for reading, p_value in zip(readings, adjusted(p_values), strict=True):
        reading.p_value, reading.differs = p_value, p_value <= error
    return readings
