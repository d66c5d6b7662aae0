"""The actions of contracts: checks of whole tables, and what checks found over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from falaj.catalog.residency import Stays, anywhere
from falaj.ingest import history
from falaj.ingest.model import (
    CHECK_JOB,
    Contract,
    ContractCheck,
    ContractSchedule,
    TrendPoint,
)
from falaj.ingest.readable import Asked, anybody
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import Job, Jobs
from falaj.lake.service import TABLE

if TYPE_CHECKING:
    from falaj.ingest.scheduled import ContractSchedules
    from falaj.ingest.tablechecks import TableChecks

MOST_POINTS = 5000
May = Callable[[Call, str, AssetRef], bool]
"""True if a caller may do an action on an asset."""


class ContractService(Service):
    """Contracts: what must be true of a table's rows, and whether it was, over time."""

    name: ClassVar[str] = "contracts"

    def __init__(
        self,
        jobs: Jobs,
        checks: TableChecks,
        schedules: ContractSchedules,
        may: May,
        stays: Stays = anywhere,
        asked: Asked = anybody,
    ) -> None:
        self._jobs = jobs
        self._checks = checks
        self._schedules = schedules
        self._may = may
        self._stays = stays
        self._asked = asked

    @action(post="/contracts/{contract}/checks", on="contract")
    def check(self, contract: str) -> Job:
        """Hold the table as it stands to a contract; what used to pass and fails alerts.

        Whoever asks must be able to read rows of the table, and all that its foreign keys name.
        """
        found = self._checks.contract(self.call.connection, contract)
        self._asked(self.call, [found])
        self._stays(self.call.connection, "lake", [found.ref, AssetRef(TABLE, found.table)])
        return self._jobs.submit(self.call, CHECK_JOB, {"contract": found.name})

    @action(get="/contract-schedules")
    def schedules(self) -> Sequence[ContractSchedule]:
        """List the contracts that are checked by a schedule: as whom, when next, how it went."""
        listed = self._schedules.listed(self.call.connection)
        kind = Contract.kind
        return [
            one for one in listed
            if self._may(self.call, "assets.get", AssetRef(kind, one.contract))
        ]  # fmt: skip

    @action(get="/contracts/{contract}/checks", on="contract")
    def checks(self, contract: str, *, limit: int = 50) -> Sequence[ContractCheck]:
        """List the checks that a contract's schedule asked for, the newest first.

        Args:
            contract: which one.
            limit: of checks.
        """
        if not 1 <= limit <= MOST_POINTS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_POINTS}.")
        return self._schedules.checks(self.call.connection, contract, limit=limit)

    @action(get="/contracts/{contract}/history", on="contract")
    def history(
        self, contract: str, *, check: str | None = None, limit: int = 200
    ) -> Sequence[TrendPoint]:
        """What the checks of a contract measured at each load and check, the newest first.

        Args:
            contract: which one.
            check: only checks whose words hold this, such as a column's name.
            limit: of results.
        """
        if not 1 <= limit <= MOST_POINTS:
            raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_POINTS}.")
        found = self._checks.contract(self.call.connection, contract)
        return history.trend(self.call.connection, found, check=check, limit=limit)
