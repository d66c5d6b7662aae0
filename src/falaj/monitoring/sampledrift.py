"""Rows of a window as a whole, against those of its reference, on samples of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from falaj.monitoring.driftwords import DriftReference, SampledDrift
from falaj.monitoring.multivariate import LEAST_ROWS, reconstruction, separability
from falaj.monitoring.references import Window, told, windows_of

if TYPE_CHECKING:
    from falaj.monitoring.drift import Drift
    from falaj.serving.model import Release


def sampled(
    drift: Drift, release: Release, window: Window, reference: DriftReference, n: int
) -> SampledDrift:
    """Tell the rows of a window from those of its reference, by a classifier and by rebuilding.

    A bundle holds no training rows: against them the window right before is the reference.

    Args:
        drift: reads the rows.
        release: whose first variant is looked at.
        n: how many rows are read of each side, at most.
    """
    if reference.kind == "training":
        reference = DriftReference(kind="rolling")
    windows = windows_of(reference, *window)
    share = -(-n // len(windows))
    before = np.concatenate(
        [drift.sample(release, one, share, seed=place) for place, one in enumerate(windows, 1)]
    )
    now = drift.sample(release, window, n)
    found = SampledDrift(
        against=told(reference, *window), n_reference=len(before), n_observed=len(now)
    )
    if min(len(before), len(now)) >= LEAST_ROWS:
        found.separability = separability(drift.names(release), before, now)
        found.reconstruction = reconstruction(before, now)
    return found
