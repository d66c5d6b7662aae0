"""Relations of columns: which pairs go together in another way than before.

Each column may be spread just as it was while two of them have come apart. Rank correlations
(Spearman's) do not mind skewed values; of n rows each, the difference of two of them is
tested by Fisher's transformation, over all pairs (Bonferroni), and must be large as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from falaj.monitoring.driftwords import Finding
from falaj.monitoring.seen import Reals

LEAST_CHANGE = 0.15
"""Of a rank correlation."""
_SURE = 1e-3
_LEAST_ROWS = 200


def changed_relations(
    columns: Sequence[tuple[str, Reals, Reals]], *, most: int = 10
) -> list[Finding]:
    """The pairs whose rank correlation has changed, the greatest change first.

    Args:
        columns: name, and the values of the same rows on each side; NaN is missing, and
            counts as lying in the middle.
        most: how many pairs to tell.
    """
    if len(columns) < 2 or min(len(columns[0][1]), len(columns[0][2])) < _LEAST_ROWS:
        return []
    from scipy.special import ndtri

    before = _correlations([one for _, one, _ in columns])
    now = _correlations([one for _, _, one in columns])
    n, m = len(columns[0][1]), len(columns[0][2])
    n_pairs = len(columns) * (len(columns) - 1) / 2
    # Fieller, Hartley and Pearson (Biometrika 44, 1957): the variance for ranks.
    error = (1.06 / (n - 3) + 1.06 / (m - 3)) ** 0.5
    limit = -float(ndtri(_SURE / n_pairs / 2)) * error
    with np.errstate(divide="ignore"):
        sure = np.abs(_fisher(now) - _fisher(before)) > limit
    changed = np.abs(now - before)
    pairs = np.argwhere(np.triu(sure & (changed >= LEAST_CHANGE), 1))
    ordered = sorted(pairs.tolist(), key=lambda pair: -changed[pair[0], pair[1]])
    return [
        _finding(columns, i, j, float(before[i, j]), float(now[i, j])) for i, j in ordered[:most]
    ]


def _finding(
    columns: Sequence[tuple[str, Reals, Reals]], i: int, j: int, was: float, now: float
) -> Finding:
    first, second = columns[i][0], columns[j][0]
    return Finding(
        name="relation_change",
        column=f"{first}, {second}",
        numbers={"correlation": now, "reference_correlation": was},
        sentence=f"{first} and {second} go together in another way: their rank correlation is "
        f"{now:.2f}, and was {was:.2f}.",
    )


def _correlations(columns: Sequence[Reals]) -> NDArray[np.float64]:
    ranks = np.stack([_ranks(one) for one in columns])
    spread = np.sqrt((ranks * ranks).sum(axis=1))
    spread[spread == 0] = np.inf
    return np.asarray((ranks @ ranks.T) / np.outer(spread, spread), dtype=np.float64)


def _ranks(values: Reals) -> NDArray[np.float32]:
    """Ranks around their middle; equal values share one, missing ones have none (0)."""
    known = ~np.isnan(values)
    ranks = np.zeros(len(values), dtype=np.float32)
    order = np.argsort(values[known])
    ordered = values[known][order]
    if len(ordered):
        # Sought in their own order, values are found where the last one was.
        low = np.searchsorted(ordered, ordered, side="left")
        high = np.searchsorted(ordered, ordered, side="right")
        mine = np.empty(len(ordered), dtype=np.float32)
        mine[order] = (low + high - len(ordered)) / 2
        ranks[known] = mine
    return ranks


def _fisher(correlations: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.arctanh(np.clip(correlations, -0.999999, 0.999999)))
