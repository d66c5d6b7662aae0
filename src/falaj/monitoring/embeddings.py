"""Drift of embeddings: the maximum mean discrepancy of two samples of vectors.

(Gretton and others, J. Mach. Learn. Res. 13, 2012.) The kernel is a Gaussian whose width is the
median distance of the pooled sample; the p-value is that of permutations, so that it needs no
approximation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.driftwords import Discrepancy

Matrix = NDArray[np.float64]
MOST_ROWS = 1_000
"""Of each side; more are sampled down, since the kernel holds all pairs."""
_LEAST_ROWS = 20


def discrepancy(
    reference: Matrix, observed: Matrix, *, permutations: int = 200, seed: int = 0
) -> Discrepancy:
    """The squared maximum mean discrepancy with its permutation p-value.

    Args:
        reference, observed: (rows, dimensions); rows with a value that is not finite are left
            out.
        permutations: how many; the least p-value is one over one more.
        seed: of sampling and permuting.

    Raises:
        InvalidInput: the dimensions differ, or a side has fewer than 20 rows.
    """
    if reference.ndim != 2 or observed.ndim != 2 or reference.shape[1] != observed.shape[1]:
        raise InvalidInput(
            f"Vectors of {observed.shape[-1]} dimensions are not comparable with ones of "
            f"{reference.shape[-1]}.",
            hint="Compare embeddings of one model.",
        )
    random = np.random.default_rng(seed)
    sides = [_sample(one[np.isfinite(one).all(axis=1)], random) for one in (reference, observed)]
    n, m = len(sides[0]), len(sides[1])
    if min(n, m) < _LEAST_ROWS:
        raise InvalidInput(
            f"A sample of {min(n, m)} vectors is too small; at least {_LEAST_ROWS} are needed.",
            hint="Take a longer window.",
        )
    kernel = _kernel(np.concatenate(sides))
    first = np.zeros((n + m, permutations + 1))
    first[:n, 0] = 1.0
    for place in range(1, permutations + 1):
        first[random.permutation(n + m)[:n], place] = 1.0
    within = np.einsum("ij,ij->j", first, kernel @ first)
    others = 1.0 - first
    beyond = np.einsum("ij,ij->j", others, kernel @ others)
    across = (kernel.sum() - within - beyond) / 2
    # The diagonal is 0 in the kernel, so that no row is its own neighbour.
    squared = within / (n * (n - 1)) + beyond / (m * (m - 1)) - 2 * across / (n * m)
    at_least = int((squared[1:] >= squared[0]).sum())
    return Discrepancy(
        squared=float(squared[0]),
        p_value=(1 + at_least) / (1 + permutations),
        n_reference=n,
        n_observed=m,
    )


def _sample(rows: Matrix, random: np.random.Generator) -> Matrix:
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[random.choice(len(rows), MOST_ROWS, replace=False)]


def _kernel(rows: Matrix) -> Matrix:
    norms = (rows * rows).sum(axis=1)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * rows @ rows.T, 0.0)
    width = float(np.median(squared[np.triu_indices(len(rows), 1)]))
    kernel = np.exp(-squared / (width if width > 0 else 1.0))
    np.fill_diagonal(kernel, 0.0)
    return np.asarray(kernel)
