"""Alerts of checks that fail and used to pass, and their end when the check passes again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.ingest import history
from falaj.ingest.checks import Freshness, Severity
from falaj.ingest.model import CheckResult, Contract
from falaj.kernel.call import Call
from falaj.kernel.errors import Conflict
from falaj.operations.alerts import Alerts
from falaj.operations.model import AlertState
from falaj.operations.model import Severity as Matters

if TYPE_CHECKING:
    from falaj.operations.model import Alert

_MATTERS = {
    Severity.WARN: Matters.INFO,
    Severity.QUARANTINE: Matters.WARNING,
    Severity.FAIL: Matters.WARNING,
}
_MOST_CHARACTERS = 300
_MOST_OF_NAME = 100
_BY_TABLE = "whole_table"
"""Where the evidence says whether a look at the whole table found it."""


@dataclass(frozen=True)
class Look:
    """What held rows to contracts.

    Args:
        id: of the load or the check, for the record.
        whole: its rows are the whole table as it stands now.
        stands: its rows are in the table; False of a load that was refused.
    """

    id: str
    whole: bool
    stands: bool = True


class FailingChecks:
    """Raises one alert for each check of a contract that fails and has passed before, and ends
    it when the check passes again.

    A check that never passed is a contract that is not kept yet: who applies it sees its
    results, and nobody is called. While an alert is open, each further failure counts in it.

    A load that appends tells of its own rows, and a check of the table (or a load that replaces
    it) of all of them. So what a load found ends with the next one that passes; what was found
    in the whole table ends with a look at the whole table only, for a load whose rows are well
    mends no older row. A table that was too old is fresh with its next load. Nothing ends by
    rows that were not there; an alert of a check that the contract has no more ends, too.

    Args:
        alerts: where they are raised; None raises none.
    """

    def __init__(self, alerts: Alerts | None) -> None:
        self._alerts = alerts

    def follow(
        self, call: Call, contracts: Sequence[Contract], results: Sequence[CheckResult], look: Look
    ) -> None:
        """Raise and end what must be, before the results are recorded.

        Args:
            call: in whose transaction.
            contracts: those that are declared; results of others raise and end nothing.
            results: of all checks of these contracts.
            look: which rows they are of.
        """
        if self._alerts is None:
            return
        raised: list[str] = []
        ended: list[str] = []
        for contract in contracts:
            mine = [one for one in results if one.contract == contract.name]
            standing = {one.name: one for one in self._alerts.about(call.connection, contract.ref)}
            for result in mine:
                if result.passed or not history.has_passed(call.connection, contract, result.check):
                    continue
                before = standing.get(_name(contract, result.check))
                whole = look.whole or (before is not None and _of_whole_table(before))
                raised.append(_raise(self._alerts, call, contract, result, whole=whole))
            for alert, words in _over(contract, mine, list(standing.values()), look):
                if self._resolved(call, alert, words):
                    ended.append(alert.id)
        if raised:
            call.note(alerts=raised)
        if ended:
            call.note(alerts_ended=ended)

    def _resolved(self, call: Call, alert: Alert, words: str) -> bool:
        """Resolve an alert; False if somebody has since it was read, which is as well: the
        rows are in the lake, and what tells of them must be recorded."""
        assert self._alerts is not None  # noqa: S101 - follow has looked
        try:
            self._alerts.resolve(call, alert.id, words)
        except Conflict:
            if self._alerts.get(call.connection, alert.id).state is not AlertState.RESOLVED:
                raise
            return False
        return True


def _raise(
    alerts: Alerts, call: Call, contract: Contract, result: CheckResult, *, whole: bool
) -> str:
    found = result.model_dump(mode="json", exclude={"examples"})
    label = result.check[:_MOST_CHARACTERS]
    return alerts.raise_alert(
        call,
        name=_name(contract, result.check),
        subject=contract.ref,
        severity=_MATTERS[result.severity],
        message=f"{contract.table} breaks {label}: {told(result)}.",
        evidence=found | {"table": contract.table, _BY_TABLE: whole},
    ).id


def _over(
    contract: Contract, results: Sequence[CheckResult], standing: Sequence[Alert], look: Look
) -> list[tuple[Alert, str]]:
    """The standing alerts that are over by what was found, and why."""
    failing = {_name(contract, one.check) for one in results if not one.passed}
    found = {_name(contract, one.check): one for one in results if one.n_rows}
    checks = {_name(contract, check.label): check for check in contract.checks}
    over = []
    for alert in standing:
        if not alert.name.startswith(f"contract.{contract.name}:"):
            continue  # somebody else's, about the same contract
        if alert.name not in checks:
            words = f"The contract {contract.name} has no check of this name any more ({look.id})."
            over.append((alert, words))
            continue
        renewed = look.stands and isinstance(checks[alert.name], Freshness)
        tells = look.whole or renewed or not _of_whole_table(alert)
        if tells and alert.name in found and alert.name not in failing:
            result = found[alert.name]
            label = result.check[:_MOST_CHARACTERS]
            over.append((alert, f"{look.id} passed {label}: {told(result)}."))
    return over


def _of_whole_table(alert: Alert) -> bool:
    """True if a look at the whole table found it; also where that is not known."""
    return bool(alert.evidence.get(_BY_TABLE, True))


def _name(contract: Contract, check: str) -> str:
    """The name of a check's alerts; a longer one is cut and told apart by its hash."""
    name = f"contract.{contract.name}:{check}"
    if len(name) <= _MOST_OF_NAME:
        return name
    told_apart = hashlib.sha256(check.encode()).hexdigest()[:8]
    return f"{name[: _MOST_OF_NAME - 9]}~{told_apart}"


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
