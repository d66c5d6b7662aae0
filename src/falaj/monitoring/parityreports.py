"""Parity as a report of monitoring: what the checks of the feature store found, by endpoint.

The feature store checks that what is served is what models are trained on. Each check is kept here
too, as a report of every endpoint that is served from the checked service, with the shares
of the checks before it: so it stands in one list with drift and performance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.features.parity_records import history
from falaj.kernel.ids import new_id
from falaj.monitoring.tables import keep_report

if TYPE_CHECKING:
    from falaj.features.answers import ParityReport
    from falaj.kernel.call import Call
    from falaj.serving.releases import Releases

PARITY = "parity"
BEFORE = 20
"""So many earlier checks does a report tell the trend of."""


class ParityReports:
    """Keeps the checks of the feature store as reports.

    Args:
        releases: tell which endpoints a feature service serves.
    """

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    def keep(self, call: Call, report: ParityReport, parity: str) -> list[str]:
        """Keep a check as a report of each endpoint that its service feeds; returns their ids.

        Args:
            call: of the check.
            report: what it found; its examples are not copied.
            parity: the id of the check's own record.
        """
        document = report.model_dump(mode="json", exclude={"examples"})
        document |= {"parity": parity, "share": _share(report), "trend": _trend(call, report)}
        kept = []
        for endpoint in self._fed(call, report.service):
            row = {
                "id": new_id("report"),
                "kind": PARITY,
                "endpoint": endpoint,
                "monitor": None,
                "at": call.now,
                "by": call.principal.id,
                "document": document,
            }
            keep_report(call.connection, **row)
            kept.append(str(row["id"]))
        return kept

    def _fed(self, call: Call, service: str) -> list[str]:
        found = []
        for one in self._releases.listed(call.connection):
            active = self._releases.active(call.connection, one.name)
            if active is not None and active.feature_service == service:
                found.append(one.name)
        return found


def _share(report: ParityReport) -> float:
    """Of the compared values, those that differed."""
    return report.n_mismatches / report.n_values if report.n_values else 0.0


def _trend(call: Call, report: ParityReport) -> list[dict[str, Any]]:
    """The checks of the service up to this one, the oldest first."""
    kept = history(call.connection, report.service, limit=BEFORE)
    return [
        {"at": one.at.isoformat(), "share": _share(one.report), "source": str(one.report.source)}
        for one in reversed(kept)
    ]
