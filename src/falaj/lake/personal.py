"""Personal rules: whose rows a table holds, and which columns are sealed under their keys.

A rule says of a table which column names a data subject and which other columns are personal.
The lake keeps rules beside the tables, and seals every row that is written from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.lake.model import COLUMN_NAME, TABLE_NAME

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake


class SubjectsErased(Conflict):
    """Something that was pinned by its content has lost the rows of an erased subject."""

    code = "subjects-erased"


class ErasedWhileCopied(Conflict):
    """Somebody was erased between the reading of rows and their writing; read them again.

    Without this the copy would be sealed under a new key of somebody who was just erased.
    """

    code = "erased-while-copied"
    retryable = True


PersonalColumn = Annotated[str, Field(pattern=COLUMN_NAME.pattern)]


class PersonalGroup(BaseModel):
    """A column that names a data subject, and the columns that are that subject's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: PersonalColumn
    """Text or integers: the subject's name. It is sealed too."""
    kind: str = Field("person", pattern=TABLE_NAME.pattern)
    """What it names; tables that name the same kind share keys."""
    columns: tuple[PersonalColumn, ...] = ()
    """The personal columns, without the subject's own."""

    @property
    def sealed(self) -> tuple[str, ...]:
        """All columns that are sealed, the subject's first."""
        return (self.subject, *self.columns)


class PersonalRule(BaseModel):
    """Which columns of a table are sealed under whose keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str = Field(pattern=TABLE_NAME.pattern)
    groups: tuple[PersonalGroup, ...] = Field(min_length=1)
    """Most tables have one. A column belongs to one of them."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [name.lower() for group in self.groups for name in group.sealed]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the column {twice[0]!r} is sealed for two subjects, or twice")
        return self

    def following(self, before: PersonalRule) -> PersonalRule:
        """What holds once this rule is recorded after another one of its table.

        What was personal of a subject stays so: whoever has an older or a looser rule (a
        worker that has not seen the newer one) takes nothing away. A column that is now
        another subject's is sealed for that one.
        """
        taken = {name.lower() for group in self.groups for name in group.sealed}
        older = {(group.subject, group.kind): group.columns for group in before.groups}
        groups = []
        for group in self.groups:
            own = {name.lower(): name for name in group.columns}
            stood = older.get((group.subject, group.kind), ())
            kept = [n for n in stood if n.lower() in own or n.lower() not in taken]
            known = {name.lower() for name in kept}
            new = [name for name in group.columns if name.lower() not in known]
            columns = (*(own.get(name.lower(), name) for name in kept), *new)
            groups.append(group.model_copy(update={"columns": columns}))
        return PersonalRule(table=self.table, groups=tuple(groups))

    def of_columns(self, names: Iterable[str]) -> PersonalRule | None:
        """The rule of a table that has only these columns; None if it has no subject's.

        A group without its subject column is left out.
        """
        there = set(names)
        kept = tuple(
            group.model_copy(update={"columns": tuple(c for c in group.columns if c in there)})
            for group in self.groups
            if group.subject in there
        )
        return PersonalRule(table=self.table, groups=kept) if kept else None


@runtime_checkable
class PersonalRules(Protocol):
    """A lake that seals: it keeps rules and obeys them."""

    def record_rule(self, rule: PersonalRule) -> None:
        """Keep a rule for its table; each row that is written from then on is sealed.

        Rows that are there stay as they are until the table is written anew. The same rule
        once more changes nothing. Another one takes its place, but what was personal of the
        same subject stays personal.
        """
        ...

    def rule(self, table: str) -> PersonalRule | None:
        """The rule of a table as it stands; None if it has none."""
        ...

    def rule_of_query(self, sql: str, table: str, columns: Sequence[str]) -> PersonalRule | None:
        """The rule of a table that holds the answer of a query, by the names of its columns.

        What stands behind each column is read from the query's syntax tree. Each column that
        is not known to be clear is taken to be personal.

        Raises:
            InvalidInput: a column may be personal, and that which names whom it is about is
                not among the columns just as it is.
        """
        ...

    def n_erasures(self) -> int:
        """How many subjects have been erased so far, in all."""
        ...

    def n_erased(self, table: str, snapshot: int | None = None) -> int:
        """How many subjects of a table's rows have been erased since."""
        ...


