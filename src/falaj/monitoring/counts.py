"""Statistics of two histograms on the same bins, and of many tests at once.

All formulas take counts. They are exact for what was counted: bins are frozen with the
model, so there is no error of a sketch in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
N_GROUPS = 10


def population_stability(reference: Counts, observed: Counts) -> float:
    """The population stability index: Σ (q - p) ln(q / p), in nats.

    An empty bin counts as half a row, so that one rare value does not make it infinite.
    (Siddiqi, Credit Risk Scorecards, 2006; the symmetric Kullback-Leibler divergence.)
    """
    p, q = _shares(reference), _shares(observed)
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Counts, observed: Counts) -> float:
    """The Jensen-Shannon distance, base 2: 0 for equal shares, 1 for disjoint ones.

    The square root of the divergence, which is a metric (Endres and Schindelin, 2003).
    """
    p, q = reference / reference.sum(), observed / observed.sum()
    middle = (p + q) / 2
    divergence = 0.5 * (_divergence(p, middle) + _divergence(q, middle))
    return float(np.sqrt(max(divergence, 0.0)))


def kolmogorov_smirnov(reference: Counts, observed: Counts) -> float:
    """The greatest difference of the two distribution functions at the bins' edges."""
    difference = np.cumsum(reference) / reference.sum() - np.cumsum(observed) / observed.sum()
    return float(np.abs(difference).max())


def chi_squared(reference: Counts, observed: Counts) -> tuple[float, float]:
    """Pearson's test that both samples were drawn from one distribution.

    Bins are joined with their neighbour until each is expected to hold five rows in both
    samples, as the approximation needs.

    Returns:
        the statistic and its p-value; (0, 1) if a single bin is left.
    """
    from scipy.special import chdtrc

    table = _joined(reference, observed)
    if table.shape[1] < 2:
        return 0.0, 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return statistic, float(chdtrc(table.shape[1] - 1, statistic))


def grouped(reference: Counts, observed: Counts, n_groups: int = N_GROUPS) -> tuple[Counts, Counts]:
    """Both histograms on the same coarser bins, of nearly equal reference mass.

    Fine bins that are quantiles of the reference become its deciles, however skewed the
    values are; equal-width bins would hide a shift in the crowded end of a skewed one.
    """
    total = reference.sum()
    if total <= 0 or len(reference) <= n_groups:
        return reference, observed
    middles = (np.cumsum(reference) - reference / 2) / total
    groups = np.minimum((middles * n_groups).astype(np.int64), n_groups - 1)
    _, places = np.unique(groups, return_inverse=True)
    n = int(places.max()) + 1
    return (
        np.bincount(places, weights=reference, minlength=n).astype(np.float64),
        np.bincount(places, weights=observed, minlength=n).astype(np.float64),
    )


def proportions_differ(k1: float, n1: float, k2: float, n2: float) -> float:
    """The two-sided p-value that two shares k/n are equal (pooled z-test); 1 without rows."""
    if not n1 or not n2:
        return 1.0
    pooled = (k1 + k2) / (n1 + n2)
    variance = pooled * (1 - pooled) * (1 / n1 + 1 / n2)
    if variance <= 0:
        return 1.0
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(k1 / n1 - k2 / n2) / variance**0.5))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The adjusted p-values: those at most ``q`` are found with a false discovery rate of ``q``.

    (Benjamini and Hochberg, J. R. Statist. Soc. B 57, 1995.)
    """
    n = len(p_values)
    if not n:
        return []
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * n / np.arange(1, n + 1)
    smallest = np.minimum.accumulate(scaled[::-1])[::-1]
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(smallest, 1.0)
    return [float(value) for value in adjusted]


def _shares(counts: Counts) -> Counts:
    filled = np.maximum(counts, 0.5)
    return np.asarray(filled / filled.sum(), dtype=np.float64)


def _divergence(p: Counts, q: Counts) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / q[there])))


def _joined(reference: Counts, observed: Counts) -> Counts:
    n, m = reference.sum(), observed.sum()
    if n <= 0 or m <= 0:
        return np.zeros((2, 0))
    smaller = min(n, m) / (n + m)
    columns: list[list[float]] = []
    open_r = open_o = 0.0
    for r, o in zip(reference.tolist(), observed.tolist(), strict=True):
        open_r, open_o = open_r + r, open_o + o
        if (open_r + open_o) * smaller >= 5:
            columns.append([open_r, open_o])
            open_r = open_o = 0.0
    if columns and (open_r or open_o):
        columns[-1] = [columns[-1][0] + open_r, columns[-1][1] + open_o]
    return np.array(columns, dtype=np.float64).reshape(-1, 2).T
