"""The statistics that are frozen with a model: what it saw, and what it said.

Drift monitors count live values on these very edges: a comparison of counts on frozen
edges has no error of its own, while sketches raise false alarms.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from falaj.models.model import FeatureStatistics, Histogram, Statistics
from falaj.training.encoding import Encoding, FeatureType
from falaj.training.targets import Task

N_BINS = 64


def statistics_of(
    encoding: Encoding,
    matrix: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64] | None = None,
    *,
    task: Task = "binary",
) -> Statistics:
    """The reference of a model.

    Args:
        encoding: the model's inputs.
        matrix: the training rows, encoded.
        scores: what the model gives on the validation rows; of several classes the
            probability of the first one is kept.
        labels: 0 or 1 of those rows, if they are known: what performance is estimated from
            later, while no labels have arrived yet. Those of other tasks are not kept.
        task: what the model predicts.
    """
    features = []
    for place, feature in enumerate(encoding.features):
        values = matrix[:, place].astype(np.float64)
        known = values[~np.isnan(values)]
        n_missing = int(values.size - known.size)
        if feature.type is FeatureType.CATEGORY:
            counts = np.bincount(known.astype(np.int64), minlength=len(feature.categories))
            features.append(
                FeatureStatistics(
                    name=feature.name,
                    type=feature.type,
                    categories=feature.categories,
                    counts=(*counts.tolist(), 0),
                    n_missing=n_missing,
                )
            )
            continue
        edges = range_edges(known)
        finite = known[np.isfinite(known)]
        features.append(
            FeatureStatistics(
                name=feature.name,
                type=feature.type,
                edges=tuple(edges.tolist()),
                counts=tuple(counted(known, edges).tolist()),
                n_missing=n_missing,
                mean=float(finite.mean()) if finite.size else None,
                std=float(finite.std()) if finite.size else None,
                low=float(finite.min()) if finite.size else None,
                high=float(finite.max()) if finite.size else None,
                n_infinite=int(known.size - finite.size),
            )
        )
    if scores.ndim == 2:
        scores = scores[:, 0]  # the log keeps the first output as the score
    edges = range_edges(scores) if task == "regression" else score_edges(scores)
    return Statistics(
        n_rows=len(matrix),
        features=tuple(features),
        scores=Histogram(
            edges=tuple(edges.tolist()),
            counts=tuple(counted(scores, edges).tolist()),
        ),
        **_classes(scores, labels if task == "binary" else None, edges),
    )


def _classes(
    scores: npt.NDArray[np.float64],
    labels: npt.NDArray[np.float64] | None,
    edges: npt.NDArray[np.float64],
) -> dict[str, tuple[float, ...]]:
    if labels is None or len(labels) != len(scores) or not np.isin(labels, (0.0, 1.0)).all():
        return {}
    places = np.searchsorted(edges, scores, side="left")
    ones = counted(scores[labels == 1], edges)
    totals = np.bincount(places, weights=scores, minlength=len(edges) + 1)
    return {"positives": tuple(ones.tolist()), "score_totals": tuple(totals.tolist())}


def quantile_edges(known: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most 63 growing values of the data that cut it into (nearly) equal parts.

    The greatest value is no edge: nothing would lie above it.
    """
    finite = known[np.isfinite(known)]
    if finite.size == 0:
        return np.empty(0)
    shares = np.linspace(0, 1, N_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(finite, shares, method="inverted_cdf"))
    return np.asarray(edges[edges < finite.max()])


def range_edges(known: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``quantile_edges`` between two more, so that the outer bins hold what was never seen.

    The first lies just below the least value, the last is the greatest: no value of the data
    falls into the first or the last bin.
    """
    finite = known[np.isfinite(known)]
    if finite.size == 0:
        return np.empty(0)
    below = np.nextafter(finite.min(), -np.inf)
    return np.concatenate(([below], quantile_edges(finite), [finite.max()]))


def score_edges(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The quantiles of the scores, and 63 edges of equal distance between 0 and 1.

    Scores of a rare class crowd near 0, where equal bins would see one value; and where they
    may move to, quantiles alone would leave one wide bin.
    """
    equal = np.linspace(0, 1, N_BINS + 1)[1:-1]
    return np.unique(np.concatenate((equal, quantile_edges(scores))))


def counted(
    values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """How many values lie in each bin: up to the first edge, between edges, above the last."""
    places = np.searchsorted(edges, values, side="left")
    return np.bincount(places, minlength=len(edges) + 1).astype(np.int64)
