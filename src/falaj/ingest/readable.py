"""Who may have rows held to a contract: what a check tells of a table is told of its rows.

A foreign key tells of each value whether it stands in a column of another table. Whoever asks
must be able to read that column, all of it and in clear: who applies the contract, for that is
who chooses the question, and who has it asked, by a load or a check.

Of the contract's own table a check tells numbers of rows and no value of persons. But how many
rows break a bound that somebody chose may tell whose they are: who applies a contract that
bounds values of persons must be able to read them. Who has it asked later chooses nothing, so that
a purpose and a second factor, which no schedule has, are not asked for; but whoever may read no
row of a table may not have it checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from falaj.catalog.columns import OF_PEOPLE
from falaj.ingest.checks import (
    Between,
    Expression,
    ForeignKey,
    InSet,
    Length,
    Matches,
    NotInSet,
    Statistic,
)
from falaj.ingest.model import Contract
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, NotFound
from falaj.kernel.ports import Resource
from falaj.lake.queries import columns_of_expression

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.lake.reading import GuardedLake

TABLE = "table"
READ = "tables.read"
ROW = "r"
"""What an expression may call the row as a whole."""
_BOUNDING = (Between, InSet, NotInSet, Matches, Length, ForeignKey)
May = Callable[[Call, str, Resource], bool]
"""True if the call's caller may do the named action on the resource, as it stands now."""
Asked = Callable[[Call, Sequence[Contract]], None]
"""Return if the caller may have rows held to these contracts; raises Forbidden."""


def anybody(_call: Call, _contracts: Sequence[Contract]) -> None:
    """Where there are no policies, everybody may have rows held to contracts."""


class ContractSight:
    """Refuses contracts that ask about what a caller may not read.

    Args:
        may: asks the policy.
        load: a table as the policy is asked about it.
        guarded: makes the lake as each caller sees it; it is not opened without need.
    """

    def __init__(
        self,
        may: May,
        load: Callable[[Connection, AssetRef], Resource],
        guarded: Callable[[], GuardedLake],
    ) -> None:
        self._may = may
        self._load = load
        self._guarded = guarded

    def check_applied(self, call: Call, contract: Contract) -> None:
        """Return if the caller may read what the contract's foreign keys name, and the values
        of persons that it bounds.

        Another table that is not there yet is judged when rows are held to the contract.

        Raises:
            Forbidden, SeenInPart: it may not.
        """
        own = self._load(call.connection, AssetRef(TABLE, contract.table))
        bounded = _bounded(contract)
        if own.exists and (bounded is None or bounded):
            if own.attributes.get("classification") in OF_PEOPLE and not self._may(call, READ, own):
                raise Forbidden(
                    f"You may not read table:{contract.table}, whose values the contract"
                    f" {contract.name!r} bounds, as you stand.",
                    hint="Personal data needs a purpose and a fresh second factor.",
                )
            self._guarded().check_clear(call, contract.table, bounded, todo="bound values of")
        for check in _foreign(contract):
            if self._load(call.connection, AssetRef(TABLE, check.table)).exists:
                self._foreign_column(call, check)

    def check_loaded(self, call: Call, contracts: Sequence[Contract]) -> None:
        """Return if the caller may have rows that it brings held to these contracts.

        Raises:
            Forbidden, SeenInPart: it may not read what a foreign key names.
            NotFound: there is no such table.
        """
        for contract in contracts:
            for check in _foreign(contract):
                self._foreign_column(call, check)

    def check_held(self, call: Call, contracts: Sequence[Contract]) -> None:
        """Return if the caller may have the rows of these contracts' tables held to them.

        Raises:
            Forbidden, SeenInPart: it may read no row of such a table, or not all of what a
                foreign key names.
            NotFound: a foreign key names a table that there is not.
        """
        for table in sorted({one.table for one in contracts}):
            found = self._load(call.connection, AssetRef(TABLE, table))
            said = {name: value for name, value in found.attributes.items()
                    if name != "classification"}  # fmt: skip
            if not self._may(call, READ, Resource(found.ref, said)):
                raise Forbidden(
                    f"You may not read table:{table}, and so not have it checked.",
                    hint="Ask somebody who may read its rows.",
                )
        self.check_loaded(call, contracts)

    def _foreign_column(self, call: Call, check: ForeignKey) -> None:
        resource = self._load(call.connection, AssetRef(TABLE, check.table))
        if not resource.exists:  # nobody knows who may read it
            raise NotFound(
                f"The check {check.label} names the table {check.table!r}, which there is not.",
                hint="Load that table first.",
            )
        if not self._may(call, READ, resource):
            raise Forbidden(
                f"You may not read table:{check.table}, which {check.label} asks about, as you"
                " stand.",
                hint="Personal data needs a purpose and a fresh second factor.",
            )
        self._guarded().check_clear(
            call, check.table, [check.to_column], todo="hold rows to foreign keys of"
        )


def _bounded(contract: Contract) -> set[str] | None:
    """The columns whose values the checks compare with what was chosen; None: maybe all."""
    found: set[str] = set()
    for check in contract.checks:
        if isinstance(check, Expression):
            named = columns_of_expression(check.sql)
            if named is None or ROW in named:
                return None
            found |= named
        elif isinstance(check, _BOUNDING) or (
            isinstance(check, Statistic) and check.of != "null_share"
        ):
            found.add(check.column)
    return found


def _foreign(contract: Contract) -> list[ForeignKey]:
    return [check for check in contract.checks if isinstance(check, ForeignKey)]


__all__ = ["Asked", "ContractSight", "anybody"]
