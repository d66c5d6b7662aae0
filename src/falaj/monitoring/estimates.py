"""Performance while labels have not arrived yet, by period; see ``expected`` for the method.

From kept sketches the cost depends on the number of bins and minutes, not on the traffic; all
rows are read on request, or where there are no sketches.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.monitoring.expected import (
    Curve,
    Groups,
    Vector,
    check_reference,
    estimated,
    figures,
    told,
)
from falaj.monitoring.joined import Joins
from falaj.monitoring.model import Band, Period
from falaj.monitoring.multiclass import ClassCurves
from falaj.monitoring.performance import end_of
from falaj.monitoring.performancereports import EstimatedPeriod, EstimateReport, LabelledWindow
from falaj.monitoring.performancewords import Figure

if TYPE_CHECKING:
    from falaj.kernel.database import Database
    from falaj.models.bundles import Bundles
    from falaj.models.model import Statistics
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.serving.model import Release, Variant

_MOST_PERIODS = 1_000


@dataclass(frozen=True)
class _Reference:
    curve: Curve
    n: int
    figures: dict[Figure, float]
    source: Literal["bundle", "labels"]


class Estimates:
    """Reports the performance that is expected of a model version.

    Args:
        joins: read the prediction log and labels.
        bundles: hold the frozen statistics of each model version.
        kept: the sketches of the prediction log; None to read rows always.
        database: where the sketches are kept.
    """

    def __init__(
        self,
        joins: Joins,
        bundles: Bundles,
        kept: KeptSketches | None = None,
        database: Database | None = None,
    ) -> None:
        self._joins = joins
        self._bundles = bundles
        self._kept = kept
        self._database = database

    def report(
        self,
        release: Release,
        since: datetime,
        until: datetime,
        *,
        by: Period = "day",
        threshold: float = 0.5,
        confidence: float = 0.95,
        exact: bool = False,
        reference: LabelledWindow | None = None,
    ) -> EstimateReport:
        """The figures that are expected of [since, until) by period, each with its band.

        Args:
            release: whose first variant is looked at, in all releases that served it.
            since, until: the instants that the predictions are about.
            threshold: a score from here on predicts label 1.
            exact: read every row, in the place of the sketches of minutes that begin in the
                window.
            reference: labelled predictions that tell how often scores come true; the
                validation rows of the bundle if left out.

        Raises:
            NotFound: there are no such predictions.
            InvalidInput: the bundle keeps no labels with its scores and no other reference was
                given; or the reference says too little; or the endpoint serves a composition.
        """
        variant = single(release)
        if reference is not None and reference.labels.task == "classes":
            told = (by, threshold, confidence)
            return self._of_classes(release, variant, reference, (since, until), *told)
        statistics = self._bundles.open_bundle(variant.bundle).statistics
        known = (
            _of_bundle(variant, statistics, threshold)
            if reference is None
            else self._of_labels(release.endpoint, variant, reference, threshold)
        )
        edges = np.array(statistics.scores.edges, dtype=np.float64)
        found = None if exact else self._counted(release.endpoint, variant, since, until, by)
        if found is None:
            groups = self._listed(release.endpoint, variant, since, until, by, known, threshold)
        else:
            groups = [
                (start, Groups.of_bins(known.curve, edges, n, totals, threshold))
                for start, n, totals in found
            ]
        periods = [
            _period(start, known.curve, one, confidence) for start, one in groups if len(one.n)
        ]
        return EstimateReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            bundle=variant.bundle,
            by=by,
            since=since,
            until=until,
            threshold=threshold,
            confidence=confidence,
            source="rows" if found is None else "sketches",
            reference=known.source,
            n_reference=known.n,
            recalibrated=known.curve.needed,
            reference_figures=known.figures,
            n_predictions=sum(one.n_predictions for one in periods),
            periods=periods,
        )

    def _of_classes(
        self,
        release: Release,
        variant: Variant,
        reference: LabelledWindow,
        window: tuple[datetime, datetime],
        by: Period,
        threshold: float,
        confidence: float,
    ) -> EstimateReport:
        """As ``report``, of several classes: from rows, for sketches hold one score."""
        since, until = window
        version = (variant.model, variant.version)
        known = self._joins.joined(
            release.endpoint, reference.labels, reference.since, reference.until, "month",
            version=version, tasks=("classes",),
        )  # fmt: skip
        rows = known.chosen(known.known)
        assert rows.shares is not None  # noqa: S101 - joined for classes
        names = reference.labels.classes
        curves = ClassCurves.of_rows(rows.shares, rows.label.astype(np.int64), names)
        asked = self._joins.joined(
            release.endpoint, None, since, until, by, version=version, classes=names
        )
        periods = []
        for start, part in asked.by_period():
            assert part.shares is not None  # noqa: S101 - joined for classes
            shares = part.shares[np.isfinite(part.score)]
            if len(shares):
                bands, why = curves.expected(shares, confidence)
                told = {cast("Figure", name): band for name, band in bands.items()}
                periods.append(
                    EstimatedPeriod(
                        since=start, n_predictions=len(part), figures=told, cannot_tell=why
                    )
                )
        return EstimateReport(
            endpoint=release.endpoint,
            model=variant.model,
            version=variant.version,
            bundle=variant.bundle,
            by=by,
            since=since,
            until=until,
            task="classes",
            threshold=threshold,
            confidence=confidence,
            source="rows",
            reference="labels",
            n_reference=curves.n,
            recalibrated=curves.needed,
            reference_figures=_named(dict(curves.figures)),
            n_predictions=len(asked),
            periods=periods,
        )

    def _counted(
        self, endpoint: str, variant: Variant, since: datetime, until: datetime, by: Period
    ) -> list[tuple[datetime, Vector, Vector]] | None:
        """From kept sketches, for each period the counts and sums of the score's bins; None if
        there are none."""
        if self._kept is None or self._database is None:
            return None
        found = []
        with self._database.reading() as connection:
            for start, end in cut_into_periods(since, until, by):
                sketch = self._kept.window(
                    connection, endpoint, variant.model, variant.version,
                    max(start, since), min(end, until),
                )  # fmt: skip
                if sketch.n:
                    counts = sketch.scores.astype(np.float64)
                    found.append((start, counts, sketch.score_totals))
        return found or None

    def _listed(
        self,
        endpoint: str,
        variant: Variant,
        since: datetime,
        until: datetime,
        by: Period,
        known: _Reference,
        threshold: float,
    ) -> list[tuple[datetime, Groups]]:
        """From the rows themselves, for each period."""
        version = (variant.model, variant.version)
        joined = self._joins.joined(endpoint, None, since, until, by, version=version)
        return [
            (start, Groups.of_rows(known.curve, rows.score[np.isfinite(rows.score)], threshold))
            for start, rows in joined.by_period()
        ]

    def _of_labels(
        self, endpoint: str, variant: Variant, window: LabelledWindow, threshold: float
    ) -> _Reference:
        joined = self._joins.joined(
            endpoint, window.labels, window.since, window.until, "month",
            version=(variant.model, variant.version),
        )  # fmt: skip
        scores, labels = check_reference(joined.score, joined.label)
        curve = Curve.of_rows(scores, labels)
        groups = Groups.of_rows(curve, scores, threshold)
        ones = labels[np.argsort(scores, kind="stable")]
        return _Reference(curve, len(scores), _named(figures(groups, ones)), "labels")


def single(release: Release) -> Variant:
    """The first variant of a release, if that is one model; raises InvalidInput."""
    variant = release.variants[0]
    if variant.members:
        raise InvalidInput(
            f"{release.endpoint!r} serves a composition, which has no reference of its own.",
            hint="Watch its members through endpoints of their own, or realised performance.",
        )
    return variant


def cut_into_periods(
    since: datetime, until: datetime, by: Period
) -> list[tuple[datetime, datetime]]:
    """The days, weeks (from Monday) or months in UTC that a window touches, whole.

    Raises:
        InvalidInput: there are more than 1,000.
    """
    start = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if by == "week":
        start = datetime.fromtimestamp(start.timestamp() - 86_400 * start.weekday(), UTC)
    elif by == "month":
        start = start.replace(day=1)
    found: list[tuple[datetime, datetime]] = []
    while start < until:
        if len(found) == _MOST_PERIODS:
            raise InvalidInput(
                f"The window holds more than {_MOST_PERIODS} periods.",
                hint="Ask for a shorter one, or by week or month.",
            )
        found.append((start, end_of(start, by)))
        start = found[-1][1]
    return found


def _of_bundle(variant: Variant, statistics: Statistics, threshold: float) -> _Reference:
    if statistics.positives is None or statistics.score_totals is None:
        raise InvalidInput(
            f"The bundle of {variant.label} keeps no labels with its scores: it was brought, or "
            "packaged before they were kept.",
            hint="Name a label table and an earlier window (`reference-since`, `reference-until`)"
            " whose labels are known, or train the model again.",
        )
    n = np.array(statistics.scores.counts, dtype=np.float64)
    ones = np.array(statistics.positives, dtype=np.float64)
    totals = np.array(statistics.score_totals, dtype=np.float64)
    if not n.sum():
        raise NotFound(f"The bundle of {variant.label} has no validation rows.")
    curve = Curve.of_bins(totals / np.maximum(n, 1), n, ones)
    edges = np.array(statistics.scores.edges, dtype=np.float64)
    groups = Groups.of_bins(curve, edges, n, totals, threshold)
    realised = _named(figures(groups, ones[n > 0]))
    return _Reference(curve, int(n.sum()), realised, "bundle")


def _period(start: datetime, curve: Curve, groups: Groups, confidence: float) -> EstimatedPeriod:
    names, why = told(groups)
    found = estimated(curve, groups, confidence) if names else {}
    return EstimatedPeriod(
        since=start,
        n_predictions=int(groups.n.sum()),
        figures={
            cast("Figure", name): Band(estimate=estimate, low=low, high=high)
            for name, (estimate, low, high) in found.items()
            if name in names and np.isfinite((estimate, low, high)).all()
        },
        cannot_tell=why,
    )


def _named(found: dict[str, float]) -> dict[Figure, float]:
    return {cast("Figure", name): float(one) for name, one in found.items() if np.isfinite(one)}
