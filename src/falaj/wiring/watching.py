"""What watches over features: parity checks, and statistics of what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.features.parity_checks import ParityChecks
    from falaj.features.statistics import FeatureStatistics
    from falaj.wiring.assembly import Premises


def parity_checks(made: Premises) -> ParityChecks:
    """Checks that what is served is what models are trained on."""
    from falaj.features.parity import Parity
    from falaj.features.parity_checks import ParityChecks
    from falaj.monitoring.parityreports import ParityReports
    from falaj.serving.bundled import BundledModels
    from falaj.serving.served import LoggedRequests

    served = LoggedRequests(
        made.lake, made.database, made.definitions, BundledModels(made.bundles), made.clock
    )
    reports = ParityReports(made.serving.releases)
    return ParityChecks(Parity(made.features, served), made.alerts, reports.keep)


def statistics(made: Premises) -> FeatureStatistics:
    """Statistics of features, of what was written."""
    from falaj.features.statistics import FeatureStatistics

    def version_of(view: str) -> int:
        with made.database.reading() as connection:
            return made.definitions.version(connection, "feature_view", view).version

    return FeatureStatistics(made.features, version_of, made.clock)
