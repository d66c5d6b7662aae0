"""What was seen of many columns, side by side: one shape for a reference and for now.

A model's frozen statistics, a sketch of its traffic and the columns of a lake table all
become the same arrays, so that every measure is computed over all columns at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from falaj.models.model import FeatureStatistics, Statistics
from falaj.monitoring.sketches import Sketch

Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]
SCORE = "score"


@dataclass(frozen=True)
class Layout:
    """The bins of columns that are compared.

    Attributes:
        names: of the columns.
        ordered: (columns,) False for words.
        ranged: (columns,) True if the outer bins hold what the reference never saw.
        edges: of each column; empty for words.
        sizes: how many bins each has.
    """

    names: tuple[str, ...]
    ordered: Flags
    ranged: Flags
    edges: tuple[Reals, ...]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, statistics: Statistics) -> Layout:
        """The inputs of a model in their order, then its score."""
        features = statistics.features
        scores = np.array(statistics.scores.edges, dtype=np.float64)
        return cls(
            (*(one.name for one in features), SCORE),
            np.array([*(not one.categories for one in features), True]),
            np.array([*(_ranged(one) for one in features), False]),
            (*(np.array(one.edges, dtype=np.float64) for one in features), scores),
            np.array([*(len(one.counts) for one in features), len(scores) + 1], dtype=np.int64),
        )

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Where each bin, counted through all columns, stands in the padded matrix."""
        width = int(self.sizes.max(initial=1))
        starts = np.arange(len(self.sizes)) * width
        return np.concatenate(
            [np.arange(start, start + size) for start, size in zip(starts, self.sizes, strict=True)]
            or [np.zeros(0, dtype=np.int64)]
        ).astype(np.int64)

    @cached_property
    def padded_edges(self) -> Reals:
        """(columns, bins - 1); after the last edge of a column it goes on to repeat that."""
        width = int(self.sizes.max(initial=1)) - 1
        padded = np.zeros((len(self.names), max(width, 0)))
        for row, edges in zip(padded, self.edges, strict=True):
            if len(edges):
                row[: len(edges)] = edges
                row[len(edges) :] = edges[-1]
        return padded

    @cached_property
    def there(self) -> Flags:
        """(columns, bins): False where the matrix of counts is padded."""
        width = int(self.sizes.max(initial=1))
        return np.asarray(np.arange(width) < self.sizes[:, None])

    def padded(self, flat: Reals) -> Reals:
        """Counts of all bins, one column after the other, as (columns, bins)."""
        matrix = np.zeros(self.there.shape)
        matrix.reshape(-1)[self.places] = flat
        return matrix


@dataclass(frozen=True)
class Seen:
    """What was seen of each column; arrays are (columns,) but for the counts.

    Attributes:
        n: rows.
        counts: (columns, bins), padded with 0; of the values that are not missing.
        missing, infinite: rows.
        mean, std: of the finite values; NaN where that is not known.
        low, high: of the finite values; NaN where that is not known.
    """

    n: int
    counts: Reals
    missing: Reals
    infinite: Reals
    mean: Reals
    std: Reals
    low: Reals
    high: Reals

    @cached_property
    def known(self) -> Reals:
        """Rows that have a value, of each column."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64)


def seen_in_training(statistics: Statistics, layout: Layout) -> Seen:
    """What was frozen with a bundle."""
    features = statistics.features
    scores = np.array(statistics.scores.counts, dtype=np.float64)
    flat = [np.array(one.counts, dtype=np.float64) for one in features]
    mean, std = _of_bins(scores, np.array(statistics.scores.edges, dtype=np.float64))

    def column(values: Sequence[float | None], score: float) -> Reals:
        return np.array([np.nan if one is None else one for one in (*values, score)])

    return Seen(
        statistics.n_rows,
        layout.padded(np.concatenate([*flat, scores])),
        column([one.n_missing for one in features], 0),
        column([one.n_infinite for one in features], 0),
        column([one.mean for one in features], mean),
        column([one.std for one in features], std),
        column([one.low for one in features], np.nan),
        column([one.high for one in features], np.nan),
    )


def seen_in(sketch: Sketch, layout: Layout) -> Seen:
    """What a sketch holds; its cost does not depend on how many rows were sketched."""
    counts = layout.padded(np.concatenate((sketch.counts, sketch.scores)).astype(np.float64))
    n_scores = float(sketch.scores.sum())
    score_mean, score_std = _of_bins(sketch.scores.astype(np.float64), layout.edges[-1])
    if n_scores:
        score_mean = float(sketch.score_totals.sum()) / n_scores
    finite = (sketch.n - sketch.missing - sketch.infinite).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sketch.totals / finite
        variance = np.maximum(sketch.squares / finite - mean * mean, 0.0)
    # Sums of float32 lose the variance of values that lie far from 0: what lies within their
    # rounding counts as none.
    variance[variance <= 1e-12 * mean * mean] = 0.0
    seen = finite > 0
    return Seen(
        sketch.n,
        counts,
        np.append(sketch.missing, sketch.n - n_scores).astype(np.float64),
        np.append(sketch.infinite, 0).astype(np.float64),
        np.append(mean, score_mean),
        np.append(np.sqrt(variance), score_std),
        np.append(np.where(seen, sketch.low, np.nan), np.nan),
        np.append(np.where(seen, sketch.high, np.nan), np.nan),
    )


def _ranged(feature: FeatureStatistics) -> bool:
    return feature.low is not None and not feature.categories


def _of_bins(counts: Reals, edges: Reals) -> tuple[float, float]:
    """The mean and standard deviation of scores in [0, 1], each taken at its bin's middle."""
    n = counts.sum()
    if not n:
        return float("nan"), float("nan")
    bounds = np.concatenate(([0.0], np.clip(edges, 0, 1), [1.0]))
    middles = (bounds[1:] + bounds[:-1]) / 2
    mean = float(counts @ middles / n)
    return mean, float(np.sqrt(max(counts @ (middles - mean) ** 2 / n, 0.0)))
