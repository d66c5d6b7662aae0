"""Shares by Thompson sampling: variants that are likely the best get more of the units.

Each share is the chance that the variant is the best (Thompson, Biometrika 25, 1933), under a
Beta posterior for conversions or a normal one for means, but never under a floor, so that
every variant goes on being measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput

_DRAWS = 20_000


def conversion_shares(
    conversions: Sequence[int], units: Sequence[int], *, floor: float = 0.05, seed: int = 0
) -> list[float]:
    """Shares by the chance to have the highest conversion.

    Args:
        conversions, units: of each variant so far; the prior is uniform.
        floor: the least share of each.
        seed: the same seed and counts give the same shares.

    Raises:
        InvalidInput: more conversions than units, or floors that sum to more than 1.
    """
    won = np.array(list(conversions), dtype=np.float64)
    of = np.array(list(units), dtype=np.float64)
    if len(won) != len(of) or (won < 0).any() or (won > of).any():
        raise InvalidInput(
            f"{list(conversions)} conversions do not fit {list(units)} units.",
            hint="Give both for each variant; a unit converts at most once.",
        )
    rng = np.random.default_rng(seed)
    return _shares(rng.beta(1 + won, 1 + of - won, size=(_DRAWS, len(of))), floor)


def mean_shares(
    means: Sequence[float], variances: Sequence[float], *, floor: float = 0.05, seed: int = 0
) -> list[float]:
    """Shares by the chance to have the highest mean.

    Args:
        means: of each variant so far.
        variances: of these means (not of the units).
        floor, seed: as for ``conversion_shares``.
    """
    middle = np.array(list(means), dtype=np.float64)
    spread = np.array(list(variances), dtype=np.float64)
    if len(middle) != len(spread) or not (spread >= 0).all() or not np.isfinite(middle).all():
        raise InvalidInput(
            "Each variant needs a mean and its variance, which is not negative.",
            hint="Leave out variants that have no units yet.",
        )
    rng = np.random.default_rng(seed)
    return _shares(rng.normal(middle, np.sqrt(spread), size=(_DRAWS, len(middle))), floor)


def _shares(draws: NDArray[np.float64], floor: float) -> list[float]:
    n = draws.shape[1]
    if n < 2 or not 0 <= floor * n <= 1:
        raise InvalidInput(
            f"A floor of {floor:g} does not fit {n} variants.",
            hint="Give at least two variants, and a floor of at most 1 / their number.",
        )
    best = np.bincount(draws.argmax(axis=1), minlength=n) / len(draws)
    # Those under the floor are lifted to it; the others share the rest as they are.
    shares, lifted = best.copy(), np.zeros(n, dtype=bool)
    while (under := (shares < floor - 1e-12) & ~lifted).any():
        lifted |= under
        shares[lifted] = floor
        rest = best[~lifted].sum()
        shares[~lifted] = best[~lifted] / rest * (1 - floor * lifted.sum()) if rest else 0.0
    return [float(share) for share in shares / shares.sum()]
