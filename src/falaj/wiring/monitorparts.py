"""The parts of monitors, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.monitoring.monitors import Monitors
    from falaj.wiring.assembly import Premises


def monitors(made: Premises) -> Monitors:
    """Measures what the prediction log tells, and raises alerts."""
    from falaj.monitoring.drift import Drift
    from falaj.monitoring.monitors import Monitors
    from falaj.monitoring.performance import Performance
    from falaj.wiring.anomalyparts import series_anomalies
    from falaj.wiring.liveparts import kept_sketches

    return Monitors(
        Drift(made.lake, made.bundles, kept_sketches(made), made.database),
        Performance(made.lake),
        made.serving.releases,
        made.definitions,
        made.alerts,
        series_anomalies(made),
    )
