"""The inner loop that walks the trees of an isolation forest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from falaj.features.kernels import compiled


@compiled
def score(
    rows: NDArray[np.float32],
    fill: NDArray[np.float32],
    steps: NDArray[np.int32],
    cuts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    n_trees: int,
    depth: float,
    scores: NDArray[np.float64],
) -> None:
    """``scores[row] = 2 ** (-mean length of its paths / depth)`` (equation 2 of the paper).

    Args:
        rows: [n, inputs]; what is not finite is missing.
        fill: [inputs] what stands for it.
        steps: [3 * nodes] of each node: left, right (places among all nodes; a leaf leads to
            itself), and the input that it cuts. The trees stand one behind the other, all of
            the same size.
        cuts: [nodes] a value that is not greater goes to the left.
        lengths: [nodes] of the path that ends there.
        depth: of an average path.
        scores: [n], written.
    """
    n_nodes = len(cuts) // n_trees
    row = np.empty(len(fill), np.float32)
    for i in range(len(rows)):
        for k in range(len(fill)):
            value = rows[i, k]
            row[k] = value if np.isfinite(value) else fill[k]
        total = 0.0
        for tree in range(n_trees):
            at = tree * n_nodes
            while True:
                to = steps[3 * at] if row[steps[3 * at + 2]] <= cuts[at] else steps[3 * at + 1]
                if to == at:
                    break
                at = to
            total += lengths[at]
        scores[i] = np.exp2(-(total / n_trees) / depth)
