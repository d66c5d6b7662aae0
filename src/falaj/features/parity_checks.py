"""Parity checks with their consequences: a record, an event, and an alert when they break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from falaj.features import parity_records
from falaj.features.model import FeatureService
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.operations.model import Severity

if TYPE_CHECKING:
    from falaj.features.answers import ParityReport
    from falaj.features.parity import Parity
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts

ALERT = "features.parity"
SYSTEM = "system:parity"
Told = Callable[["Call", "ParityReport", str], object]
"""Is told of each report that was kept, with its id, in the transaction that keeps it."""
ROWS = 200
"""How many requests of each service the house checks at a time."""


class ParityChecks:
    """Measures parity, keeps what was found, and raises alerts.

    Args:
        parity: measures.
        alerts: are raised when something differs; without them nobody is told.
        told: see its type.
    """

    def __init__(self, parity: Parity, alerts: Alerts | None, told: Told | None = None) -> None:
        self._told = told
        self._parity = parity
        self._alerts = alerts

    def checked(
        self,
        call: Call,
        service: str,
        n: int,
        *,
        at: datetime | None = None,
        seed: int = 0,
    ) -> ParityReport:
        """Check a service (see ``Parity.checked``) and keep the report.

        Of a service of personal or sensitive views, no examples are told or kept.
        """
        return self.kept(call, self.measured(service, n, at=at, seed=seed))

    def measured(
        self, service: str, n: int, *, at: datetime | None = None, seed: int = 0
    ) -> ParityReport:
        """What a check of a service finds; keeps nothing."""
        report = self._parity.checked(service, n, at=at, seed=seed)
        sealed = any(use.plan.sealed for use in self._parity.store.plan(service).views)
        return report.without_values() if sealed else report

    def kept(self, call: Call, report: ParityReport) -> ParityReport:
        """Keep a report; tell those whom it concerns if something differs."""
        parity_id = parity_records.keep(call, report)
        call.note(parity=parity_id, n_values=report.n_values, n_mismatches=report.n_mismatches)
        if self._told is not None:
            self._told(call, report, parity_id)
        if report.agrees:
            return report
        call.emit("features.parity_broken", service=report.service, by_feature=report.by_feature)
        if self._alerts is not None:
            worst = max(report.by_feature, key=lambda name: report.by_feature[name])
            self._alerts.raise_alert(
                call,
                name=ALERT,
                subject=AssetRef(FeatureService.kind, report.service),
                severity=Severity.WARNING,
                message=f"{report.n_mismatches} of {report.n_values} values of {report.service}"
                f" differ online and offline, most of them of {worst}.",
                evidence={"parity": parity_id, "by_feature": report.by_feature},
            )
        return report

    def services(self) -> Sequence[str]:
        """The names of all feature services."""
        return [one.name for one in self._parity.store.definitions.all(FeatureService.kind)]

    def all_checked(self, calls: Calls, *, seed: int) -> int:
        """Check every service, each in a transaction of its own; returns how many.

        A service that cannot be checked is logged, and keeps no other from being checked.
        """
        done = 0
        for service in self.services():
            try:
                report = self.measured(service, ROWS, seed=seed)
                with calls.opened(
                    "features.parity", SYSTEM, resource=f"feature_service:{service}"
                ) as call:
                    self.kept(call, report)
            except FalajError as error:
                logger(__name__).warning("parity not checked", service=service, error=str(error))
            else:
                done += 1
        return done
