"""Whether the engine may work on rows as they are stored, or must be given opened ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from falaj.kernel.errors import InvalidInput
from falaj.lake.personal import PersonalGroup, PersonalRule
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
    known: set[str],
) -> PersonalRule | None:
    """The rule of a query's answer; see ``PersonalRules.rule_of_query``.

    Args:
        rules: of the tables that it reads.
        known: the columns of these tables, in lower case.
    """
    personal = {name.lower() for rule in rules for group in rule.groups for name in group.sealed}
    used = {*_WORD.findall(sql.lower()), *(name.lower() for name in columns)}
    left = [name for name in columns if name.lower() in personal or name.lower() not in known]
    groups: list[PersonalGroup] = []
    for rule in rules:
        if not used & {name.lower() for group in rule.groups for name in group.sealed}:
            continue
        named = [group for group in rule.groups if group.subject in columns]
        if not named:
            raise InvalidInput(
                f"The query uses personal columns of {rule.table!r} and leaves out whom they are"
                f" about: {', '.join(group.subject for group in rule.groups)}.",
                hint="Select that column too, under its own name, so that the rows can be erased.",
            )
        for group in named:
            if all(group.subject != one.subject for one in groups):
                groups.append(group.model_copy(update={"columns": ()}))
    subjects = {group.subject for group in groups}
    owned = {name: rule_group.subject for name, rule_group in _owners(rules).items()}
    shares: dict[str, list[str]] = {subject: [] for subject in subjects}
    for name in left:
        if name not in subjects and groups:
            owner = owned.get(name, groups[0].subject)
            shares[owner if owner in shares else groups[0].subject].append(name)
    sealed = tuple(
        group.model_copy(update={"columns": tuple(shares[group.subject])}) for group in groups
    )
    return PersonalRule(table=table, groups=sealed) if sealed else None


def _owners(rules: Sequence[PersonalRule]) -> dict[str, PersonalGroup]:
    return {name: group for rule in rules for group in rule.groups for name in group.columns}


__all__ = ["Stored", "derived_rule"]
