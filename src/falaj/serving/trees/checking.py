"""Rows on which two scorers of the same trees would differ, if they differed at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.serving.trees.ensemble import Ensemble, Mode

_ROWS_OF_A_KIND = 96
_TOLERANCE = 1e-6

Scored = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]


def hard_rows(trees: Ensemble, *, seed: int = 0) -> NDArray[np.float32]:
    """Rows (480, n_features): spread between thresholds, on them and next to them, with
    NaN, with infinities and zeros, and with all of it."""
    random = np.random.default_rng(seed)
    kinds = [_spread, _near, _near_or_spread, _odd, _all_of_it]
    rows = np.empty((len(kinds) * _ROWS_OF_A_KIND, trees.n_features), dtype=np.float32)
    branch = trees.mode != Mode.LEAF
    feature, threshold = trees.feature[branch], trees.threshold[branch]
    for column in range(trees.n_features):
        known = threshold[feature == column]
        if not len(known):
            known = np.zeros(1, dtype=np.float32)
        for number, kind in enumerate(kinds):
            at = slice(number * _ROWS_OF_A_KIND, (number + 1) * _ROWS_OF_A_KIND)
            rows[at, column] = kind(random, known)
    return rows


def difference(ours: Scored, theirs: Scored, rows: NDArray[np.float32]) -> float:
    """By how much two scorers differ at most, alone and in batches; 0 within the tolerance.

    The tolerance is 1e-6, of the value where it is above 1. Two NaN are the same.
    """
    wanted = np.asarray(theirs(rows), dtype=np.float64)
    sizes = [1] * 64 + [2, 3, 5, 6, 7, 15, 16, 17, 33]
    ends = np.cumsum(sizes)
    parts = [ours(rows[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    whole = ours(rows)
    worst = 0.0
    for got, want in ((whole, wanted), (np.concatenate(parts), wanted[: ends[-1]])):
        if got.shape != want.shape:
            return float("inf")
        same = np.isclose(got, want, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        if not same.all():
            apart = np.abs(got[~same] - want[~same])
            worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
    return worst


def _spread(random: np.random.Generator, known: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(known.min()), float(known.max())
    room = max(high - low, 1.0)
    with np.errstate(over="ignore"):
        drawn: NDArray[np.float32] = random.uniform(
            max(low - room / 4, -1e38), min(high + room / 4, 1e38), _ROWS_OF_A_KIND
        ).astype(np.float32)
    return drawn


def _near(random: np.random.Generator, known: NDArray[np.float32]) -> NDArray[np.float32]:
    picked = random.choice(known, _ROWS_OF_A_KIND)
    aside = random.integers(-1, 2, _ROWS_OF_A_KIND)
    with np.errstate(over="ignore"):
        moved = np.nextafter(picked, np.where(aside < 0, -np.inf, np.inf).astype(np.float32))
    near: NDArray[np.float32] = np.where(aside == 0, picked, moved).astype(np.float32)
    return near


def _near_or_spread(random: np.random.Generator, known: NDArray[np.float32]) -> NDArray[np.float32]:
    return _mixed(random, [_near(random, known), _spread(random, known)])


def _odd(random: np.random.Generator, known: NDArray[np.float32]) -> NDArray[np.float32]:
    odd = np.array([np.nan, np.nan, np.inf, -np.inf, 0, -0.0, 1e-40, -1e-40], dtype=np.float32)
    return _mixed(random, [random.choice(odd, _ROWS_OF_A_KIND), _spread(random, known)])


def _all_of_it(random: np.random.Generator, known: NDArray[np.float32]) -> NDArray[np.float32]:
    return _mixed(random, [_odd(random, known), _near(random, known)])


def _mixed(random: np.random.Generator, choices: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.choose(random.integers(0, len(choices), _ROWS_OF_A_KIND), choices)
