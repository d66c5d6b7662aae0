"""Named faults of columns, told from what was seen of them: no row is read.

Each finding says in a sentence what a person would look for first. A finding needs its limit
to be crossed and, where chance could cross it, rows enough to leave chance out.
"""

from __future__ import annotations

import numpy as np

from falaj.monitoring.driftwords import Finding, QualityLimits
from falaj.monitoring.measures import Measured
from falaj.monitoring.seen import Layout, Reals, Seen

_SURE = 1e-4
"""The chance of any one finding in data that is as it was, shared by the columns."""
_OUTSIDE_ROWS = 15
"""Of n rows from the same distribution, more than 15/n of the rest lie outside their range
with a probability of 5e-6 (the sum of two exponential gaps)."""
_EXPLAINED = 0.35
"""How much of a distance may be left after rescaling for the scale to be the reason."""
_ORDINARY = 3.0
"""By a smaller factor a skewed column may grow in a season. It is a change of unit only if the
factor is known and the rescaled reference fits."""
_FITS = 0.03
"""What interpolation inside of bins and the error of the factor may leave of a distance."""
_CHANCE = 1.63
"""Of the two-sample Kolmogorov-Smirnov test with a significance of 1 %."""
_KNOWN_SCALES = {
    1000.0: "thousands",
    100.0: "hundredths or percent",
    60.0: "minutes and seconds",
    3600.0: "hours and seconds",
    2.2046226218: "kilograms and pounds",
    1.609344: "miles and kilometres",
    3.280839895: "metres and feet",
    2.54: "inches and centimetres",
    25.4: "inches and millimetres",
    24.0: "days and hours",
    1440.0: "days and minutes",
    4.184: "calories and joules",
}


def found(
    layout: Layout, reference: Seen, observed: Seen, distances: Measured, limits: QualityLimits
) -> list[Finding]:
    """The faults of all columns, in their order within each kind.

    Args:
        layout: the bins of both sides.
        distances: of the same two sides.
    """
    if observed.n < limits.least_rows:
        return []
    return [
        *_null_surges(layout, reference, observed, limits),
        *_infinite(layout, reference, observed),
        *_stuck(layout, reference, observed, limits),
        *_new_categories(layout, reference, observed, limits),
        *_unit_changes(layout, reference, observed, distances, limits),
        *_out_of_range(layout, reference, observed, limits),
    ]


def _null_surges(
    layout: Layout, reference: Seen, observed: Seen, limits: QualityLimits
) -> list[Finding]:
    was = _over(reference.missing, reference.known + reference.missing)
    now = _over(observed.missing, observed.known + observed.missing)
    pooled = (was * reference.n + now * observed.n) / max(reference.n + observed.n, 1)
    error = np.sqrt(
        pooled * (1 - pooled) * (1 / max(reference.n, 1) + 1 / max(observed.n, 1))
    )  # fmt: skip
    sure = now - was > _sigmas(layout) * error
    surged = (now - was >= limits.null_surge) & sure
    return [
        Finding(
            name="null_surge",
            column=layout.names[place],
            numbers={"share": float(now[place]), "reference_share": float(was[place])},
            sentence=f"{layout.names[place]} has no value in {now[place]:.1%} of the rows, "
            f"where it was {was[place]:.1%}"
            + (
                "." if layout.ordered[place]
                else " (a word that the model does not know is no value to it)."
            ),
        )
        for place in np.flatnonzero(surged)
    ]  # fmt: skip


def _infinite(layout: Layout, reference: Seen, observed: Seen) -> list[Finding]:
    new = (observed.infinite > 0) & (reference.infinite == 0)
    return [
        Finding(
            name="infinite_values",
            column=layout.names[place],
            numbers={"rows": float(observed.infinite[place])},
            sentence=f"{layout.names[place]} is infinite in {observed.infinite[place]:,.0f} rows; "
            "the reference has no such value.",
        )
        for place in np.flatnonzero(new)
    ]


def _stuck(layout: Layout, reference: Seen, observed: Seen, limits: QualityLimits) -> list[Finding]:
    varied = _over(reference.counts.max(axis=1), reference.known) < 1
    top = _over(reference.counts.max(axis=1), reference.known)
    one_bin = _over(observed.counts.max(axis=1), observed.known) == 1
    # All in the bin of unknown words is no single word.
    known_word = one_bin & (observed.counts.argmax(axis=1) < layout.sizes - 1)
    # The score's extremes are not sketched: it is stuck if all of it is in one bin.
    extremes = np.where(np.isnan(observed.low), one_bin, observed.low == observed.high)
    one_value = np.where(layout.ordered, extremes, known_word)
    with np.errstate(divide="ignore"):
        by_chance = observed.known * np.log(np.maximum(top, 1e-300))
    rare = by_chance < np.log(_SURE / len(layout.names))
    enough = observed.known >= limits.least_rows
    spread = varied | (reference.std > 0)
    sentences = []
    for place in np.flatnonzero(one_value & rare & enough & spread):
        value = float(observed.mean[place])
        sentences.append(
            Finding(
                name="stuck_value",
                column=layout.names[place],
                numbers={"rows": float(observed.known[place]), "value": value},
                sentence=f"{layout.names[place]} has one value"
                + (f" ({value:g})" if layout.ordered[place] else "")
                + f" in all {observed.known[place]:,.0f} rows; the reference has many.",
            )
        )
    return sentences


