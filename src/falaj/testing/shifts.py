"""Tables of sixty columns as they come, and twelve shifts that are planted in one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Plain = Callable[[np.ndarray], np.ndarray]
N_COLUMNS = 60
_WORDS = np.array([f"w{place}" for place in range(12)])
_SHARES = 0.6 ** np.arange(12)


def steady(n: int, seed: int, n_columns: int = N_COLUMNS) -> dict[str, np.ndarray]:
    """Columns of many shapes: normal, skewed, counts, flags, with missing values, words.

    The first six are those in which shifts are planted: ``normal``, ``skewed``, ``partner``
    (rank correlation about 0.7 with ``normal``), ``amount``, ``sparse`` and ``word``.
    """
    random = np.random.default_rng(seed)
    normal = random.normal(size=n)
    columns = {
        "normal": normal,
        "skewed": random.lognormal(0, 1.5, n),
        "partner": 0.7 * normal + np.sqrt(1 - 0.49) * random.normal(size=n),
        "amount": random.gamma(2.0, 20.0, n),
        "sparse": np.where(random.uniform(size=n) < 0.02, np.nan, random.normal(size=n)),
        "word": _words(random, n),
    }
    for place in range(len(columns), n_columns):
        columns[f"x{place}"] = _shape(place % 6, random, n)
    return columns


def _words(random: np.random.Generator, n: int) -> np.ndarray:
    return np.asarray(_WORDS[random.choice(12, n, p=_SHARES / _SHARES.sum())])


def _shape(kind: int, random: np.random.Generator, n: int) -> np.ndarray:
    if kind == 0:
        return random.lognormal(0, 2, n)
    if kind == 1:
        return random.standard_t(4, n)
    if kind == 2:
        return random.poisson(3, n).astype(np.float64)
    if kind == 3:
        return (random.uniform(size=n) < 0.1).astype(np.float64)
    if kind == 4:
        return np.where(random.uniform(size=n) < 0.1, np.nan, random.uniform(size=n))
    return _words(random, n)


def _tail(values: np.ndarray) -> np.ndarray:
    return np.where(values > np.quantile(values, 0.98), values * 3, values)


def _missing(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.uniform(size=len(values)) < 0.1, np.nan, values)


def _new_word(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.uniform(size=len(values)) < 0.01, "new", values)


def _swap(values: np.ndarray) -> np.ndarray:
    return np.where(values == "w0", "w2", np.where(values == "w2", "w0", values))


def _spikes(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.uniform(size=len(values)) < 0.005, values * 50, values)


def _bimodal(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Two humps with the mean and the variance of the one."""
    sign = np.where(random.uniform(size=len(values)) < 0.5, -1.0, 1.0)
    return np.asarray(sign * 0.95 + np.sqrt(1 - 0.95**2) * values)


def _few(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.uniform(size=len(values)) < 0.05, values + 3.0, values)


def _apart(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The very same values, no more beside those that they went with."""
    return random.permutation(values)


def _plus(values: np.ndarray) -> np.ndarray:
    return values + 0.3


def _times(factor: float) -> Plain:
    def change(values: np.ndarray) -> np.ndarray:
        return values * factor

    return change


def _constant(values: np.ndarray) -> np.ndarray:
    return np.full(len(values), 42.0)


def _of(plain: Plain) -> Change:
    return lambda values, _: plain(values)


SHIFTS: dict[str, tuple[str, Change]] = {
    "mean": ("normal", _of(_plus)),
    "scale": ("normal", _of(_times(1.4))),
    "tail": ("skewed", _of(_tail)),
    "missing": ("sparse", _missing),
    "new category": ("word", _new_word),
    "category swap": ("word", _of(_swap)),
    "unit change": ("amount", _of(_times(2.54))),
    "stuck": ("amount", _of(_constant)),
    "spikes": ("normal", _spikes),
    "bimodal": ("normal", _bimodal),
    "small share": ("normal", _few),
    "correlated": ("partner", _apart),
}
"""By name: the column, and what becomes of its values."""


def shifted(name: str, n: int, seed: int, n_columns: int = N_COLUMNS) -> dict[str, np.ndarray]:
    """``steady`` with one of the ``SHIFTS`` planted."""
    column, change = SHIFTS[name]
    columns = steady(n, seed, n_columns)
    return {**columns, column: change(columns[column], np.random.default_rng(seed + 1_000_003))}


def as_table(columns: dict[str, np.ndarray]) -> pa.Table:
    """As an Arrow table; NaN becomes null."""
    import pyarrow as pa

    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
