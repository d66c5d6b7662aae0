"""The actions of contracts: checks of whole tables, and what checks found over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from falaj.catalog.residency import Stays, anywhere
from falaj.ingest import history
from falaj.ingest.model import CHECK_JOB, TrendPoint
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import Job, Jobs
from falaj.lake.service import TABLE

if TYPE_CHECKING:
    from falaj.ingest.tablechecks import TableChecks

MOST_POINTS = 5000


class ContractService(Service):
    """Contracts: what must be true of a table's rows, and whether it was, over time."""

    name: ClassVar[str] = "contracts"

    def __init__(self, jobs: Jobs, checks: TableChecks, stays: Stays = anywhere) -> None:
        self._jobs = jobs
        self._checks = checks
        self._stays = stays

    @action(post="/contracts/{contract}/checks", on="contract")
    def check(self, contract: str) -> Job:
        """Hold the table as it stands to a contract; what used to pass and fails alerts."""
        found = self._checks.contract(self.call.connection, contract)
        self._stays(self.call.connection, "lake", [found.ref, AssetRef(TABLE, found.table)])
        return self._jobs.submit(self.call, CHECK_JOB, {"contract": found.name})

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
