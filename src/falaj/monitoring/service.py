"""The actions of monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from falaj.kernel.actions import action
from falaj.kernel.errors import NotFound
from falaj.monitoring.assessment_actions import AssessmentActions
from falaj.monitoring.course_actions import CourseActions
from falaj.monitoring.driftwords import (
    DriftLimits,
    DriftReference,
    DriftReport,
    ReferenceKind,
    TableDrift,
)
from falaj.monitoring.leakage_actions import LeakageActions, LeakageChecks
from falaj.monitoring.model import (
    CheckResult,
    Column,
    Instant,
    KeptReport,
    Monitor,
    ReportKind,
    Table,
)
from falaj.monitoring.schedule_actions import ScheduleActions
from falaj.monitoring.sight import Sight, asked_window
from falaj.monitoring.toldfrom import of_drift
from falaj.serving.model import EndpointName

if TYPE_CHECKING:
    from falaj.lake.reading import GuardedLake
    from falaj.monitoring.monitors import Monitors
    from falaj.monitoring.schedules import MonitorSchedules
    from falaj.monitoring.sight import May


class MonitorService(AssessmentActions, LeakageActions, ScheduleActions, CourseActions):
    """Drift, performance, calibration and fairness, from the prediction log."""

    name: ClassVar[str] = "monitors"

    def __init__(
        self,
        monitors: Monitors,
        may: May,
        guarded: GuardedLake,
        schedules: MonitorSchedules | None = None,
        leaks: LeakageChecks | None = None,
    ) -> None:
        self._leaks = leaks
        self._schedules = schedules
        self._monitors = monitors
        self._sight = Sight(may, guarded)

    @action(get="/monitors")
    def list(self) -> Sequence[Monitor]:
        """List the declared monitors."""
        listed = self._monitors.listed(self.call.connection)
        return [one for one in listed if self._sight.may_know(self.call, one.endpoint)]

    @action(post="/endpoints/{endpoint}/drift-reports", on="endpoint", reads_first=True)
    def drift(
        self,
        endpoint: EndpointName,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        psi_limit: float = 0.2,
        exact: bool = False,
        reference: ReferenceKind = "training",
        reference_since: Instant | None = None,
        reference_until: Instant | None = None,
        reference_windows: int = 1,
    ) -> DriftReport:
        """Compare what the active model sees and says with a reference; the report is kept.

        Args:
            endpoint: which one.
            since, until: the window; the last seven days if they are left out.
            psi_limit: the population stability index from which a feature has drifted.
            exact: read every row of the log, not the sketches of whole minutes in the window.
            reference: training (the rows of the model), or traffic: a fixed window, the rolling
                one right before, or the same stretch of earlier weeks (seasonal).
            reference_since, reference_until: the fixed window.
            reference_windows: how many rolling windows, or weeks back.
        """
        if exact:
            self._sight.check_log(self.call, endpoint, ("features",))
        window = asked_window(self.call, since, until)
        limits = DriftLimits(psi=psi_limit)
        before = DriftReference(
            kind=reference, since=reference_since, until=reference_until, windows=reference_windows
        )
        _, report = self._monitors.drift(
            self.call, endpoint, *window, limits, exact=exact, reference=before
        )
        # Rows are read where there is no sketch, too.
        self._sight.check_told(self.call, of_drift(report, None))
        return report

    @action(post="/table-drift-reports", reads_first=True)
    def drift_of_tables(
        self,
        reference: Table,
        observed: Table,
        *,
        reference_snapshot: int | None = None,
        observed_snapshot: int | None = None,
        columns: Sequence[Column] | None = None,
        together: bool = False,
        seed: int = 0,
    ) -> TableDrift:
        """Compare two lake tables, or two snapshots of one, column by column.

        Args:
            reference, observed: the tables; they may be one.
            reference_snapshot, observed_snapshot: as of these; the latest if left out.
            columns: these alone; all that both tables have if left out.
            together: also tell sampled rows apart as a whole, by a classifier and by rebuilding.
            seed: of the rows that are sampled for edges and for pairs of columns.
        """

        from falaj.monitoring.laketables import LakeTables

        for table in (reference, observed):
            self._sight.check_table(self.call, table, columns)
        return LakeTables(self._monitors.lake).compared(
            reference, observed, (reference_snapshot, observed_snapshot), columns,
            seed=seed, together=together,
        )  # fmt: skip

    @action(post="/monitors/{name}/checks", on="monitor", reads_first=True)
    def check(self, name: str, *, until: Instant | None = None) -> CheckResult:
        """Run a monitor over its window; what crosses a limit raises an alert."""
        monitor = self._monitors.monitor(self.call.connection, name)
        self._sight.check_known(self.call, monitor)
        self._sight.check_monitor(self.call, monitor)
        result = self._monitors.check(self.call, name, until or self.call.now)
        self._sight.check_told(self.call, result.told_from)  # rows, where there were no sketches
        return self._with_leakage(monitor, result)

    @action(get="/endpoints/{endpoint}/reports", on="endpoint")
    def reports(self, endpoint: EndpointName, *, limit: int = 100) -> Sequence[ReportKind]:
        """List the kept reports of an endpoint, the newest first."""
        return self._monitors.reports(self.call.connection, endpoint, limit=limit)

    @action(get="/monitor-reports/{report}")
    def report(self, report: str) -> KeptReport:
        """Show a kept report."""
        found = self._monitors.report(self.call.connection, report)
        if not self._sight.may_know(self.call, found.endpoint):
            raise NotFound(f"There is no report {report!r}.", hint="`falaj monitors reports`.")
        self._sight.check_kept(self.call, found)
        return found
