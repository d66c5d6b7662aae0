"""Assessments: how good a model is, with and without labels, measured, kept and judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.kernel.ids import new_id
from falaj.monitoring import qualitychecks as checks
from falaj.monitoring import tables
from falaj.monitoring.calibration import Calibrations
from falaj.monitoring.estimates import Estimates
from falaj.monitoring.fairness import Fairness
from falaj.monitoring.joined import Inputs, InputsOf, Joins, Version
from falaj.monitoring.losses import LossEstimates
from falaj.monitoring.model import Labels, Monitor, Period
from falaj.monitoring.performance import Performance
from falaj.monitoring.performancereports import (
    CalibrationReport,
    EstimateReport,
    FairnessReport,
    LabelledWindow,
    LossReport,
)
from falaj.monitoring.performancewords import Quality, Slice
from falaj.monitoring.toldfrom import ToldFrom, joined, of_labels, of_log, of_rows, with_told

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.kernel.database import Database
    from falaj.lake.ports import Lake
    from falaj.models.bundles import Bundles
    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.serving.model import Release
    from falaj.serving.releases import Releases


@dataclass
class Found:
    """What the assessment of a monitor found."""

    reports: list[str] = field(default_factory=list)
    """Ids of the kept reports."""
    crossed: list[tuple[checks.Crossed, str]] = field(default_factory=list)
    """Limits that were crossed, with the report that shows it."""
    told: ToldFrom = field(default_factory=dict)
    """What the reports were told from."""


class Assessments:
    """Measures what performance is expected and came true, calibration and fairness.

    Args:
        lake: holds the prediction log and label tables.
        bundles: hold the frozen statistics of each model version.
        releases: tell what serves.
        kept: the sketches of the prediction log; None to read rows always.
        database: where the sketches are kept.
    """

    def __init__(
        self,
        lake: Lake,
        bundles: Bundles,
        releases: Releases,
        kept: KeptSketches | None = None,
        database: Database | None = None,
    ) -> None:
        self._lake = lake
        self._bundles = bundles
        self._releases = releases
        self._estimates = Estimates(Joins(lake), bundles, kept, database)
        self._losses = LossEstimates(Joins(lake))

    def estimate(
        self,
        call: Call,
        endpoint: str,
        since: datetime,
        until: datetime,
        *,
        by: Period = "day",
        threshold: float = 0.5,
        confidence: float = 0.95,
        exact: bool = False,
        reference: LabelledWindow | None = None,
        monitor: str | None = None,
    ) -> tuple[str, EstimateReport]:
        """Estimate figures without labels; returns the kept report's id, and the report.

        Raises:
            as ``Estimates.report``; Conflict: the endpoint serves nothing.
        """
        check_window(since, until)
        if reference is not None:
            check_window(reference.since, reference.until)
        report = self._estimates.report(
            self._active(call, endpoint), since, until, by=by, threshold=threshold,
            confidence=confidence, exact=exact, reference=reference,
        )  # fmt: skip
        told = of_labels(reference.labels if reference is not None else None)
        return keep(call, "estimate", endpoint, monitor, report, told), report

    def losses(
        self,
        call: Call,
        endpoint: str,
        reference: LabelledWindow,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        confidence: float = 0.95,
    ) -> tuple[str, LossReport]:
        """Estimate losses from inputs; returns the kept report's id, and the report.

        Raises:
            as ``LossEstimates.report``; Conflict: the endpoint serves nothing.
        """
        check_window(since, until)
        check_window(reference.since, reference.until)
        report = self._losses.report(
            self._active(call, endpoint), reference, since, until, by=by, confidence=confidence
        )
        told = joined(of_labels(reference.labels), of_rows(endpoint))
        return keep(call, "losses", endpoint, None, report, told), report

    def calibration(
        self,
        call: Call,
        endpoint: str,
        labels: Labels,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        n_bins: int = 10,
        confidence: float = 0.95,
        monitor: str | None = None,
        version: Version | None = None,
    ) -> tuple[str, CalibrationReport]:
        """Measure how often scores come true; returns the kept report's id, and the report.

        Raises:
            NotFound: no such endpoint, no predictions in the window or no label table.
        """
        check_window(since, until)
        self._releases.endpoint(call.connection, endpoint)
        report = Calibrations(Joins(self._lake)).report(
            endpoint,
            labels,
            since,
            until,
            by=by,
            n_bins=n_bins,
            confidence=confidence,
            now=call.now,
            version=version,
        )
        return keep(call, "calibration", endpoint, monitor, report, of_labels(labels)), report

    def fairness(
        self,
        call: Call,
        endpoint: str,
        groups: Slice,
        labels: Labels | None,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        threshold: float = 0.5,
        confidence: float = 0.95,
        monitor: str | None = None,
        version: Version | None = None,
    ) -> tuple[str, FairnessReport]:
        """Measure how groups are treated; returns the kept report's id, and the report.

        Raises:
            NotFound: no such endpoint, no predictions in the window or no label table.
        """
        check_window(since, until)
        self._releases.endpoint(call.connection, endpoint)
        report = Fairness(self.joins(call)).report(
            endpoint, groups, labels, since, until, by=by, threshold=threshold,
            confidence=confidence, now=call.now, version=version,
        )  # fmt: skip
        told = joined(of_labels(labels, [groups]), of_log(endpoint, [groups]))
        return keep(call, "fairness", endpoint, monitor, report, told), report

    def check(self, call: Call, monitor: Monitor, since: datetime, until: datetime) -> Found:
        """Measure all that a monitor declares of quality, and say what crosses its limits.

        Of the version that serves: what the one before it predicted says nothing of this one.

        Raises:
            NotFound, InvalidInput: something cannot be measured.
        """
        found, quality = Found(), monitor.quality
        if quality is None:
            return found
        window, endpoint = (since, until), monitor.endpoint
        version = self.serving(call, endpoint)
        if quality.estimated:
            kept, estimates = self.estimate(
                call, endpoint, *window, by=quality.by, threshold=quality.threshold,
                confidence=quality.confidence, monitor=monitor.name,
            )  # fmt: skip
            _note(found, kept, checks.of_estimates(estimates, quality))
        if quality.realised and monitor.labels is not None:
            self._check_realised(call, monitor, quality, monitor.labels, window, found)
        if quality.calibration is not None and monitor.labels is not None:
            kept, calibration = self.calibration(
                call, endpoint, monitor.labels, *window, by=quality.by,
                confidence=quality.confidence, monitor=monitor.name, version=version,
            )  # fmt: skip
            found.told = joined(found.told, of_labels(monitor.labels))
            limits = quality.calibration
            _note(found, kept, checks.of_calibration(calibration, limits, quality))
        for one in quality.fairness:
            kept, fairness = self.fairness(
                call, endpoint, one.groups, monitor.labels, *window, by=quality.by,
                threshold=quality.threshold, confidence=quality.confidence, monitor=monitor.name,
                version=version,
            )  # fmt: skip
            cuts = [one.groups]
            found.told = joined(found.told, of_labels(monitor.labels, cuts), of_log(endpoint, cuts))
            _note(found, kept, checks.of_fairness(fairness, one, quality))
        return found

    def _check_realised(
        self,
        call: Call,
        monitor: Monitor,
        quality: Quality,
        labels: Labels,
        window: tuple[datetime, datetime],
        found: Found,
    ) -> None:
        report = self.performance(call).report(
            monitor.endpoint, labels, *window, by=quality.by, confidence=quality.confidence,
            threshold=quality.threshold, slices=quality.slices, now=call.now,
            version=self.serving(call, monitor.endpoint),
        )  # fmt: skip
        cuts = quality.slices
        told = joined(of_labels(labels, cuts), of_log(monitor.endpoint, cuts))
        kept = keep(call, "performance", monitor.endpoint, monitor.name, report, told)
        found.told = joined(found.told, told)
        _note(found, kept, checks.of_performance(report, quality))

    def performance(self, call: Call) -> Performance:
        """What measures realised performance, by slices of inputs too."""
        return Performance(self._lake, self.inputs_of(call))

    def joins(self, call: Call) -> Joins:
        """Joins whose slices may be by inputs of the model that serves now."""
        return Joins(self._lake, self.inputs_of(call))

    def inputs_of(self, call: Call) -> InputsOf:
        """What the model reads that an endpoint serves now."""

        def found(endpoint: str) -> Inputs:
            variant = self._active(call, endpoint).variants[0]
            if variant.members:
                raise InvalidInput(
                    f"{endpoint!r} serves a composition, whose models read inputs of their own.",
                    hint="Slice by a request field.",
                )
            encoding = self._bundles.open_bundle(variant.bundle).manifest.signature.encoding
            return Inputs(variant.model, variant.version, encoding)

        return found

    def serving(self, call: Call, endpoint: str) -> Version | None:
        """The version that an endpoint serves; None if it serves nothing or a composition."""
        return version_of(self._releases.active(call.connection, endpoint))

    def _active(self, call: Call, endpoint: str) -> Release:
        release = self._releases.active(call.connection, endpoint)
        if release is None:
            raise Conflict(
                f"{endpoint!r} serves nothing now.", hint="Activate a release of it first."
            )
        return release


def keep(
    call: Call, kind: str, endpoint: str, monitor: str | None, report: BaseModel, told: ToldFrom
) -> str:
    """Keep a report, and what it was told from; returns its id."""
    report_id, document = new_id("report"), with_told(report.model_dump(mode="json"), told)

    def kept() -> None:
        tables.keep_report(
            call.connection, id=report_id, kind=kind, endpoint=endpoint, monitor=monitor,
            at=call.now, by=call.principal.id, document=document,
        )  # fmt: skip

    call.after_reading(kept)
    call.note(report=report_id)
    return report_id


def version_of(release: Release | None) -> Version | None:
    """The version of a release's first variant; None without a release, or of a composition."""
    if release is None or release.variants[0].members:
        return None
    return release.variants[0].model, release.variants[0].version


def check_window(since: datetime, until: datetime) -> None:
    """Raise InvalidInput if a window is empty."""
    if since >= until:
        raise InvalidInput(
            f"The window from {since.isoformat()} to {until.isoformat()} is empty.",
            hint="Give `since` before `until`.",
        )


def _note(found: Found, report: str, crossed: list[checks.Crossed]) -> None:
    found.reports.append(report)
    found.crossed += [(one, report) for one in crossed]
