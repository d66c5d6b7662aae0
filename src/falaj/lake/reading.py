"""Rows as one caller may see them: the only way in which actions get rows of the lake.

Masks and filters are laid upon tables before anything is asked of them, so that an alias, an
order, a condition, a join or an aggregate works with what the caller may see and nothing
else. What was masked, and by which rules, stands in the audit record of the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import LimitExceeded
from falaj.lake.personal import rule_of
from falaj.lake.queries import table_names, with_inputs
from falaj.lake.sight import READ, Sight, Sights

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.kernel.call import Call
    from falaj.lake.ports import Lake

MOST_ROWS_IN_PART = 5_000_000
"""Rows of a table that a query may read of which its asker sees a part: they are copied."""


class GuardedLake:
    """Reads tables for a caller.

    It asks no policy whether the caller may read a table at all: the door has, or the action
    does. ``lake`` may be any lake; where it opens sealed cells, it opens them below this.

    Args:
        lake: holds the tables.
        sights: tells what callers see.
    """

    def __init__(self, lake: Lake, sights: Sights) -> None:
        self._lake = lake
        self._sights = sights

    def scan(
        self,
        call: Call,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        order_by: Sequence[str] | None = None,
        limit: int | None = None,
        snapshot: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """As ``Lake.scan``, as the caller sees it.

        ``where`` is the action's own: it is asked of the values as they are.

        Raises:
            SeenInPart: it would be ordered by a masked column, or rows that the caller sees
                cannot be told from others. And what ``Lake.scan`` raises.
        """
        sight = self._noted(call, table)
        sight.check_order(order_by or ())
        condition, bound = sight.where(call, where, parameters)
        rows = self._lake.scan(
            table,
            columns=columns,
            where=condition,
            order_by=order_by,
            limit=limit,
            snapshot=snapshot,
            parameters=bound or None,
        )
        return sight.seen(rows)

    def count(self, call: Call, table: str, snapshot: int | None = None) -> int:
        """The number of rows that the caller sees."""
        sight = self._sights.of(call, table)
        if not sight.filters:
            return self._lake.count(table, snapshot)
        condition, bound = sight.where(call, None, None)
        rule = rule_of(self._lake, table)
        sealed = {name for group in rule.groups for name in group.sealed} if rule else set()
        names = list(self._lake.schema(table, snapshot).names)
        clear = [name for name in names if name not in sealed]
        rows = self._lake.scan(
            table,
            columns=(clear or names)[:1],  # one column is enough, and one in clear opens nothing
            where=condition,
            snapshot=snapshot,
            parameters=bound or None,
        )
        return int(rows.num_rows)

    def count_of_all(self, call: Call, table: str, snapshot: int | None = None) -> int | None:
        """The number of rows of a table; None to a caller who sees some of them only."""
        filtered = self._sights.of(call, table).filters
        return None if filtered else self._lake.count(table, snapshot)

    def tables_of(self, sql: str) -> set[str]:
        """The lake tables that a query reads; raises QueryRefused."""
        return table_names(sql, self._lake.tables())

    def query(self, call: Call, sql: str, *, snapshot: int | None = None) -> pa.Table:
        """As ``Lake.query``, over the tables as the caller sees them.

        Raises:
            LimitExceeded: a table of which the caller sees a part is too large to be copied.
            And what ``Lake.query`` and ``scan`` raise.
        """
        inputs: dict[str, pa.Table] = {}
        names: dict[str, str] = {}
        at = self._lake.latest() if snapshot is None else snapshot
        for table in sorted(self.tables_of(sql)):
            sight = self._noted(call, table)
            if sight.whole:
                continue
            if self._lake.count(table, at) > MOST_ROWS_IN_PART:
                raise LimitExceeded(
                    f"You see a part of {table!r}, and it is too large for a query over parts.",
                    hint="Read it by `falaj tables read`, or state a purpose and present a second"
                    " factor.",
                )
            names[table] = f"seen_part_{len(names)}"
            condition, bound = sight.where(call, None, None)
            rows = self._lake.scan(table, where=condition, snapshot=at, parameters=bound or None)
            inputs[names[table]] = sight.seen(rows)
        text = with_inputs(sql, names) if names else sql
        return self._lake.query(text, inputs=inputs or None, snapshot=at)

    def check_clear(
        self,
        call: Call,
        table: str,
        columns: Iterable[str] | None,
        *,
        todo: str,
        action: str = READ,
    ) -> None:
        """Return if the caller sees all rows of a table, and these columns of it in clear.

        For what computes with values: masks are for eyes.

        Args:
            columns: which; None for all of them.
            todo: in the words of the refusal: ``train on``.
            action: that the policy is asked about.

        Raises:
            SeenInPart: it does not; names the columns and the rules.
        """
        self._noted(call, table, action).check_clear(columns, todo)

    def hidden(self, call: Call, table: str, columns: Iterable[str]) -> set[str]:
        """Those of some columns of a table that the caller does not see in clear, or not of
        all rows."""
        sight = self._noted(call, table)
        return {name for name in columns if sight.filters or name.lower() in sight.masks}

    def _noted(self, call: Call, table: str, action: str = READ) -> Sight:
        """What the caller sees, which its audit record tells if it is not all."""
        sight = self._sights.of(call, table, action)
        if not sight.whole:
            seen = dict(call.notes.get("seen_in_part", {}))
            call.note(seen_in_part={**seen, table: sight.told()})
        return sight


__all__ = ["GuardedLake"]
