"""Tells people that the prediction log took fewer rows than were answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.operations.model import Severity

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.operations.alerts import Alerts

ALERT, SYSTEM = "prediction_log.unlogged", "system:log"


class UnloggedAlarm:
    """Raises an alert for each endpoint that answered rows which the full log did not take.

    Args:
        endpoints: names those that there are.
        unlogged: how many rows of an endpoint were not taken, since it is counted.
        alerts: where it is told.
        calls: opens the transactions.
    """

    def __init__(
        self,
        endpoints: Callable[[], Sequence[str]],
        unlogged: Callable[[str], int],
        alerts: Alerts,
        calls: Calls,
    ) -> None:
        self._endpoints = endpoints
        self._unlogged = unlogged
        self._alerts = alerts
        self._calls = calls
        self._seen: dict[str, int] = {}

    def run_once(self) -> list[str]:
        """Look once; returns the endpoints of which rows were lost since the last look."""
        found = []
        for endpoint in self._endpoints():
            n = self._unlogged(endpoint)
            known = self._seen.setdefault(endpoint, n)
            self._seen[endpoint] = n
            if n <= known:
                continue
            with self._calls.opened(
                "endpoints.log", SYSTEM, resource=f"endpoint:{endpoint}"
            ) as call:
                self._alerts.raise_alert(
                    call,
                    name=ALERT,
                    subject=AssetRef("endpoint", endpoint),
                    severity=Severity.WARNING,
                    message=f"{n - known} predictions of {endpoint} were answered and not "
                    "logged: the log is full.",
                    evidence={"unlogged": n - known, "in_all": n},
                )
            found.append(endpoint)
        return found
