"""Whether the engine may work on rows as they are stored, or must be given opened ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from falaj.kernel.errors import InvalidInput
from falaj.lake.personal import PersonalGroup, PersonalRule
from falaj.lake.queries import Column, origins_of_query, tells_rows_apart
from falaj.lake.sealedrows import HIDDEN, Layout, clear_schema, layouts_of

_REACHING = re.compile(r'\bselect\b|\bcolumns\b|u&"|\*|' + HIDDEN)
"""What reaches columns that a condition does not name, or other tables."""
_WORD = re.compile(r"[a-z0-9_]+")


class Stored:
    """A table with hidden columns at a snapshot: what a read needs of it.

    Args:
        table: its name.
        schema: as it is stored.
    """

    def __init__(self, table: str, schema: pa.Schema) -> None:
        self.table = table
        self.clear = clear_schema(schema)
        self.layouts = layouts_of(schema)
        self._personal = {name.lower() for layout in self.layouts for name in layout.columns}

    def is_clear(self, names: Iterable[str]) -> bool:
        """True if these columns are there, under exactly these names, and none is personal."""
        return all(
            name in self.clear.names and name.lower() not in self._personal for name in names
        )

    def knows(self, names: Iterable[str]) -> bool:
        """True if the columns are there, under exactly these names."""
        return all(name in self.clear.names for name in names)

    def is_clear_condition(self, where: str | None) -> bool:
        """True if a condition can only be about columns that stand in clear.

        Whatever spells a personal column, the table itself (its row as a whole), a hidden
        column, or a way to reach columns without their names, is taken to be about them.
        """
        if where is None:
            return True
        said = where.lower()
        words = set(_WORD.findall(said))
        return not _REACHING.search(said) and not words & {self.table, *self._personal}

    def needed(self, columns: Sequence[str]) -> list[str]:
        """Which stored columns give these columns."""
        return [*columns, *(layout.name for layout in self._of(columns))]

    def _of(self, columns: Sequence[str]) -> list[Layout]:
        wanted = {name.lower() for name in columns}
        return [one for one in self.layouts if wanted & {name.lower() for name in one.columns}]


def derived_rule(
    sql: str,
    table: str,
    columns: Sequence[str],
    rules: Sequence[PersonalRule],
    known: Mapping[str, Collection[str]],
) -> PersonalRule | None:
    """The rule of a query's answer; see ``PersonalRules.rule_of_query``.

    Args:
        rules: of the tables that it reads.
        known: the columns of each table that it reads.
    """
    origins = origins_of_query(sql, known)
    everything = {(one, name.lower()) for one, names in known.items() for name in names}
    behind = {name: origins.get(name.lower(), everything) for name in columns}
    owners = {
        (rule.table, name.lower()): group
        for rule in rules
        for group in rule.groups
        for name in group.sealed
    }
    personal = {
        name: [owners[one] for one in sorted(made_of) if one in owners]
        for name, made_of in behind.items()
    }
    personal = {name: groups for name, groups in personal.items() if groups}
    if not personal:
        return None
    apart = tells_rows_apart(sql)
    subjects: dict[str, PersonalGroup] = {}
    for rule in rules:
        for group in rule.groups:
            if apart and _is_exactly(behind.get(group.subject), rule.table, group.subject):
                subjects.setdefault(group.subject, group)
    shares: dict[str, list[str]] = {subject: [] for subject in subjects}
    for name, groups in personal.items():
        if name in subjects:
            continue
        owner = next((one.subject for one in groups if one.subject in subjects), None)
        if owner is None:
            raise _without_subject(name, groups)
        shares[owner].append(name)
    return PersonalRule(
        table=table,
        groups=tuple(
            group.model_copy(update={"columns": tuple(shares[subject])})
            for subject, group in subjects.items()
        ),
    )


def _is_exactly(made_of: set[Column] | None, table: str, column: str) -> bool:
    """True if an output is a column of a table as it is, or joined with it ``USING`` it."""
    wanted = column.lower()
    return (
        made_of is not None and (table, wanted) in made_of and {n for _, n in made_of} == {wanted}
    )


def _without_subject(name: str, groups: Sequence[PersonalGroup]) -> InvalidInput:
    subjects = ", ".join(dict.fromkeys(group.subject for group in groups))
    return InvalidInput(
        f"The query's column {name!r} may hold personal columns, and the query leaves out whom"
        f" they are about: {subjects}.",
        hint="Select that column too, as it is and under its own name, in one plain SELECT that"
        " reads no table twice, so that the rows can be erased; or leave personal columns out.",
    )


__all__ = ["Stored", "derived_rule"]
