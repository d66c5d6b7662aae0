"""Alerts of checks that fail and used to pass."""

from __future__ import annotations

from collections.abc import Sequence

from falaj.ingest import history
from falaj.ingest.checks import Severity
from falaj.ingest.model import CheckResult, Contract
from falaj.kernel.call import Call
from falaj.operations.alerts import Alerts
from falaj.operations.model import Severity as Matters

_MATTERS = {
    Severity.WARN: Matters.INFO,
    Severity.QUARANTINE: Matters.WARNING,
    Severity.FAIL: Matters.WARNING,
}
_MOST_CHARACTERS = 300


class FailingChecks:
    """Raises one alert for each check of a contract that fails and has passed before.

    A check that never passed is a contract that is not kept yet: who applies it sees its
    results, and nobody is called. While an alert is open, each further failure counts in it.

    Args:
        alerts: where they are raised; None raises none.
    """

    def __init__(self, alerts: Alerts | None) -> None:
        self._alerts = alerts

    def alert(
        self, call: Call, contracts: Sequence[Contract], results: Sequence[CheckResult]
    ) -> list[str]:
        """Raise what must be, before the results are recorded; the ids of the alerts.

        Args:
            call: in whose transaction.
            contracts: those that are declared; results of others raise nothing.
            results: of the checks.
        """
        if self._alerts is None:
            return []
        declared = {contract.name: contract for contract in contracts}
        failed = [r for r in results if not r.passed and r.contract in declared]
        raised = []
        for result in failed:
            contract = declared[result.contract]
            if not history.has_passed(call.connection, contract, result.check):
                continue
            label = result.check[:_MOST_CHARACTERS]
            alert = self._alerts.raise_alert(
                call,
                name=f"contract.{contract.name}:{label}",
                subject=contract.ref,
                severity=_MATTERS[result.severity],
                message=f"{contract.table} breaks {label}: {told(result)}.",
                evidence=result.model_dump(mode="json", exclude={"examples"})
                | {"table": contract.table},
            )
            raised.append(alert.id)
        if raised:
            call.note(alerts=raised)
        return raised


def told(result: CheckResult) -> str:
    """What a check found, and what was expected, in words."""
    if not result.measured:
        return f"{result.n_violations} of {result.n_rows} rows ({result.share:.2%})"
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", result.low), ("at most", result.high))
        if bound is not None
    ]
    return result.measured + (f", expected {' and '.join(bounds)}" if bounds else "")
