"""Read rules: what of a table is masked, and which rows are seen, by whom and what for.

Without a rule, whoever may read a table but not the personal columns of it sees these
masked (``masks.DEFAULT``). A rule says how they are masked for some, masks more, or shows
fewer rows; no rule shows what the policies hide. Where several rules fit, the strictest mask
holds, and a row is seen only if every filter lets it through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import Definition, Definitions, Resulting
from falaj.catalog.model import Classification
from falaj.catalog.planning import PlannedDefinition, Step
from falaj.kernel.errors import InvalidInput
from falaj.lake.filters import check_fits, condition
from falaj.lake.masks import Mask

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Caller

SchemaOf = Callable[[str, Resulting], "pa.Schema | None"]
"""The columns of a table that is there or that is declared; None if it is neither."""


class Whom(BaseModel):
    """Callers: those to whom each of the things applies that are said. Nothing said: all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: tuple[str, ...] = ()
    """They have at least one of these roles."""
    principals: tuple[str, ...] = ()
    """They are one of these: ``user:amina``, ``service:ci``."""
    purposes: tuple[str, ...] = ()
    """They state one of these purposes."""

    @property
    def everybody(self) -> bool:
        """True if nothing is said."""
        return not (self.roles or self.principals or self.purposes)

    def has(self, caller: Caller) -> bool:
        """True if the caller is one of them, as it stands now."""
        principal = caller.principal
        return (
            (not self.roles or bool(set(self.roles) & set(principal.roles)))
            and (not self.principals or principal.id in self.principals)
            and (not self.purposes or caller.purpose in self.purposes)
        )


class ReadRule(Definition):
    """What some callers see of some tables: masks for columns, a filter for rows, or both.

    It is proposed by an administrator and comes into force when another person approves.
    """

    kind: ClassVar[str] = "read_rule"
    proposed: ClassVar[bool] = True

    tables: tuple[str, ...] = Field(min_length=1)
    """Names of lake tables, which may hold ``*``. What was made of such a table (training
    sets, logs, scorings, its quarantine) is meant as well."""
    mask: Mask | None = None
    """How columns are masked for those to whom the rule applies."""
    classifications: tuple[Classification, ...] = (
        Classification.PERSONAL,
        Classification.SENSITIVE,
    )
    """Which columns are masked: those that are classified so…"""
    columns: tuple[str, ...] = ()
    """… or, if any are named, these, whatever they are classified."""
    rows: str | None = Field(None, min_length=1, max_length=4_000)
    """An SQL condition over the table's columns that is true of the rows that are seen, with
    ``$principal_id``, ``$principal_name``, ``$principal_kind``, ``$principal_roles`` (a list),
    ``$purpose`` and ``$via`` for the caller."""
    applies_to: Whom = Whom()
    """Whom it binds; everybody, if nothing is said."""
    except_for: Whom | None = None
    """Whom of those it does not bind."""
    enabled: bool = True
    """False takes it out of force; it stays on record."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.mask is None and self.rows is None:
            raise ValueError("a read rule has a mask, a filter of rows, or both")
        if self.columns and self.mask is None:
            raise ValueError("columns are named for a mask; there is none")
        if self.except_for is not None and self.except_for.everybody:
            raise ValueError("except_for names nobody; leave it out")
        return self

    def binds(self, caller: Caller) -> bool:
        """True if it holds for a caller, as it stands now."""
        if not self.enabled or not self.applies_to.has(caller):
            return False
        return self.except_for is None or not self.except_for.has(caller)

    def is_about(self, table: str) -> bool:
        """True if it names the table."""
        return any(fnmatchcase(table, pattern) for pattern in self.tables)

    def masks(self, column: str, level: Classification | None) -> bool:
        """True if it masks a column of a table that it names."""
        if self.mask is None:
            return False
        if self.columns:
            return column.lower() in {name.lower() for name in self.columns}
        return level in self.classifications


class ReadRules:
    """The rules that are in force, in the transaction of a call."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def binding(self, connection: Connection, caller: Caller) -> list[ReadRule]:
        """Those that hold for a caller, by name."""
        kept = self._definitions.listed(connection, kind=ReadRule.kind)
        rules = [self._definitions.parsed(one) for one in kept]
        return [one for one in rules if isinstance(one, ReadRule) and one.binds(caller)]


class ReadRuleReview:
    """Judges each plan that changes read rules; fulfils ``catalog.definitions.Review``.

    Args:
        schema_of: tells the columns of a table as the plan would leave it.
    """

    def __init__(self, schema_of: SchemaOf) -> None:
        self._schema_of = schema_of

    def __call__(
        self,
        connection: Connection,
        items: Sequence[PlannedDefinition],
        resulting: Resulting,
    ) -> list[PlannedDefinition]:
        """The items as they are.

        Raises:
            InvalidInput: a rule names a table or a column that there is not, or its
                condition cannot be asked of its tables.
        """
        for item in items:
            if item.kind == ReadRule.kind and item.step in (Step.CREATE, Step.UPDATE):
                rule = resulting.get(item.kind, item.name)
                if isinstance(rule, ReadRule) and rule.enabled:
                    self._check(rule, resulting)
        return list(items)

    def _check(self, rule: ReadRule, resulting: Resulting) -> None:
        if rule.rows is not None:
            condition(rule.rows)
        for table in rule.tables:
            if "*" in table or "?" in table or "[" in table:
                continue  # those that it will fit may not be there yet
            schema = self._schema_of(table, resulting)
            if schema is None:
                raise InvalidInput(
                    f"The read rule {rule.name!r} is about the table {table!r}, which there is"
                    " not.",
                    hint="Load or declare it first; `falaj tables list` shows all.",
                )
            there = {name.lower() for name in schema.names}
            for column in rule.columns:
                if column.lower() not in there:
                    raise InvalidInput(
                        f"The read rule {rule.name!r} masks {column!r}, which {table!r} has not.",
                        hint=f"It has: {', '.join(schema.names)}.",
                    )
            if rule.rows is not None:
                check_fits(rule.rows, table, schema)


__all__ = ["ReadRule", "ReadRuleReview", "ReadRules", "Whom"]
