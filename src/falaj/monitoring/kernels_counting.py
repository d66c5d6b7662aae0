"""The inner loop that counts a column of numbers on many edges in one pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from falaj.features.kernels import compiled


@compiled
def count(
    values: NDArray[np.float64],
    edges: NDArray[np.float64],
    starts: NDArray[np.uint16],
    first: int,
    shift: int,
    counts: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Add values to the counts of bins, and to what else is summed of them.

    Args:
        values: not written, and marked so: then one compiled form does for what Arrow holds.
        edges: growing; bin ``i`` holds ``edges[i-1] < v <= edges[i]``.
        starts: of each cell, counted from ``first``, how many edges lie before it; one more
            than there are cells. A cell is what shares all bits of a number but the last
            ``shift`` ones, so that it leads near the right edge without a search.
        counts: one more than edges.
        sums: missing, infinite, sum, sum of squares, least, greatest.
    """
    keys = values.view(np.int64)
    n_cells = len(starts) - 1
    for row in range(len(values)):
        value = values[row]
        if value != value:  # noqa: PLR0124 - a missing value
            sums[0] += 1
            continue
        if np.isinf(value):
            sums[1] += 1
        else:
            sums[2] += value
            sums[3] += value * value
            sums[4] = min(sums[4], value)
            sums[5] = max(sums[5], value)
        key = keys[row] if value != 0.0 else 0  # the two zeros are one value
        cell = ((key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)) >> shift) - first
        if cell < 0:
            place, end = 0, 0
        elif cell >= n_cells:
            place, end = len(edges), 0
        else:
            place, end = int(starts[cell]), int(starts[cell + 1])
        while place < end:
            middle = (place + end) >> 1
            if edges[middle] < value:
                place = middle + 1
            else:
                end = middle
        counts[place] += 1
