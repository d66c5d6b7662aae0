from __future__ import annotations

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.embeddings import discrepancy
from falaj.monitoring.multivariate import reconstruction, separability

NAMES = ("a", "b", "c", "d")
N = 800


def rows(seed: int, correlation: float = 0.9) -> np.ndarray:
    random = np.random.default_rng(seed)
    made = random.normal(size=(N, 4))
    made[:, 1] = correlation * made[:, 0] + np.sqrt(1 - correlation**2) * made[:, 1]
    made[random.uniform(size=made.shape) < 0.02] = np.nan
    return made


def test_equal_rows_are_told_apart_by_nothing() -> None:
    told = separability(NAMES, rows(1), rows(2))
    assert told.low < 0.5 < told.high
    assert reconstruction(rows(1), rows(2)).p_value > 0.01


def test_columns_that_came_apart_are_found_and_named_though_each_is_spread_as_before() -> None:
    told = separability(NAMES, rows(1), rows(2, 0.0))
    assert told.low > 0.55
    assert set(told.columns[:2]) == {"a", "b"}
    rebuilt = reconstruction(rows(1), rows(2, 0.0))
    assert rebuilt.p_value < 1e-6
    assert rebuilt.observed_error > 2 * rebuilt.reference_error


def test_a_handful_of_rows_is_refused() -> None:
    for check in (lambda a, b: separability(NAMES, a, b), reconstruction):
        with pytest.raises(InvalidInput, match="50 rows"):
            check(rows(1), rows(2)[:50])


def test_embeddings_that_moved_are_found_and_others_are_not() -> None:
    random = np.random.default_rng(3)
    before, now = random.normal(size=(400, 16)), random.normal(size=(300, 16))
    same = discrepancy(before, now)
    assert same.p_value > 0.05
    moved = discrepancy(before, now + 0.3)
    assert moved.p_value == pytest.approx(1 / 201)
    assert moved.squared > 5 * abs(same.squared)


def test_the_discrepancy_is_that_of_the_definition() -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(30, 3)), random.normal(0.5, size=(25, 3))
    both = np.concatenate((x, y))
    squared = ((both[:, None] - both[None]) ** 2).sum(axis=2)
    width = np.median(squared[np.triu_indices(55, 1)])
    kernel = np.exp(-squared / width)
    within = sum(kernel[i, j] for i in range(30) for j in range(30) if i != j) / (30 * 29)
    beyond = sum(kernel[i, j] for i in range(30, 55) for j in range(30, 55) if i != j) / (25 * 24)
    across = kernel[:30, 30:].mean()
    assert discrepancy(x, y).squared == pytest.approx(within + beyond - 2 * across)


def test_the_permutation_p_values_of_equal_samples_are_uniform() -> None:
    random = np.random.default_rng(5)
    p = [
        discrepancy(random.normal(size=(40, 4)), random.normal(size=(40, 4)), seed=seed).p_value
        for seed in range(40)
    ]
    assert sum(one <= 0.1 for one in p) <= 11
    assert sum(one <= 0.5 for one in p) >= 9


def test_vectors_of_other_dimensions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="dimensions"):
        discrepancy(np.zeros((30, 3)), np.zeros((30, 4)))
