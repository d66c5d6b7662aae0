"""The distances and tests of ``counts``, over all columns of a comparison at once.

A report of sixty columns takes a few array operations instead of sixty times as many. Where
the approximation of the chi-squared test needs bins to be joined, the column goes through
``counts.chi_squared`` itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from falaj.monitoring.counts import N_GROUPS, chi_squared
from falaj.monitoring.seen import Flags, Layout, Reals, Seen

TEST_SHARES = np.array(
    [1 / 1024, 1 / 256, 1 / 64, 1 / 20, *np.linspace(0.1, 0.9, 9), 19 / 20, 63 / 64, 255 / 256,
     1023 / 1024]
)  # fmt: skip
"""Where the reference is cut for the test: at deciles, and finer in the tails, which a shift
of the greatest values never leaves the last decile of."""
_DECILES = np.linspace(0, 1, N_GROUPS + 1)[1:-1]
_LEAST_EXPECTED = 5.0
_LN2 = math.log(2)
_MOST_TAILED = 256


@dataclass(frozen=True)
class Measured:
    """How far each column lies from its reference; arrays are (columns,).

    Attributes:
        psi: population stability index over (nearly) deciles of the reference, in nats.
        jensen_shannon: distance over the same groups, base 2.
        ks: greatest difference of the distribution functions; NaN for words.
        wasserstein: in standard deviations of the reference; NaN for words, or if not known.
        p_value: that the values, or the share of missing ones, are as they were: the smaller of
            the two, counted twice.
    """

    psi: Reals
    jensen_shannon: Reals
    ks: Reals
    wasserstein: Reals
    p_value: Reals


def measured(layout: Layout, reference: Seen, observed: Seen) -> Measured:
    """Compare all columns with their references."""
    coarse_r, coarse_o, there = _grouped(layout, reference.counts, observed.counts, _DECILES)
    fewest = _LEAST_EXPECTED * 2 / max(min(reference.n, observed.n), 1)
    cuts = TEST_SHARES[(fewest <= TEST_SHARES) & (1 - fewest >= TEST_SHARES)]
    tested = _grouped(layout, reference.counts, observed.counts, cuts)
    both = (reference.known > 0) & (observed.known > 0)
    p, q = _shares(coarse_r, there), _shares(coarse_o, there)
    with np.errstate(divide="ignore", invalid="ignore"):
        psi = np.where(there, (q - p) * np.log(q / p), 0.0).sum(axis=1)
    difference = _difference(reference, observed)
    ks = np.abs(difference).max(axis=1, initial=0.0)
    values = _chi_squared(*tested, both)
    p_missing = _proportions(
        reference.missing, reference.known + reference.missing,
        observed.missing, observed.known + observed.missing,
    )  # fmt: skip
    return Measured(
        np.where(both, psi, 0.0),
        np.where(both, _jensen_shannon(coarse_r, coarse_o), 0.0),
        np.where(layout.ordered, np.where(both, ks, 0.0), np.nan),
        _wasserstein(layout, reference, observed, difference),
        np.minimum(1.0, 2 * np.minimum(values, p_missing)),
    )


def _grouped(
    layout: Layout, reference: Reals, observed: Reals, shares: Reals
) -> tuple[Reals, Reals, Flags]:
    """As ``counts.grouped``, cut at shares; words, and columns of few bins, keep theirs."""
    total = reference.sum(axis=1)
    fine = layout.ordered & (layout.sizes > N_GROUPS) & (total > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        middles = (np.cumsum(reference, axis=1) - reference / 2) / total[:, None]
        # A bin outside of all that the reference holds goes with the outermost one inside.
        inside = np.where(reference > 0, middles, np.nan)
        ends = np.fmin.reduce(inside, axis=1), np.fmax.reduce(inside, axis=1)
    middles = np.clip(np.nan_to_num(middles), *(np.nan_to_num(end)[:, None] for end in ends))
    groups = np.searchsorted(shares, middles, side="right")
    groups = np.where(fine[:, None], groups, np.arange(reference.shape[1]))
    width = reference.shape[1]
    flat = (groups + np.arange(len(total))[:, None] * width).reshape(-1)
    n = len(total) * width

    def put(weights: Reals) -> Reals:
        summed = np.bincount(flat, weights=weights.reshape(-1), minlength=n)
        return np.asarray(summed, dtype=np.float64).reshape(-1, width)

    return put(reference), put(observed), put(layout.there.astype(np.float64)) > 0


def _shares(counts: Reals, there: Flags) -> Reals:
    filled = np.where(there, np.maximum(counts, 0.5), 0.0)
    return np.asarray(filled / filled.sum(axis=1, keepdims=True))


def _jensen_shannon(reference: Reals, observed: Reals) -> Reals:
    with np.errstate(divide="ignore", invalid="ignore"):
        p = reference / reference.sum(axis=1, keepdims=True)
        q = observed / observed.sum(axis=1, keepdims=True)
        middle = (p + q) / 2
        terms = np.where(p > 0, p * np.log2(p / middle), 0.0)
        terms = terms + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return np.asarray(np.sqrt(np.maximum(terms.sum(axis=1) / 2, 0.0)))


def _difference(reference: Seen, observed: Seen) -> Reals:
    """(columns, bins): the distribution functions' difference at the upper end of each bin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.cumsum(reference.counts, axis=1) / reference.known[:, None]
        second = np.cumsum(observed.counts, axis=1) / observed.known[:, None]
    return np.nan_to_num(first - second)


