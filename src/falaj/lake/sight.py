"""What one caller sees of a table: which columns are masked, which rows are there, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from falaj.catalog.columns import ColumnLineage
from falaj.catalog.model import Classification, lowers
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden
from falaj.kernel.ports import Resource
from falaj.lake.filters import Condition, condition
from falaj.lake.masks import DEFAULT, How, Mask, column_key, masked

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.catalog.assets import Catalog
    from falaj.lake.readrules import ReadRule, ReadRules

May = Callable[[Call, str, Resource], bool]
"""True if the call's caller may do the named action on the resource, as it stands now."""
READ = "tables.read"
BUILT_IN = "built-in"
"""What stands for a rule's name where the policies alone hide a column."""


class SeenInPart(Forbidden):
    """Something needs all rows of a table, or a column in clear, and the caller sees less."""

    code = "seen-in-part"


@dataclass(frozen=True)
class Masked:
    """How a column is masked, and by which rules."""

    mask: Mask
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Filtered:
    """A rule that shows only some rows; without a condition, none that could be told apart."""

    rule: str
    condition: Condition | None


@dataclass(frozen=True)
class Sight:
    """What one caller sees of one table."""

    table: str
    masks: Mapping[str, Masked]
    """By column, in lower case."""
    filters: tuple[Filtered, ...]
    secret: Callable[[], bytes]
    """What hashes are keyed with."""

    @property
    def whole(self) -> bool:
        """True if nothing is masked and no row is missing."""
        return not (self.masks or self.filters)

    def told(self) -> dict[str, Any]:
        """For the audit record: which rules masked which columns, and which rules filtered."""
        return {
            "masked": {
                column: {"as": str(one.mask), "by": list(one.rules)}
                for column, one in sorted(self.masks.items())
            },
            "filtered_by": [one.rule for one in self.filters],
        }

    def where(
        self, call: Call, also: str | None, parameters: Mapping[str, Any] | None
    ) -> tuple[str | None, dict[str, Any]]:
        """The condition of a scan, and its parameters.

        Raises:
            SeenInPart: rows cannot be told apart by what the filters say.
        """
        parts, bound = [] if also is None else [f"({also}\n)"], dict(parameters or {})
        for one in self.filters:
            if one.condition is None:
                raise SeenInPart(
                    f"You may not read rows of {self.table!r}: the read rule {one.rule!r} shows"
                    " you some rows of what it was made of, and it cannot tell which are yours.",
                    hint="Read the table that it was made of, or ask an administrator.",
                )
            parts.append(f"({one.condition.text}\n)")
            bound |= one.condition.bound(call.caller)
        return " AND ".join(parts) or None, bound

    def seen(self, rows: pa.Table) -> pa.Table:
        """Rows as they came from the lake, with what is masked masked."""
        for place, name in enumerate(rows.column_names):
            found = self.masks.get(name.lower())
            if found is not None:
                hashed = found.mask.how is How.HASH
                key = column_key(self.secret(), self.table, name) if hashed else b""
                values = masked(rows.column(place), found.mask, key)
                rows = rows.set_column(place, rows.schema.field(place), values)
        return rows

    def check_order(self, columns: Iterable[str]) -> None:
        """Raise SeenInPart if rows shall be ordered by a column that is masked."""
        for column in columns:
            if column.lower() in self.masks:
                raise SeenInPart(
                    f"You see {column!r} of {self.table!r} masked: no rows are ordered by it.",
                    hint="Order by another column, or state a purpose and present a second factor.",
                )

    def check_clear(self, columns: Iterable[str] | None, todo: str) -> None:
        """Return if the caller sees all rows, and these columns (None: all) in clear.

        Args:
            columns: which.
            todo: what it is for, in the words of the refusal: ``train on``.

        Raises:
            SeenInPart: names what is masked or filtered, and by which rules.
        """
        wanted = None if columns is None else {name.lower() for name in columns}
        hidden = {
            column: one for column, one in self.masks.items() if wanted is None or column in wanted
        }
        if not hidden and not self.filters:
            return
        told = [f"the column{'s' if len(hidden) > 1 else ''} {', '.join(map(repr, sorted(hidden)))}"
                " masked"] if hidden else []  # fmt: skip
        told += ["some of its rows"] if self.filters else []
        rules = sorted({rule for one in hidden.values() for rule in one.rules}
                       | {one.rule for one in self.filters})  # fmt: skip
        raise SeenInPart(
            f"You may not {todo} table:{self.table} as you stand: you see {' and '.join(told)}.",
            hint="State a purpose and present a second factor (read rules: "
            f"{', '.join(rules)}), use a table without them, or ask an administrator.",
            seen=self.told(),
        )


