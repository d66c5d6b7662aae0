"""What watches models: from the prediction log, its sketches and labels that arrive late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.monitoring.monitors import Monitors
    from falaj.wiring.assembly import Premises


def monitors(made: Premises) -> Monitors:
    """Measures, keeps what was measured, and raises alerts."""
    from falaj.monitoring.assessments import Assessments
    from falaj.monitoring.drift import Drift
    from falaj.monitoring.monitors import Monitors
    from falaj.monitoring.performance import Performance
    from falaj.wiring.anomalyparts import series_anomalies
    from falaj.wiring.liveparts import kept_sketches

    kept, releases = kept_sketches(made), made.serving.releases
    return Monitors(
        Drift(made.lake, made.bundles, kept, made.database),
        Performance(made.lake),
        releases,
        made.definitions,
        made.alerts,
        Assessments(made.lake, made.bundles, releases, kept, made.database),
        series_anomalies(made),
    )
