"""Columns of numbers and words as a reference and as a sketch, for tests of drift."""

from __future__ import annotations

import numpy as np

from falaj.models.model import Statistics
from falaj.models.reference import statistics_of
from falaj.monitoring.comparing import compared
from falaj.monitoring.driftwords import DriftLimits, FeatureDrift, Finding, QualityLimits
from falaj.monitoring.findings import found
from falaj.monitoring.measures import Measured, measured
from falaj.monitoring.seen import Layout, Seen, seen_in, seen_in_training
from falaj.monitoring.sketches import Bins, Sketch
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType


def encoding_of(n: int, words: dict[int, tuple[str, ...]] | None = None) -> Encoding:
    """Inputs ``x0``, ``x1`` and so on; those in ``words`` are categories."""
    words = words or {}
    return Encoding(
        features=tuple(
            EncodedFeature(name=f"x{i}", type=FeatureType.CATEGORY, categories=words[i])
            if i in words
            else EncodedFeature(name=f"x{i}")
            for i in range(n)
        )
    )


class Pair:
    """A reference of training rows, and a sketch of rows that came later.

    Args:
        before, now: (rows,) or (rows, columns).
        words: the known words of the columns that are categories, by place.
    """

    def __init__(
        self,
        before: np.ndarray,
        now: np.ndarray,
        words: dict[int, tuple[str, ...]] | None = None,
    ) -> None:
        before, now = (one.reshape(len(one), -1).astype(np.float32) for one in (before, now))
        encoding = encoding_of(before.shape[1], words)
        uniform = np.random.default_rng(0).uniform(size=len(before))
        self.statistics: Statistics = statistics_of(encoding, before, uniform)
        self.layout = Layout.of(self.statistics)
        later = np.random.default_rng(1).uniform(size=len(now))
        self.sketch = Sketch.of(Bins.of(self.statistics), now, later)
        self.before: Seen = seen_in_training(self.statistics, self.layout)
        self.now: Seen = seen_in(self.sketch, self.layout)
        self.distances: Measured = measured(self.layout, self.before, self.now)

    def drift(self, **limits: float) -> list[FeatureDrift]:
        """Each column (the score last) judged by limits."""
        given = DriftLimits.model_validate(limits)
        return compared(self.layout, self.before, self.now, self.distances, given)

    def findings(self, **limits: float) -> list[Finding]:
        """All findings."""
        given = QualityLimits.model_validate(limits)
        return found(self.layout, self.before, self.now, self.distances, given)

    def named(self) -> list[tuple[str, str]]:
        """The findings' names and columns."""
        return [(one.name, one.column) for one in self.findings()]