def record_rule(lake: Lake, rule: PersonalRule) -> None:
    """Let a lake seal a table's rows; call it before the first write, as often as you like.

    Raises:
        InvalidInput: this lake keeps no rules, so it would write the rows in clear.
    """
    if not isinstance(lake, PersonalRules):
        raise InvalidInput(
            f"The table {rule.table!r} holds personal columns, and this lake does not seal.",
            hint="Write through the platform's lake (SubjectLake).",
        )
    lake.record_rule(rule)


def refuse_erased(lake: Lake, what: str, tables: Iterable[tuple[str, int | None]]) -> None:
    """Raise unless every subject of these tables (at snapshots) can still be read.

    Args:
        what: whose rows they are, for the error: ``training set ts_…``.

    Raises:
        SubjectsErased: somebody was erased, so the rows are not what they were.
    """
    if not isinstance(lake, PersonalRules):
        return
    n = sum(lake.n_erased(table, snapshot) for table, snapshot in tables)
    if n:
        raise SubjectsErased(
            f"The {what} holds rows about {n} subject{'s' if n > 1 else ''} who were erased:"
            " they cannot be the same again.",
            hint="Make a new one of the rows that there are; the hash of the old one stays.",
            n_erased=n,
        )


def n_erasures(lake: Lake) -> int:
    """How many subjects have been erased so far; to be asked before rows are read for a copy."""
    return lake.n_erasures() if isinstance(lake, PersonalRules) else 0


def refuse_erased_since(lake: Lake, before: int) -> None:
    """Raise if somebody was erased since; to be asked when all rows of a copy are sealed.

    Raises:
        ErasedWhileCopied: the copy may hold somebody who is erased: undo it.
    """
    if n_erasures(lake) != before:
        raise ErasedWhileCopied(
            "Somebody was erased while rows were copied.", hint="Repeat it; nothing was written."
        )


def rule_of_query(lake: Lake, sql: str, table: str, columns: Sequence[str]) -> PersonalRule | None:
    """See ``PersonalRules.rule_of_query``; None if the lake keeps no rules."""
    return lake.rule_of_query(sql, table, columns) if isinstance(lake, PersonalRules) else None


def rule_of_upload(
    table: str, rows: pa.Table, subject: str | None, kind: str, personal: Sequence[str] | None
) -> PersonalRule | None:
    """The rule of rows that are handed over; None if they are about nobody.

    Raises:
        InvalidInput: a column is not there, or ``personal`` is given without ``subject``.
    """
    if subject is None:
        if personal:
            raise InvalidInput(
                "Personal columns are sealed under the key of whom they are about.",
                hint="Name the column that says whom: subject.",
            )
        return None
    for name in (subject, *(personal or ())):
        if name not in rows.column_names:
            raise InvalidInput(
                f"The rows have no column {name!r}.",
                hint=f"They have {', '.join(rows.column_names)}.",
            )
    columns = tuple(name for name in dict.fromkeys(personal or ()) if name != subject)
    try:
        group = PersonalGroup(subject=subject, kind=kind, columns=columns)
    except ValidationError as error:
        raise InvalidInput(
            f"{kind!r} cannot be a kind of subject.", hint="Use a lower snake case word."
        ) from error
    return PersonalRule(table=table, groups=(group,))


def rule_of(lake: Lake, table: str) -> PersonalRule | None:
    """The rule of a table; None if it has none, or the lake keeps none."""
    return lake.rule(table) if isinstance(lake, PersonalRules) else None


__all__ = [
    "ErasedWhileCopied",
    "PersonalGroup",
    "PersonalRule",
    "PersonalRules",
    "SubjectsErased",
    "n_erasures",
    "record_rule",
    "refuse_erased",
    "refuse_erased_since",
    "rule_of",
    "rule_of_query",
    "rule_of_upload",
]
