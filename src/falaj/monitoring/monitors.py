"""Monitors: checks that are declared, run, kept as records, and raise alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, NotFound
from falaj.monitoring import tables
from falaj.monitoring.assessments import Assessments, check_window, keep, version_of
from falaj.monitoring.courses import Courses
from falaj.monitoring.driftchecks import DriftChecks, discreetly
from falaj.monitoring.driftwords import DriftLimits, DriftReference, DriftReport, DriftWatch
from falaj.monitoring.model import (
    CheckResult,
    KeptReport,
    Labels,
    Monitor,
    NoPredictions,
    PerformanceLimits,
    PerformanceReport,
    Period,
    ReportKind,
)
from falaj.monitoring.performancewords import Slice
from falaj.monitoring.toldfrom import ToldFrom, discreet, joined, of_drift, of_labels, of_log

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.monitoring.anomalywords import AnomalyWatch
    from falaj.monitoring.drift import Drift
    from falaj.monitoring.joined import Version
    from falaj.monitoring.performance import Performance
    from falaj.monitoring.seriesanomalies import SeriesAnomalies
    from falaj.operations.alerts import Alerts
    from falaj.serving.model import Release
    from falaj.serving.releases import Releases

_SAID = {"series", "side", "since", "until", "n_points", "lasts"}
"""What an alert tells of an anomaly of a metric: all but its values."""


class Monitors:
    """Measures, keeps what was measured, and raises alerts.

    Args:
        drift, performance: measure.
        releases: tell what serves.
        definitions: hold the monitors.
        alerts: are raised when a limit is crossed.
        assessments: measure what monitors declare of quality; None where nothing does.
        series: judges series; None where no monitor watches any.
    """

    def __init__(
        self,
        drift: Drift,
        performance: Performance,
        releases: Releases,
        definitions: Definitions,
        alerts: Alerts,
        assessments: Assessments | None = None,
        series: SeriesAnomalies | None = None,
    ) -> None:
        self._drift = drift
        self._performance = performance
        self._releases = releases
        self._definitions = definitions
        self._alerts = alerts
        self._series = series
        self._drift_checks = DriftChecks(drift, performance)
        self._assessments = assessments
        self.lake = drift.lake
        self.courses = Courses(releases, alerts)

    @property
    def series(self) -> SeriesAnomalies:
        """What judges series."""
        if self._series is None:
            raise RuntimeError("these monitors were made without series")
        return self._series

    @property
    def assessments(self) -> Assessments:
        """What measures performance with and without labels, calibration and fairness."""
        if self._assessments is None:
            raise RuntimeError("these monitors were made without assessments")
        return self._assessments

    def monitor(self, connection: Connection, name: str) -> Monitor:
        """A declared monitor; raises NotFound."""
        found = self._definitions.definition(connection, "monitor", name)
        if not isinstance(found, Monitor):
            raise TypeError(f"{name!r} is applied as {type(found).__name__}")
        return found

    def listed(self, connection: Connection) -> list[Monitor]:
        """All declared monitors by name."""
        kept = self._definitions.listed(connection, kind="monitor")
        return [self.monitor(connection, one.name) for one in kept]

    def drift(
        self,
        call: Call,
        endpoint: str,
        since: datetime,
        until: datetime,
        limits: DriftLimits,
        *,
        monitor: str | None = None,
        exact: bool = False,
        reference: DriftReference | None = None,
        watch: DriftWatch | None = None,
        labels: Labels | None = None,
    ) -> tuple[str, DriftReport]:
        """Measure and keep a drift report; returns its id and the report.

        It is told from sketches, or, if it shall be ``exact``, from every row. The reference is
        the training rows if there is no other; ``watch`` tells what else is measured, and
        ``labels`` where label 1 is counted.

        Raises:
            Conflict: the endpoint serves nothing.
            NotFound: no such endpoint, or no predictions in the window.
        """
        check_window(since, until)
        active = self._active(call, endpoint)
        watch = watch or DriftWatch(reference=reference or DriftReference())
        report = self._drift.report(
            active, since, until, limits,
            exact=exact, reference=watch.reference, quality=watch.quality,
        )  # fmt: skip
        self._drift_checks.complete(report, watch, labels, active)
        told = of_drift(report, labels)
        return keep(call, "drift", endpoint, monitor, report, told), report

    def performance(
        self,
        call: Call,
        endpoint: str,
        labels: Labels,
        since: datetime,
        until: datetime,
        *,
        by: Period = "week",
        confidence: float = 0.95,
        threshold: float = 0.5,
        slices: Sequence[Slice] = (),
        monitor: str | None = None,
        version: Version | None = None,
    ) -> tuple[str, PerformanceReport]:
        """Measure and keep a performance report; returns its id and the report.

        Raises:
            NotFound: no such endpoint, no predictions in the window or no label table.
        """
        check_window(since, until)
        self._releases.endpoint(call.connection, endpoint)
        measured = self._performance
        if slices:
            measured = self.assessments.performance(call)
        report = measured.report(
            endpoint, labels, since, until, by=by, confidence=confidence,
            threshold=threshold, slices=slices, now=call.now, version=version,
        )  # fmt: skip
        told = joined(of_labels(labels, slices), of_log(endpoint, slices))
        return keep(call, "performance", endpoint, monitor, report, told), report

    def check(self, call: Call, name: str, until: datetime) -> CheckResult:
        """Run a monitor over its window that ends at ``until``; raises alerts.

        It measures first and then writes (``Call.after_reading``): what it found and alerted
        stands in the result as soon as that is done. A part that has no predictions to measure
        is told as ``nothing``; series are judged all the same, for silence is one too.

        Raises:
            NotFound: no such monitor, or something else that it measures is missing.
            NoPredictions: no part had anything to measure.
        """
        monitor = self.monitor(call.connection, name)
        since = until - monitor.window
        result = CheckResult(
            monitor=name, since=since, until=until, reports=[], alerts=[], findings=[]
        )
        empty: NoPredictions | None = None
        for part in (self._check_drift, self._check_performance, self._check_quality):
            try:
                part(call, monitor, result)
            except NoPredictions as error:
                result.nothing.append(error.message)
                empty = error
        if monitor.anomalies is not None:
            self._check_series(call, monitor, monitor.anomalies, result)
        if empty is not None and not result.reports:
            raise empty
        call.after_reading(lambda: call.note(reports=result.reports, alerts=result.alerts))
        return result

    def _check_drift(self, call: Call, monitor: Monitor, result: CheckResult) -> None:
        if monitor.drift is not None:
            kept, report = self.drift(
                call, monitor.endpoint, result.since, result.until, monitor.drift,
                monitor=monitor.name, watch=monitor.drift_watch, labels=monitor.labels,
            )  # fmt: skip
            result.reports.append(kept)
            told = of_drift(report, monitor.labels)
            result.told_from = joined(told)
            judge = partial(
                self._judge_drift, call, monitor, result, kept, report,
                self._active(call, monitor.endpoint), told,
            )  # fmt: skip
            call.after_reading(judge)

    def _check_performance(self, call: Call, monitor: Monitor, result: CheckResult) -> None:
        if monitor.labels is not None and monitor.performance is not None:
            self._check_realised(call, monitor, monitor.labels, monitor.performance, result)

    def _check_quality(self, call: Call, monitor: Monitor, result: CheckResult) -> None:
        if monitor.quality is not None:
            found = self.assessments.check(call, monitor, result.since, result.until)
            result.reports += found.reports
            result.told_from = joined(result.told_from, found.told)
            for over, shown in found.crossed:
                shorter = discreet(over.plain, shown, found.told) if over.plain else None
                self._alert(call, monitor, result, over.name, over.message, {"report": shown},
                            shorter)  # fmt: skip

    def _judge_drift(
        self,
        call: Call,
        monitor: Monitor,
        result: CheckResult,
        kept: str,
        report: DriftReport,
        release: Release,
        told: ToldFrom,
    ) -> None:
        """Keep what was found, and alert what was found often enough."""
        lasting, result.waiting = self._drift_checks.lasting(call, monitor, report, release)
        if lasting:
            call.emit(
                "monitor.drifted",
                monitor=monitor.name,
                endpoint=monitor.endpoint,
                report=kept,
                features=[one.column for one in lasting],
            )
        for one in lasting:
            plain = discreetly(one, report)
            numbers = {} if plain else one.numbers
            self._alert(call, monitor, result, one.key, one.sentence,
                        {"report": kept, "finding": one.name, "name": one.column, **numbers},
                        discreet(plain, kept, told) if plain else None)  # fmt: skip

    def _check_realised(
        self,
        call: Call,
        monitor: Monitor,
        labels: Labels,
        limits: PerformanceLimits,
        result: CheckResult,
    ) -> None:
        kept, realised = self.performance(
            call, monitor.endpoint, labels, result.since, result.until,
            confidence=limits.confidence, monitor=monitor.name,
            version=version_of(self._releases.active(call.connection, monitor.endpoint)),
        )  # fmt: skip
        result.reports.append(kept)
        told = of_labels(labels)
        result.told_from = joined(result.told_from, told)
        for figure, message, plain in crossed(realised, limits):
            self._alert(call, monitor, result, figure, message, {"report": kept},
                        discreet(plain, kept, told))  # fmt: skip

    def _check_series(
        self, call: Call, monitor: Monitor, watch: AnomalyWatch, result: CheckResult
    ) -> None:
        told = self.series.told_from(watch)
        shown, judged = self.series.check(call, monitor, watch, result.until)
        result.reports.append(shown)
        result.told_from = joined(result.told_from, told)
        metrics = {one.name for one in watch.metrics}
        for one in judged:
            hidden = one.series in metrics
            plain = f"{one.series} is {one.side} what is usual since {one.since:%Y-%m-%d %H:%M} UTC"
            figures = one.model_dump(mode="json", include=_SAID if hidden else None)
            self._alert(call, monitor, result, f"anomaly-{one.series}", one.message,
                        {"report": shown, **figures},
                        discreet(plain, shown, told) if hidden else None)  # fmt: skip

    def reports(self, connection: Connection, endpoint: str, *, limit: int) -> list[ReportKind]:
        """The newest kept reports of an endpoint."""
        self._releases.endpoint(connection, endpoint)
        names = list(ReportKind.model_fields)
        return [
            ReportKind.model_validate({name: getattr(row, name) for name in names})
            for row in tables.report_rows(connection, endpoint, limit=limit)
        ]

    def report(self, connection: Connection, report: str) -> KeptReport:
        """One kept report; raises NotFound."""
        row = connection.execute(
            select(tables.reports).where(tables.reports.c.id == report)
        ).first()
        if row is None:
            raise NotFound(
                f"There is no report {report!r}.",
                hint="`falaj monitors reports ENDPOINT` lists them.",
            )
        return KeptReport.model_validate(
            {name: getattr(row, name) for name in KeptReport.model_fields}
        )

    def _active(self, call: Call, endpoint: str) -> Release:
        release = self._releases.active(call.connection, endpoint)
        if release is None:
            raise Conflict(
                f"{endpoint!r} serves nothing now.", hint="Activate a release of it first."
            )
        return release

    def _alert(
        self,
        call: Call,
        monitor: Monitor,
        result: CheckResult,
        name: str,
        message: str,
        evidence: dict[str, object],
        discreet: str | None = None,
    ) -> None:
        """Raise an alert; ``discreet`` is its message where not all who see it may read the
        figures."""

        def raised() -> None:
            alert = self._alerts.raise_alert(
                call,
                name=f"{monitor.name}:{name}",
                subject=AssetRef("endpoint", monitor.endpoint),
                severity=monitor.severity,
                message=discreet or message,
                evidence=evidence,
            )
            result.alerts.append(alert.id)
            result.findings.append(message)

        call.after_reading(raised)


def crossed(report: PerformanceReport, limits: PerformanceLimits) -> list[tuple[str, str, str]]:
    """The limits that the last period with enough labels crosses, as (figure, message, the message
    without figures). Young periods are not looked at: the labels that arrive first may differ
    from those that arrive late."""
    enough = [
        one for one in report.periods if one.n_labels >= limits.least_labels and not one.young
    ]
    if not enough:
        return []
    last = enough[-1]
    when = f"in the {report.by} from {last.since:%Y-%m-%d}"
    told = f"{when} ({last.n_labels} labels)"
    found = []
    if limits.auc_at_least is not None and last.auc and last.auc.high < limits.auc_at_least:
        least = limits.auc_at_least
        found.append(("auc", f"AUC {last.auc.estimate:.3f} {told}, limit {least:g}",
                      f"AUC is surely below {least:g} {when}"))  # fmt: skip
    for name, band, limit in (
        ("log_loss", last.log_loss, limits.log_loss_at_most),
        ("brier", last.brier, limits.brier_at_most),
    ):
        if limit is not None and band and band.low > limit:
            words = name.replace("_", " ")
            found.append((name, f"{words} {band.estimate:.3f} {told}, limit {limit:g}",
                          f"{words} is surely above {limit:g} {when}"))  # fmt: skip
    return found