class Sights:
    """Tells what callers see.

    Args:
        catalog: knows how secret columns are, and what they come from.
        rules: those in force.
        may: asks the policy.
        secret: gives what hashes are keyed with.
    """

    def __init__(
        self, catalog: Catalog, rules: ReadRules, may: May, secret: Callable[[], bytes]
    ) -> None:
        self._catalog = catalog
        self._rules = rules
        self._may = may
        self._secret = secret

    def of(self, call: Call, table: str, action: str = READ) -> Sight:
        """What the call's caller sees of a table now, who does an action with it."""
        lineage = ColumnLineage(self._catalog, call.connection)
        resource = self._catalog.load(call.connection, AssetRef("table", table))
        rules = self._rules.binding(call.connection, call.caller)
        masks = dict(self._hidden(call, action, resource, lineage))
        for column, one in self._ruled(rules, lineage, table):
            stands = masks.get(column)
            if stands is None or stands.rules == (BUILT_IN,):
                masks[column] = one
            else:
                masks[column] = Masked(stands.mask.together(one.mask), (*stands.rules, *one.rules))
        return Sight(table, masks, tuple(self._filters(rules, lineage, table)), self._secret)

    def _hidden(
        self, call: Call, action: str, resource: Resource, lineage: ColumnLineage
    ) -> Iterable[tuple[str, Masked]]:
        """The columns that the policies hide: whoever might not read the table if all of it
        were classified as a column is does not see that column."""
        own = resource.attributes.get("classification")
        known: dict[Classification, bool] = {}
        for column, level in lineage.classes(resource.ref.key).items():
            if own is not None and not lowers(level, own):
                continue  # the door has decided by the table's own, which is no lower
            if level not in known:
                as_secret = {**resource.attributes, "classification": str(level)}
                known[level] = self._may(call, action, Resource(resource.ref, as_secret))
            if not known[level]:
                yield column, Masked(DEFAULT, (BUILT_IN,))

    @staticmethod
    def _ruled(
        rules: Iterable[ReadRule], lineage: ColumnLineage, table: str
    ) -> Iterable[tuple[str, Masked]]:
        for rule in rules:
            if rule.mask is None:
                continue
            columns = {*lineage.known(table), *(name.lower() for name in rule.columns)}
            for column in sorted(columns):
                if any(
                    rule.is_about(of_table)
                    and rule.masks(name, lineage.classes(of_table).get(name))
                    for of_table, name in lineage.sources(table, column)
                ):
                    yield column, Masked(rule.mask, (rule.name,))

    @staticmethod
    def _filters(
        rules: Iterable[ReadRule], lineage: ColumnLineage, table: str
    ) -> Iterable[Filtered]:
        for rule in rules:
            if rule.rows is None:
                continue
            found = condition(rule.rows)
            if rule.is_about(table):
                yield Filtered(rule.name, found)
                continue
            for of_table in sorted(lineage.tables(table) - {table}):
                if rule.is_about(of_table):
                    yield Filtered(
                        rule.name, found if _unchanged(lineage, table, of_table, found) else None
                    )


def _unchanged(lineage: ColumnLineage, table: str, of_table: str, asked: Condition) -> bool:
    """True if a table holds the columns that a condition reads as another table has them: by
    the same names, and computed from nothing else."""
    for column in asked.columns:
        behind = lineage.sources(table, column)
        if (of_table, column) not in behind or any(name != column for _, name in behind):
            return False
    return bool(asked.columns)


__all__ = ["BUILT_IN", "Filtered", "Masked", "SeenInPart", "Sight", "Sights"]
