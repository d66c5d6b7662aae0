"""What a monitor makes of a drift report: everything it found, and what of it lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.monitoring import persistence
from falaj.monitoring.driftwords import DriftReport, DriftWatch, FeatureDrift, Finding
from falaj.monitoring.labeldrift import label_drift

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.monitoring.model import Labels, Monitor
    from falaj.monitoring.performance import Performance


class DriftChecks:
    """Completes drift reports, and keeps their findings.

    Args:
        performance: joins predictions with their labels.
    """

    def __init__(self, performance: Performance) -> None:
        self._performance = performance

    def complete(self, report: DriftReport, watch: DriftWatch, labels: Labels | None) -> None:
        """Add to a report what it is not told by sketches: the labels, if they are watched."""
        if watch.labels is not None and labels is not None:
            report.labels = label_drift(
                self._performance, report.endpoint, labels, (report.since, report.until),
                watch.reference, watch.labels,
            )  # fmt: skip

    def lasting(
        self, call: Call, monitor: Monitor, report: DriftReport
    ) -> tuple[list[Finding], list[str]]:
        """Keep what was found; returns what was found in enough windows, and the sentences of
        what was not yet."""
        watch = monitor.drift_watch or DriftWatch(quality=None)
        found = found_in(report, watch)
        persistence.keep(
            call.connection, monitor.name, report.since, report.until, found, at=call.now
        )
        keys = persistence.lasting(
            call.connection, monitor.name, report.until,
            needed=watch.needed, of_last=watch.of_last,
        )  # fmt: skip
        return (
            [one for one in found if one.key in keys],
            [one.sentence for one in found if one.key not in keys],
        )


def found_in(report: DriftReport, watch: DriftWatch) -> list[Finding]:
    """All that a report found: drifts, the farthest first, then faults and the rest."""
    found = [_drift(one) for one in report.drifted]
    if watch.quality is not None:
        found += report.findings
    if watch.weighted is not None and (report.weighted_psi or 0.0) >= watch.weighted:
        told = report.weighted_psi or 0.0
        found.append(
            Finding(
                name="drift",
                column="all inputs by importance",
                numbers={"psi": told},
                sentence="The inputs have drifted where the model looks: PSI weighted by "
                f"importance {told:.3f} (limit {watch.weighted:g})",
            )
        )
    if report.labels is not None and report.labels.drifted:
        found.append(
            Finding(
                name="drift",
                column="labels",
                numbers={
                    "share": report.labels.observed_share,
                    "reference_share": report.labels.reference_share,
                },
                sentence=f"The labels have drifted: {report.labels.why}",
            )
        )
    return found


def _drift(one: FeatureDrift) -> Finding:
    numbers = {"psi": one.psi, "jensen_shannon": one.jensen_shannon, "ks": one.ks,
               "wasserstein": one.wasserstein, "adjusted_p_value": one.adjusted_p_value,
               "missing_reference": one.missing_reference,
               "missing_observed": one.missing_observed}  # fmt: skip
    return Finding(
        name="drift",
        column=one.name,
        numbers={name: value for name, value in numbers.items() if value is not None},
        sentence=f"{one.name} has drifted: {one.why}",
    )
