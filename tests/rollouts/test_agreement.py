from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from falaj.monitoring.sketches import Bins, Sketch
from falaj.rollouts.agreement import compared


def _said(scores: np.ndarray, edges: np.ndarray) -> Sketch:
    bins = Bins((), (), (), edges)
    return Sketch.of(bins, np.empty((len(scores), 0), dtype=np.float32), scores)


def test_the_gap_of_two_sketches_is_that_of_kolmogorov_and_smirnov() -> None:
    random = np.random.default_rng(3)
    champion, tried = random.beta(2, 5, 20_000), random.beta(2.5, 5, 20_000)
    edges = np.quantile(champion, np.linspace(0, 1, 65)[1:-1])
    own = np.quantile(tried, np.linspace(0, 1, 65)[1:-1])
    found = compared("two", _said(champion, edges), edges, _said(tried, own), own)
    exact = ks_2samp(champion, tried).statistic
    assert found.greatest_gap == pytest.approx(exact, abs=0.01)
    assert found.mean_champion == pytest.approx(champion.mean())
    assert found.mean_challenger == pytest.approx(tried.mean())


def test_a_challenger_that_says_the_same_has_no_gap() -> None:
    scores = np.random.default_rng(4).random(5_000)
    edges = np.linspace(0, 1, 65)[1:-1]
    found = compared("two", _said(scores, edges), edges, _said(scores, edges), edges)
    assert found.greatest_gap == 0.0


def test_without_scores_nothing_is_said() -> None:
    edges = np.linspace(0, 1, 65)[1:-1]
    nothing = _said(np.empty(0), edges)
    found = compared("two", nothing, edges, nothing, edges)
    assert (found.n_challenger, found.greatest_gap) == (0, None)
