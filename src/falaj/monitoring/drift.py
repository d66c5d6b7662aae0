"""Drift: what a model sees and says now, against what it saw and said when it was made.

Values are counted on the edges that were frozen with the model (quantiles of its training
rows), so the cost is one pass of counting, and the counts have no error of their own. A
feature has drifted if the difference is surely there (chi-squared, and a test of the share
of missing values, Benjamini-Hochberg over all features) *and* large (PSI over deciles, or
the missing share). Missing values are counted apart: they do not blur the distances.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.ports import Lake
from falaj.models.bundles import Bundles
from falaj.models.model import Statistics
from falaj.monitoring.counts import (
    Counts,
    benjamini_hochberg,
    chi_squared,
    grouped,
    jensen_shannon,
    kolmogorov_smirnov,
    population_stability,
    proportions_differ,
)
from falaj.monitoring.model import DriftLimits, DriftReport, FeatureDrift
from falaj.monitoring.sketches import Bins, Sketch
from falaj.serving.model import Release
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.kernel.database import Database
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.serving.model import Variant


class Drift:
    """Reports drift from kept sketches, or from the rows of the prediction log.

    Args:
        lake: holds the prediction log.
        bundles: hold the frozen statistics of each model version.
        kept: the sketches of the prediction log; None to read rows always.
        database: where the sketches are kept.
    """

    def __init__(
        self,
        lake: Lake,
        bundles: Bundles,
        kept: KeptSketches | None = None,
        database: Database | None = None,
    ) -> None:
        self._lake = lake
        self._bundles = bundles
        self._kept = kept
        self._database = database

    def report(
        self,
        release: Release,
        since: datetime,
        until: datetime,
        limits: DriftLimits,
        *,
        exact: bool = False,
    ) -> DriftReport:
        """Compare the predictions of a release's model version over [since, until).

        Args:
            release: whose first variant is looked at, in all releases that served it.
            since, until: the instants that the predictions are about.
            limits: when a difference is a drift.
            exact: read every row, in the place of the sketches of minutes that begin in the
                window. Rows are read as well where there is no sketch.

        Raises:
            NotFound: there are no such predictions.
            Corrupt: the bundle does not verify.
            InvalidInput: the endpoint serves a composition.
        """
        variant = release.variants[0]
        if variant.members:
            raise InvalidInput(
                f"{release.endpoint!r} serves a composition, which has no rows of its own that "
                "it was trained on.",
                hint="Watch its members through endpoints of their own.",
            )
        statistics = self._bundles.open_bundle(variant.bundle).statistics
        sketch = None if exact else self._remembered(release.endpoint, variant, since, until)
        source: Literal["sketches", "rows"] = "sketches"
        if sketch is None:
            source = "rows"
            sketch = self._counted(release.endpoint, variant, statistics, since, until)
        if not sketch.n:
            raise NotFound(
                f"{release.endpoint!r} has no logged predictions of {variant.label} between "
                f"{since:%Y-%m-%d %H:%M} and {until:%Y-%m-%d %H:%M}.",
                hint="Ask for another window; fresh predictions reach the log within seconds.",
            )
        features, score = against(statistics, sketch, limits)
        return DriftReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            bundle=variant.bundle,
            since=since,
            until=until,
            n_reference=statistics.n_rows,
            n_observed=sketch.n,
            source=source,
            limits=limits,
            features=features,
            score=score,
        )

    def _remembered(
        self, endpoint: str, variant: Variant, since: datetime, until: datetime
    ) -> Sketch | None:
        """From what was kept; None if nothing was."""
        if self._kept is None or self._database is None:
            return None
        with self._database.reading() as connection:
            found = self._kept.window(
                connection, endpoint, variant.model, variant.version, since, until
            )
        return found if found.n else None

    def _counted(
        self,
        endpoint: str,
        variant: Variant,
        statistics: Statistics,
        since: datetime,
        until: datetime,
    ) -> Sketch:
        """From the rows themselves."""
        bins = Bins.of(statistics)
        sketch = Sketch.empty(bins)
        table = table_of(endpoint)
        if not self._lake.exists(table):
            return sketch
        rows = self._lake.scan(
            table,
            columns=["features", "score"],
            where="model = $model AND version = $version "
            "AND predicted_for >= $since AND predicted_for < $until",
            parameters={
                "model": variant.model,
                "version": variant.version,
                "since": since,
                "until": until,
            },
        )
        # What is known no more, because the person was erased, counts no more.
        rows = rows.filter(rows.column("features").is_valid())
        for batch in rows.to_batches(max_chunksize=65_536):
            matrix = _matrix(batch.column(0), len(bins.names))
            sketch += Sketch.of(bins, matrix, _column(batch.column(1)))
        return sketch


def against(
    statistics: Statistics, sketch: Sketch, limits: DriftLimits
) -> tuple[list[FeatureDrift], FeatureDrift]:
    """What a sketch holds against what was frozen with its model: the inputs, and the score.

    Its cost does not depend on how many rows were sketched.

    Args:
        statistics: of the bundle whose bins the sketch was made on.
    """
    bins = Bins.of(statistics)
    found = [
        compare(
            feature.name,
            np.array(feature.counts, dtype=np.float64),
            sketch.of_input(bins, place).astype(np.float64),
            missing=(feature.n_missing, int(sketch.missing[place])),
            ordered=not feature.categories,
        )
        for place, feature in enumerate(statistics.features)
    ]
    reference = np.array(statistics.scores.counts, dtype=np.float64)
    found.append(compare("score", reference, sketch.scores.astype(np.float64), ordered=True))
    judge(found, limits)
    return found[:-1], found[-1]


def compare(
    name: str,
    reference: Counts,
    observed: Counts,
    *,
    missing: tuple[int, int] = (0, 0),
    ordered: bool = True,
) -> FeatureDrift:
    """The distances and the test of one feature; not judged yet.

    Args:
        name: of the feature.
        reference, observed: counts on the same bins.
        missing: how many values were missing in each.
        ordered: False for a category.
    """
    known_reference, known_observed = float(reference.sum()), float(observed.sum())
    n_reference, n_observed = known_reference + missing[0], known_observed + missing[1]
    psi = distance = 0.0
    ks: float | None = 0.0 if ordered else None
    p_values = 1.0
    if known_reference and known_observed:
        coarse = grouped(reference, observed) if ordered else (reference, observed)
        psi = population_stability(*coarse)
        distance = jensen_shannon(*coarse)
        if ordered:
            ks = kolmogorov_smirnov(reference, observed)
        _, p_values = chi_squared(*coarse)
    p_missing = proportions_differ(missing[0], n_reference, missing[1], n_observed)
    return FeatureDrift(
        name=name,
        psi=psi,
        jensen_shannon=distance,
        ks=ks,
        p_value=min(1.0, 2 * min(p_values, p_missing)),
        missing_reference=missing[0] / n_reference if n_reference else 0.0,
        missing_observed=missing[1] / n_observed if n_observed else 0.0,
    )


def judge(compared: list[FeatureDrift], limits: DriftLimits) -> None:
    """Say of each feature whether it has drifted, over all of them together."""
    adjusted = benjamini_hochberg([one.p_value for one in compared])
    for one, p in zip(compared, adjusted, strict=True):
        one.adjusted_p_value = p
        reasons = []
        if one.psi >= limits.psi:
            reasons.append(f"PSI {one.psi:.3f} (limit {limits.psi:g})")
        gap = one.missing_observed - one.missing_reference
        if abs(gap) >= limits.missing:
            reasons.append(f"missing {one.missing_observed:.1%}, was {one.missing_reference:.1%}")
        one.drifted = bool(reasons) and p <= limits.false_discovery_rate
        one.why = "; ".join(reasons) if one.drifted else ""


def _matrix(column: Any, n_inputs: int) -> NDArray[np.float32]:
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float32).reshape(-1, n_inputs)


def _column(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
