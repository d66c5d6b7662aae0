"""Contracts whose whole tables are checked by a schedule; see ``operations.scheduled``.

When its time has come, a job asks the door for ``contracts.check`` as whoever applied the
contract, with a key made of the time, and the job that this begins is waited for in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.ingest.model import SCHEDULED_JOB, Contract, ContractCheck, ContractSchedule
from falaj.ingest.tables import contract_checks
from falaj.operations.model import Severity
from falaj.operations.scheduled import Asking, ScheduledChecks, Watched, failed_in_a_row
from falaj.operations.scheduled_model import CheckSchedule, CheckState

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Definitions
    from falaj.kernel.call import AssetRef
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun, Jobs
    from falaj.operations.alerts import Alerts

_ASKED = "asked"
MOST_TOLD = 20
"""Of so many looks the listing tells how many checks failed."""


def _schedule(definition: Definition) -> CheckSchedule | None:
    return definition.schedule if isinstance(definition, Contract) else None


def _about(definition: Definition) -> tuple[AssetRef, Severity]:
    return definition.ref, Severity.WARNING


def _next_job(result: Any) -> str | None:
    return str(result[_ASKED]) if isinstance(result, dict) and _ASKED in result else None


def _kept(result: Any) -> dict[str, Any]:
    """What stands in the row of a check: what each of its checks found has records of its own."""
    broken = sum(not one["passed"] for one in result["results"])
    return {"check": result["check"], "passed": result["passed"], "broken": broken}


WATCHED = Watched(
    kind=Contract.kind,
    actions="contracts",
    rows=contract_checks,
    look=ContractCheck,
    job=SCHEDULED_JOB,
    schedule=_schedule,
    about=_about,
    state=lambda _result: CheckState.DONE,
    kept=_kept,
    next_job=_next_job,
)


class ContractSchedules(ScheduledChecks[ContractCheck]):
    """Begins the checks of contracts that are due, and keeps what became of them.

    Args:
        calls, jobs, definitions, alerts: see ``ScheduledChecks``.
    """

    def __init__(self, calls: Calls, jobs: Jobs, definitions: Definitions, alerts: Alerts) -> None:
        super().__init__(calls, jobs, definitions, alerts, WATCHED)

    def listed(self, connection: Connection) -> list[ContractSchedule]:
        """The contracts that have a schedule, by name."""
        found, now = [], self._calls.now()
        for version, contract, schedule in self.scheduled(connection):
            assert isinstance(contract, Contract)  # noqa: S101 - its kind says so
            limit = max(schedule.alert_after + 1, MOST_TOLD)
            newest = self.newest(connection, version.name, limit=limit, until=now)
            done = [one.result for one in newest if one.result is not None]
            found.append(
                ContractSchedule(
                    contract=version.name,
                    table=contract.table,
                    schedule=schedule,
                    principal=version.by,
                    next_at=schedule.after(now),
                    last=newest[0] if newest else None,
                    n_failed=failed_in_a_row(newest),
                    broken=[int(one["broken"]) for one in done[:MOST_TOLD]],
                )
            )
        return sorted(found, key=lambda one: one.contract)


class ScheduledCheckJob:
    """Handles ``contracts.check-by-schedule``; arguments ``contract`` and ``tick``.

    Args:
        asking: asks the door as whoever applied the contract.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for the check; returns the id of its job. The same time is asked for once."""
        contract, tick = str(arguments["contract"]), str(arguments["tick"])
        ask = self._asking(job.submitted_by)
        asked = ask("contracts.check", [contract], {}, f"contract-check:{contract}:{tick}")
        return {_ASKED: asked["id"]}