def _chi_squared(reference: Reals, observed: Reals, there: Flags, both: Flags) -> Reals:
    from scipy.special import chdtrc

    n, m = reference.sum(axis=1), observed.sum(axis=1)
    whole = reference + observed
    with np.errstate(divide="ignore", invalid="ignore"):
        expected_r = whole * (n / (n + m))[:, None]
        expected_o = whole * (m / (n + m))[:, None]
        statistic = (
            np.where(whole > 0, (reference - expected_r) ** 2 / expected_r, 0.0)
            + np.where(whole > 0, (observed - expected_o) ** 2 / expected_o, 0.0)
        ).sum(axis=1)  # fmt: skip
        enough = np.minimum(expected_r, expected_o) >= _LEAST_EXPECTED
    n_bins = there.sum(axis=1)
    with np.errstate(invalid="ignore"):
        p = np.where(n_bins > 1, chdtrc(np.maximum(n_bins - 1, 1), statistic), 1.0)
    for place in np.flatnonzero(both & ~(enough | ~there).all(axis=1)):
        mine = there[place]
        p[place] = chi_squared(reference[place][mine], observed[place][mine])[1]
    return np.where(both, p, 1.0)


def _proportions(k1: Reals, n1: Reals, k2: Reals, n2: Reals) -> Reals:
    """As ``counts.proportions_differ``."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (k1 + k2) / (n1 + n2)
        variance = pooled * (1 - pooled) * (1 / n1 + 1 / n2)
        p = 2 * ndtr(-np.abs(k1 / n1 - k2 / n2) / np.sqrt(variance))
    return np.where((n1 > 0) & (n2 > 0) & (variance > 0), p, 1.0)


def _wasserstein(layout: Layout, reference: Seen, observed: Seen, difference: Reals) -> Reals:
    """The area between the distribution functions, over the reference's standard deviation.

    Between two edges the difference is taken as linear, beyond the outermost quantile as
    that of two exponential tails: the mean excess of the reference over its quantile 1 - 1/64
    is its gap from 1 - 2/64 over ln 2, and that of the other has grown as its standard
    deviation has. The difference of the means is known exactly, also of values far outside:
    what of it is not explained so is added. Where no tail is drawn, the distance is at least
    that of the means.
    """
    edges = layout.padded_edges
    if not edges.shape[1]:
        return np.full(len(layout.names), np.nan)
    at_edges = difference[:, : edges.shape[1]]
    gaps = np.diff(edges, axis=1)
    left, right = np.abs(at_edges[:, :-1]), np.abs(at_edges[:, 1:])
    crossing = at_edges[:, :-1] * at_edges[:, 1:] < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = (left**2 + right**2) / (2 * (left + right))
    areas = gaps * np.where(crossing, np.nan_to_num(crossed), (left + right) / 2)
    signed = gaps * (at_edges[:, :-1] + at_edges[:, 1:]) / 2
    area, moved = areas.sum(axis=1), signed.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.nan_to_num(observed.std / reference.std, nan=1.0, posinf=1.0)
        below = np.cumsum(reference.counts, axis=1) / reference.known[:, None]
    tailed = np.zeros(len(layout.names), dtype=bool)
    for place in np.flatnonzero(layout.ordered):
        first, last, outer = _ends(layout, int(place))
        if first >= last:
            continue
        tailed[place] = True
        tails = _tails(
            layout.edges[place], first, last, at_edges[place], below[place], growth[place]
        )
        area[place] += abs(tails[0]) + abs(tails[1])
        moved[place] += tails[0] + tails[1]
        if outer:  # what was counted there as linear
            area[place] -= areas[place, first - 1] + areas[place, last]
            moved[place] -= signed[place, first - 1] + signed[place, last]
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = observed.mean - reference.mean
        closed = np.where(tailed, area + np.nan_to_num(np.abs(apart - moved)), np.abs(apart))
        distance = np.fmax(area, closed) / reference.std
    known = layout.ordered & (reference.std > 0) & (observed.known > 0)
    return np.where(known, distance, np.nan)


def _ends(layout: Layout, place: int) -> tuple[int, int, int]:
    """The places of the outermost quantiles among the edges, and of how many lie beyond."""
    outer = 1 if layout.ranged[place] else 0
    n = len(layout.edges[place])
    # With few different values there is no tail, with very many edges nothing is left in it.
    tailed = 2 * outer + 8 <= n <= _MOST_TAILED
    return (outer, n - 1 - outer, outer) if tailed else (0, 0, outer)


def _tails(
    edges: Reals, first: int, last: int, at_edges: Reals, below: Reals, growth: float
) -> tuple[float, float]:
    """How far the mean moves by what lies below the first, and above the last quantile."""
    lower_gap, upper_gap = edges[first + 1] - edges[first], edges[last] - edges[last - 1]
    under, over = below[first], 1 - below[last]
    return (
        float(lower_gap * (under - (under - at_edges[first]) * growth)) / _LN2,
        float(upper_gap * ((over + at_edges[last]) * growth - over)) / _LN2,
    )
