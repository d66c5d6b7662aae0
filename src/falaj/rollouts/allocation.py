"""Whether variants got the share of units that they should have (sample-ratio mismatch).

A mismatch means that units are lost or doubled on the way, and then no comparison of variants
can be trusted (Fabijan and others, KDD 2019). ``mismatch_p_value`` is for one look at the end;
``mismatch_evidence`` may be looked at after each unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput

_CONCENTRATION = 1_000.0
"""How near the stated shares the mismatches lie that are looked for first: about 3 %."""


def mismatch_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of Pearson's chi-squared test that units fell by these shares.

    Args:
        counts: of units, by variant.
        shares: what each should get; they need not sum to 1.
    """
    from scipy.special import chdtrc

    seen, wanted = _checked(counts, shares)
    expected = wanted * seen.sum()
    if not seen.sum():
        return 1.0
    statistic = float(((seen - expected) ** 2 / expected).sum())
    return float(chdtrc(len(seen) - 1, statistic))


def mismatch_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The natural logarithm of an e-value against the shares, valid at every look.

    The Bayes factor of a Dirichlet mixture around the shares against the shares: under them
    it is ever at least 1/α with a chance of at most α. Lindon and Malek (Anytime-valid
    inference for multinomial count data, NeurIPS 2022), formula 4.
    """
    from scipy.special import gammaln

    seen, wanted = _checked(counts, shares)
    prior = _CONCENTRATION * wanted
    after = float(gammaln(prior + seen).sum() - gammaln(prior.sum() + seen.sum()))
    before = float(gammaln(prior).sum() - gammaln(prior.sum()))
    return after - before - float((seen * np.log(wanted)).sum())


def is_mismatched(counts: Sequence[int], shares: Sequence[float], *, alpha: float = 0.001) -> bool:
    """True if a mismatch is shown, with an error of ``alpha`` over all looks."""
    return mismatch_evidence(counts, shares) >= -math.log(alpha)


def _checked(
    counts: Sequence[int], shares: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    seen = np.array(list(counts), dtype=np.float64)
    wanted = np.array(list(shares), dtype=np.float64)
    if len(seen) != len(wanted) or len(seen) < 2 or (seen < 0).any() or not (wanted > 0).all():
        raise InvalidInput(
            f"{len(seen)} counts do not fit {len(wanted)} shares.",
            hint="Give a count and a share above 0 for each of at least two variants.",
        )
    return seen, wanted / wanted.sum()
