"""The action that looks for leakage, and what a monitor does of it; ``MonitorService`` has both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict
from falaj.monitoring.leakagewords import LEAKAGE, LeakageLimits, LeakageReport
from falaj.monitoring.model import (
    CheckResult,
    Column,
    Instant,
    Labels,
    Monitor,
    NoPredictions,
    Table,
)
from falaj.monitoring.sight import Sight, asked_window
from falaj.monitoring.toldfrom import discreet, joined, of_labels, of_rows
from falaj.operations.model import Severity
from falaj.serving.model import EndpointName

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.registry import Registry
    from falaj.monitoring.leakage import Leakage
    from falaj.operations.alerts import Alerts
    from falaj.serving.model import Release
    from falaj.serving.releases import Releases


class LeakageChecks:
    """Looks for leakage, keeps what was found and raises an alert for each finding.

    Args:
        leakage: looks.
        releases: tell what serves.
        registry: tells what the gates found of single features.
        alerts: one for each finding.
    """

    def __init__(
        self, leakage: Leakage, releases: Releases, registry: Registry, alerts: Alerts
    ) -> None:
        self._leakage = leakage
        self._releases = releases
        self._registry = registry
        self._alerts = alerts

    def checked(
        self,
        call: Call,
        endpoint: str,
        labels: Labels,
        window: tuple[datetime, datetime],
        limits: LeakageLimits,
        *,
        monitor: Monitor | None = None,
    ) -> tuple[LeakageReport, CheckResult]:
        """Look at a window; returns the report, and what was kept and raised of it.

        Raises:
            Conflict: the endpoint serves nothing.
            NotFound: no such endpoint, no predictions in the window or no label table.
        """
        from falaj.monitoring.assessments import keep  # it computes: actions are listed without

        release = self._releases.active(call.connection, endpoint)
        if release is None:
            raise Conflict(
                f"{endpoint!r} serves nothing now.", hint="Activate a release of it first."
            )
        judged = self._judged(call, release)
        report = self._leakage.report(release, labels, *window, limits, judged)
        told = joined(of_labels(labels), of_rows(endpoint))
        name = monitor.name if monitor else None
        kept = keep(call, LEAKAGE, endpoint, name, report, told)
        result = CheckResult(
            monitor=name or endpoint, since=window[0], until=window[1], reports=[kept],
            alerts=[], findings=[one.sentence for one in report.findings],
            told_from=told,
        )  # fmt: skip

        def alerted() -> None:
            for one in report.findings:
                alert = self._alerts.raise_alert(
                    call, name=f"{name or endpoint}:{one.key}",
                    subject=AssetRef("endpoint", endpoint),
                    severity=monitor.severity if monitor else Severity.WARNING,
                    message=discreet(_PLAIN[one.name].format(one.column), kept, told),
                    evidence={"report": kept, "finding": one.name, "name": one.column},
                )  # fmt: skip
                result.alerts.append(alert.id)
            call.note(alerts=result.alerts)

        call.after_reading(alerted)
        return report, result

    def _judged(self, call: Call, release: Release) -> Mapping[str, float]:
        variant = release.variants[0]
        report = self._registry.report(call.connection, variant.model, variant.version)
        for one in report.results if report else ():
            if one.gate == "leakage":
                return {name: float(found) for name, found in one.evidence["features"].items()}
        return {}


_PLAIN = {
    "from_the_future": "Predictions were made of features from the future",
    "label_like": "{} by itself tells the label too well",
}
"""Findings without their figures."""


class LeakageActions(Service):
    """Whether features know what they cannot know."""

    _leaks: LeakageChecks | None = None
    _sight: Sight

    @action(post="/endpoints/{endpoint}/leakage-reports", on="endpoint", reads_first=True)
    def leakage(
        self,
        endpoint: EndpointName,
        label_table: Table,
        label: Column,
        *,
        on: str = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        feature_auc: float = 0.85,
    ) -> LeakageReport:
        """Look for features that know the future, or the label; the report is kept.

        Args:
            endpoint: which one.
            label_table: the lake table of the outcomes.
            label: its column of 0 and 1.
            on: prediction_id, request_id or unit: what the label table names.
            key: its column of that; of the same name if left out.
            recorded_at: its column of when a label became known; the last one counts.
            since, until: the window; the last seven days if they are left out.
            feature_auc: no honest feature by itself tells the label so well.
        """
        labels = Labels.model_validate(
            {"table": label_table, "label": label, "on": on, "key": key, "recorded_at": recorded_at}
        )
        self._sight.check_labels(self.call, labels)
        self._sight.check_log(self.call, endpoint, ("features",))
        if self._leaks is None:
            raise Conflict("This service was made without what looks for leakage.")
        limits = LeakageLimits(feature_auc=feature_auc)
        window = asked_window(self.call, since, until)
        report, _ = self._leaks.checked(self.call, endpoint, labels, window, limits)
        return report

    def _with_leakage(self, monitor: Monitor, result: CheckResult) -> CheckResult:
        """A check's result with what a monitor that watches for leakage finds as well."""
        if monitor.leakage is None or monitor.labels is None or self._leaks is None:
            return result
        window = (result.since, result.until)
        try:
            _, more = self._leaks.checked(
                self.call, monitor.endpoint, monitor.labels, window, monitor.leakage,
                monitor=monitor,
            )  # fmt: skip
        except NoPredictions as error:
            if not result.reports:
                raise
            result.nothing.append(error.message)
            return result
        result.told_from = joined(result.told_from, more.told_from)

        def added() -> None:
            result.reports += more.reports
            result.alerts += more.alerts
            result.findings += more.findings

        self.call.after_reading(added)
        return result
