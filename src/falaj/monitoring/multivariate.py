"""Drift of rows as a whole: what no column shows by itself.

Both checks read samples of rows. A classifier that tells rows of now from rows of the
reference finds any difference that trees can see, and says by which columns; the error with
which the reference's principal components rebuild a row grows when columns come apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.models.intervals import auc_interval
from falaj.monitoring.driftwords import Reconstruction, Separability

Matrix = NDArray[np.float64]
LEAST_ROWS = 100
_FOLDS = 5
_ROUNDS = 40
_EXPLAINED = 0.95


def separability(
    names: Sequence[str],
    reference: Matrix,
    observed: Matrix,
    *,
    seed: int = 0,
    confidence: float = 0.99,
) -> Separability:
    """The out-of-fold AUC of gradient-boosted trees, with DeLong's band.

    Args:
        names: of the columns.
        reference, observed: (rows, columns), NaN is missing.
        seed: of the folds.
        confidence: of the band.

    Raises:
        InvalidInput: a side has fewer than 100 rows.
    """
    _check(reference, observed)
    import lightgbm

    rows = np.concatenate((reference, observed))
    labels = np.repeat([0.0, 1.0], [len(reference), len(observed)])
    folds = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
    scores = np.zeros(len(rows))
    gains = np.zeros(len(names))
    given: dict[str, Any] = {
        "objective": "binary", "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 20,
        "verbosity": -1, "seed": seed, "deterministic": True, "num_threads": 1,
    }  # fmt: skip
    for fold in range(_FOLDS):
        mine = folds != fold
        data = lightgbm.Dataset(rows[mine], labels[mine], params={"verbosity": -1})
        booster = lightgbm.train(given, data, num_boost_round=_ROUNDS)
        scores[~mine] = booster.predict(rows[~mine])
        gains += booster.feature_importance("gain")
    band = auc_interval(labels, scores, confidence=confidence)
    first = np.argsort(-gains, kind="stable")[:5]
    return Separability(
        auc=band.estimate,
        low=band.low,
        high=band.high,
        columns=[names[place] for place in first if gains[place] > 0],
    )


def reconstruction(reference: Matrix, observed: Matrix, *, seed: int = 0) -> Reconstruction:
    """Rebuild rows from the principal components of one half of the reference.

    The other half tells what error is usual. Columns are standardised by the first half and
    missing values stand at its mean.

    Raises:
        InvalidInput: a side has fewer than 100 rows.
    """
    _check(reference, observed)
    from scipy.special import ndtr

    order = np.random.default_rng(seed).permutation(len(reference))
    half = len(order) // 2
    made, usual = reference[order[:half]], reference[order[half:]]
    finite = np.where(np.isfinite(made), made, np.nan)
    known = np.isfinite(made).any(axis=0)
    mean, spread = np.zeros(made.shape[1]), np.ones(made.shape[1])
    mean[known] = np.nanmean(finite[:, known], axis=0)
    spread[known] = np.nanstd(finite[:, known], axis=0)
    spread[spread == 0] = 1.0

    def standard(rows: Matrix) -> Matrix:
        return np.asarray(np.where(np.isfinite(rows), (rows - mean) / spread, 0.0))

    _, sizes, axes = np.linalg.svd(standard(made), full_matrices=False)
    shares = np.cumsum(sizes**2) / max(float((sizes**2).sum()), 1e-300)
    n = min(int(np.searchsorted(shares, _EXPLAINED)) + 1, max(len(axes) - 1, 1))
    axes = axes[:n]

    def errors(rows: Matrix) -> Matrix:
        values = standard(rows)
        return np.asarray(((values - values @ axes.T @ axes) ** 2).mean(axis=1))

    before, now = errors(usual), errors(observed)
    error = (before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now)) ** 0.5
    apart = abs(float(now.mean() - before.mean()))
    return Reconstruction(
        components=n,
        reference_error=float(before.mean()),
        observed_error=float(now.mean()),
        p_value=float(2 * ndtr(-apart / error)) if error > 0 else 1.0,
    )


def _check(reference: Matrix, observed: Matrix) -> None:
    for what, rows in (("reference", reference), ("observed", observed)):
        if len(rows) < LEAST_ROWS:
            raise InvalidInput(
                f"The {what} sample has {len(rows)} rows; at least {LEAST_ROWS} tell something.",
                hint="Take a longer window, or a larger sample.",
            )
