"""The actions of ingest: loading sources, and what their contracts found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.catalog.residency import Stays, anywhere
from falaj.ingest import history
from falaj.ingest.model import CheckResult, Example, LoadReport
from falaj.ingest.readable import Asked, anybody
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import Job, Jobs
from falaj.lake.service import TABLE

if TYPE_CHECKING:
    from falaj.ingest.pipelines import Loading

LOAD = "ingest.load"
MOST_RESULTS = 1000

Loads = list[LoadReport]
Results = list[CheckResult]


class SourceService(Service):
    """Sources of data: loading them, checking their contracts."""

    name = "sources"

    def __init__(
        self,
        jobs: Jobs,
        loading: Loading,
        stays: Stays = anywhere,
        loaded: Asked = anybody,
        held: Asked = anybody,
    ) -> None:
        self._jobs = jobs
        self._loaded = loaded
        self._held = held
        self._stays = stays
        self._loading = loading

    @action(post="/sources/{source}/loads", on="source")
    def load(self, source: str, *, again: bool = False) -> Job:
        """Load a source's files into its table; files that were loaded before change nothing.

        ``again`` appends files that were loaded under an earlier definition.
        """
        found = self._loading.source(self.call.connection, source)
        refs = [found.ref, AssetRef(TABLE, found.table)]
        self._stays(self.call.connection, "lake", refs)
        self._loaded(self.call, self._loading.contracts_of(self.call.connection, found.table))
        return self._jobs.submit(self.call, LOAD, {"source": found.name, "again": again})

    @action(get="/sources/{source}/loads", on="source")
    def loads(self, source: str, *, limit: int = 50) -> Loads:
        """The loads of a source, the newest first."""
        found = self._loading.source(self.call.connection, source)
        return history.listed(self.call.connection, found.name, _limited(limit))

    @action(post="/sources/{source}/checks", on="source")
    def check(self, source: str) -> Results:
        """Hold the rows that stand in the source's table to its contracts, and record it."""
        connection = self.call.connection
        found = self._loading.source(connection, source)
        contracts = self._loading.contracts_of(connection, found.table)
        self._held(self.call, contracts)
        show = self._loading.may_show(connection, found)
        results = self._loading.check(found, contracts, show_values=show) if contracts else []
        history.record_results(self.call, new_id("load"), found.table, results)
        self.call.note(checks=len(results), broken=sum(not one.passed for one in results))
        return results

    @action(get="/sources/{source}/results", on="source")
    def results(self, source: str, *, limit: int = 100) -> Results:
        """The newest results of the source's contracts, with examples of violating rows."""
        found = self._loading.source(self.call.connection, source)
        kept = history.results(self.call.connection, found.table, _limited(limit))
        if self._loading.may_show(self.call.connection, found):
            return kept
        return [one.model_copy(update={"examples": _without_values(one)}) for one in kept]


def _without_values(result: CheckResult) -> list[Example]:
    """The examples without values: they were kept before a column became personal."""
    return [one.model_copy(update={"values": None}) for one in result.examples]


def _limited(limit: int) -> int:
    if not 1 <= limit <= MOST_RESULTS:
        raise InvalidInput(f"limit is {limit}; it is between 1 and {MOST_RESULTS}.")
    return limit
