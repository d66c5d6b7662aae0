"""What a monitor makes of a drift report: everything it found, and what of it lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.monitoring import persistence
from falaj.monitoring.driftwords import DriftReport, DriftWatch, FeatureDrift, Finding
from falaj.monitoring.following import followed
from falaj.monitoring.labeldrift import label_drift
from falaj.monitoring.sampledrift import sampled

ROWS, LABELS = "rows as a whole", "labels"
"""What findings that are told from rows are about."""

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.monitoring.drift import Drift
    from falaj.monitoring.model import Labels, Monitor
    from falaj.monitoring.performance import Performance
    from falaj.serving.model import Release


class DriftChecks:
    """Completes drift reports, and keeps their findings.

    Args:
        drift: reads rows and minutes.
        performance: joins predictions with their labels.
    """

    def __init__(self, drift: Drift, performance: Performance) -> None:
        self._drift = drift
        self._performance = performance

    def complete(
        self, report: DriftReport, watch: DriftWatch, labels: Labels | None, release: Release
    ) -> None:
        """Add to a report what it is not told by sketches: labels, and rows as a whole."""
        window = (report.since, report.until)
        if watch.labels is not None and labels is not None:
            report.labels = label_drift(
                self._performance, report.endpoint, labels, window, watch.reference, watch.labels
            )
        if watch.sample is not None:
            report.sampled = sampled(self._drift, release, window, watch.reference, watch.sample)

    def lasting(
        self, call: Call, monitor: Monitor, report: DriftReport, release: Release
    ) -> tuple[list[Finding], list[str]]:
        """Keep what was found; returns what was found in enough windows, and the sentences of
        what was not yet. A change that a detector saw happens once: it need not last."""
        watch = monitor.drift_watch or DriftWatch(quality=None)
        changes = followed(
            call.connection, monitor.name, watch.follow, self._drift, release,
            (report.since, report.until),
        )  # fmt: skip
        found = found_in(report, watch)
        persistence.keep(
            call.connection, monitor.name, report.since, report.until, [*found, *changes],
            at=call.now, bundle=report.bundle, of_last=watch.of_last,
        )  # fmt: skip
        keys = persistence.lasting(
            call.connection, monitor.name, report.until,
            needed=watch.needed, of_last=watch.of_last, bundle=report.bundle,
        )  # fmt: skip
        return (
            [*(one for one in found if one.key in keys), *changes],
            [one.sentence for one in found if one.key not in keys],
        )


def discreetly(one: Finding, report: DriftReport) -> str:
    """A finding without figures if it was told from rows; otherwise empty."""
    if one.name == "drift" and one.column == LABELS and report.labels is not None:
        return "The labels have drifted"
    if one.name == "drift" and one.column == ROWS and report.sampled is not None:
        return "Rows of now are told from those of before"
    return ""


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
    together = report.sampled.separability if report.sampled is not None else None
    if together is not None and together.low > watch.separable:
        found.append(
            Finding(
                name="drift",
                column=ROWS,
                numbers={"auc": together.auc, "low": together.low},
                sentence="Rows of now are told from those of before with an AUC of "
                f"{together.auc:.3f} ({together.low:.3f} to {together.high:.3f}, limit "
                f"{watch.separable:g}), first by {', '.join(together.columns[:3])}.",
            )
        )
    if report.labels is not None and report.labels.drifted:
        found.append(
            Finding(
                name="drift",
                column=LABELS,
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