def _new_categories(
    layout: Layout, reference: Seen, observed: Seen, limits: QualityLimits
) -> list[Finding]:
    last = (np.arange(len(layout.names)), layout.sizes - 1)
    was = _over(reference.counts[last], reference.known)
    now = _over(observed.counts[last], observed.known)
    new = ~layout.ordered & (was == 0) & (now >= limits.unknown)
    return [
        Finding(
            name="new_categories",
            column=layout.names[place],
            numbers={"share": float(now[place])},
            sentence=f"{layout.names[place]} is a word that the reference does not know in "
            f"{now[place]:.1%} of the rows.",
        )
        for place in np.flatnonzero(new)
    ]


def _out_of_range(
    layout: Layout, reference: Seen, observed: Seen, limits: QualityLimits
) -> list[Finding]:
    rows = np.arange(len(layout.names))
    below, above = observed.counts[:, 0], observed.counts[rows, layout.sizes - 1]
    outside = np.maximum(below + above - observed.infinite, 0)
    share = _over(outside, observed.known)
    was = _over(reference.counts[:, 0] + reference.counts[rows, layout.sizes - 1], reference.known)
    least = np.maximum(limits.outside, _over(np.full(len(rows), _OUTSIDE_ROWS), reference.known))
    out = layout.ranged & (share - was >= least) & (outside >= _OUTSIDE_ROWS)
    return [
        Finding(
            name="out_of_range",
            column=layout.names[place],
            numbers={
                "share": float(share[place]),
                "low": float(observed.low[place]),
                "high": float(observed.high[place]),
                "known_low": float(layout.edges[place][0]),
                "known_high": float(layout.edges[place][-1]),
            },
            sentence=f"{share[place]:.1%} of {layout.names[place]} lie outside of the "
            f"known range ({layout.edges[place][0]:g} to {layout.edges[place][-1]:g}): "
            f"{observed.low[place]:g} to {observed.high[place]:g}.",
        )
        for place in np.flatnonzero(out)
    ]


def _unit_changes(
    layout: Layout, reference: Seen, observed: Seen, distances: Measured, limits: QualityLimits
) -> list[Finding]:
    """Columns whose values look as if they had been multiplied by one factor.

    The mean and the standard deviation must have grown alike, and the reference's bins, moved
    by that factor, must explain most of the distance; of a factor that a season may bring about as
    well, all but chance.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        by_mean = observed.mean / reference.mean
        by_spread = observed.std / reference.std
        alike = np.abs(np.log(by_mean) - np.log(by_spread)) <= 0.25
        large = np.abs(np.log(by_mean)) >= np.log(limits.scale)
    told = []
    for place in np.flatnonzero(layout.ordered & alike & large & (distances.psi >= 0.1)):
        factor = float(by_mean[place])
        plain, left = _explained(layout, int(place), reference, observed, factor)
        if plain <= 0 or left > _EXPLAINED * plain:
            continue
        shown, unit = _named(factor)
        if 1 / _ORDINARY < factor < _ORDINARY:
            rows = 1 / observed.known[place] + 1 / reference.known[place]
            if not unit or left > _FITS + _CHANCE * np.sqrt(rows):
                continue
        told.append(
            Finding(
                name="unit_change",
                column=layout.names[place],
                numbers={"factor": factor, "distance": plain, "distance_rescaled": left},
                sentence=f"{layout.names[place]} looks as if its unit had changed: values are "
                f"{shown} times what they were{unit}.",
            )
        )
    return told


def _explained(
    layout: Layout, place: int, reference: Seen, observed: Seen, factor: float
) -> tuple[float, float]:
    """The greatest difference to the reference as it is, and to one that is multiplied."""
    edges = layout.edges[place]
    size = int(layout.sizes[place])
    first = np.cumsum(reference.counts[place][:size])[:-1] / reference.known[place]
    second = np.cumsum(observed.counts[place][:size])[:-1] / observed.known[place]
    expected = np.interp(edges, edges * factor, first, left=0.0, right=1.0)
    return float(np.abs(second - first).max()), float(np.abs(second - expected).max())


def _named(factor: float) -> tuple[str, str]:
    inverse = factor < 1
    size = 1 / factor if inverse else factor
    for known, words in _KNOWN_SCALES.items():
        if abs(size / known - 1) <= 0.03:
            shown = f"1/{known:g}" if inverse else f"{known:g}"
            return shown, f" ({words} may have been mixed up)"
    return f"{factor:.3g}", ""


def _sigmas(layout: Layout) -> float:
    from scipy.special import ndtri

    return float(-ndtri(_SURE / len(layout.names)))


def _over(part: Reals, whole: Reals) -> Reals:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, 0.0)
