"""The words of ingest: sources, contracts and their checks, loads and their results."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.columns import OF_PEOPLE
from falaj.catalog.definitions import Definition
from falaj.catalog.model import Classification, Relation
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.lake.queries import through_expressions

TABLE = r"^[a-z][a-z0-9_]{0,62}$"
COLUMN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
TYPE = re.compile(r"^(text|integer|number|boolean|date|instant|decimal\((\d{1,2}), ?(\d{1,2})\))$")

ColumnName = Annotated[str, Field(pattern=COLUMN)]
Value = bool | int | float | str


class SourceBroken(InvalidInput):
    """A source cannot be read: a missing file, a wrong header, no row, a wrong encoding."""

    code = "source-broken"


class ContractBroken(Conflict):
    """Rows break a contract of severity ``fail``; nothing was written."""

    code = "contract-broken"


class Format(StrEnum):
    """How the files of a source are written."""

    CSV = "csv"
    PARQUET = "parquet"


class Mode(StrEnum):
    """What a load does to the rows that are there already."""

    APPEND = "append"
    REPLACE = "replace"


class Source(Definition):
    """Files whose rows go into a lake table.

    Types are strict: a value that is not of its column's type puts its row into the
    quarantine table, with the reason; it is never silently null.
    """

    kind: ClassVar[str] = "source"

    table: str = Field(pattern=TABLE)
    """The lake table."""
    path: str = Field(min_length=1)
    """A path or glob from the project's folder, or ``package:name/file`` of an installed
    distribution. CSV files may be compressed (``.gz``, ``.zip`` with one file in it)."""
    format: Format = Format.CSV
    columns: dict[ColumnName, str] = Field(min_length=1)
    """Type of each column of the files: ``text``, ``integer``, ``number``, ``boolean``,
    ``date``, ``instant``, ``decimal(p, s)``."""
    null_strings: tuple[str, ...] = ("",)
    """Unquoted CSV texts that mean "no value"."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    zone: str | None = None
    """IANA zone of instants that are written without one; without it they are refused."""
    derived: dict[ColumnName, str] = Field(default_factory=dict)
    """Further columns: SQL expressions over the typed columns, and those derived before."""
    exclude: tuple[ColumnName, ...] = ()
    """Columns of the files that are not stored."""
    key: tuple[ColumnName, ...] = ()
    """Columns that name what a row is about; rows without one are quarantined."""
    event_time: ColumnName | None = None
    """The instant at which a row was true; rows without it are quarantined."""
    recorded_at: ColumnName | None = None
    """The instant at which a row was known; filled with the load's instant if the column
    is neither in the files nor derived."""
    mode: Mode = Mode.APPEND
    classifications: dict[ColumnName, Classification] = Field(default_factory=dict)
    """How secret single columns are; the others are as secret as the table."""
    subject: ColumnName | None = None
    """The column that names the person whom a row is about (text or integer). It and the
    columns classified personal or sensitive are stored under that person's key."""
    subject_kind: str = Field("person", pattern=TABLE)
    """What ``subject`` names; tables that name the same kind share keys."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for column, kind in self.columns.items():
            if not TYPE.match(kind):
                raise ValueError(f"the type {kind!r} of {column!r} is not one of those allowed")
        names = [*self.columns, *self.derived]
        if len({name.lower() for name in names}) != len(names):
            raise ValueError("two columns have the same name (case does not count)")
        event_time = () if self.event_time is None else (self.event_time,)
        for told, wanted, known in (
            ("exclude", self.exclude, names),
            ("key", self.key, self.stored),
            ("event_time", event_time, self.stored),
            ("classifications", tuple(self.classifications), self.stored),
            ("subject", () if self.subject is None else (self.subject,), self.stored),
        ):
            for name in wanted:
                if name not in known:
                    raise ValueError(f"{told} names the column {name!r}, which there is not")
        return self

    @property
    def stored(self) -> list[str]:
        """The columns of the lake table, in order."""
        names = [name for name in [*self.columns, *self.derived] if name not in self.exclude]
        if self.recorded_at is not None and self.recorded_at not in names:
            names.append(self.recorded_at)
        return names

    @property
    def column_classes(self) -> dict[str, Classification]:
        """How secret the stored columns are: as declared, and derived ones as their sources."""
        known = [*self.columns, *self.derived]
        found = through_expressions(self.classifications, self.derived, known)
        return {name: found[name] for name in self.stored if name in found}

    @property
    def is_of_people(self) -> bool:
        """True if the table or one of its columns is personal or sensitive."""
        return bool({self.classification, *self.column_classes.values()} & OF_PEOPLE)

    @property
    def quarantine(self) -> str:
        """The lake table of rows that could not be taken."""
        return f"{self.table[:52]}_quarantine"

    def shape(self) -> dict[str, Any]:
        """What decides on the rows that a load writes, JSON-ready."""
        said = {"description", "owner", "tags", "classification", "region", "classifications"}
        return self.model_dump(mode="json", exclude=said)


class Severity(StrEnum):
    """What a broken check does to a load."""

    WARN = "warn"  # it is recorded
    QUARANTINE = "quarantine"  # the violating rows are set aside, the others load
    FAIL = "fail"  # nothing is written


class _Check(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    severity: Severity = Severity.FAIL
    tolerance: float = Field(0.0, ge=0, le=1)
    """The share of rows that may violate it before it counts as broken."""


class NotNull(_Check):
    """Every row has a value in the column."""

    check: Literal["not_null"] = "not_null"
    column: ColumnName

    @property
    def label(self) -> str:
        """The check in words."""
        return f"not_null({self.column})"


class Unique(_Check):
    """No two rows (nor a row and one in the table) have the same values; nulls differ."""

    check: Literal["unique"] = "unique"
    columns: tuple[ColumnName, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"unique({', '.join(self.columns)})"


class Between(_Check):
    """Every value is at least ``least`` and at most ``greatest``; nulls pass."""

    check: Literal["between"] = "between"
    column: ColumnName
    least: Value | None = None
    greatest: Value | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.least is None and self.greatest is None:
            raise ValueError("give least, greatest, or both")
        return self

    @property
    def label(self) -> str:
        """The check in words."""
        return f"between({self.column}, {self.least}, {self.greatest})"


class InSet(_Check):
    """Every value is one of those listed; nulls pass."""

    check: Literal["in_set"] = "in_set"
    column: ColumnName
    values: tuple[Value, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"in_set({self.column})"


class Matches(_Check):
    """Every text matches the regular expression (RE2) as a whole; nulls pass."""

    check: Literal["matches"] = "matches"
    column: ColumnName
    pattern: str

    @property
    def label(self) -> str:
        """The check in words."""
        return f"matches({self.column}, {self.pattern})"


class ForeignKey(_Check):
    """Every value stands in a column of another lake table; nulls pass."""

    check: Literal["foreign_key"] = "foreign_key"
    column: ColumnName
    table: str = Field(pattern=TABLE)
    to_column: ColumnName

    @property
    def label(self) -> str:
        """The check in words."""
        return f"foreign_key({self.column} → {self.table}.{self.to_column})"


class Expression(_Check):
    """An SQL condition over the columns is true of every row; unknown (null) passes."""

    check: Literal["expression"] = "expression"
    sql: str = Field(min_length=1)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"expression({self.sql})"


class _OfTable(_Check):
    @model_validator(mode="after")
    def _has_no_rows(self) -> Self:
        if self.severity is Severity.QUARANTINE or self.tolerance:
            raise ValueError("this check is about all rows together: use warn or fail")
        return self


class RowCount(_OfTable):
    """The number of rows of the load lies between two numbers."""

    check: Literal["row_count"] = "row_count"
    least: int = Field(1, ge=0)
    greatest: int | None = None

    @property
    def label(self) -> str:
        """The check in words."""
        return f"row_count({self.least}, {self.greatest})"


class Freshness(_OfTable):
    """The greatest instant of a column is at most so old when the load runs."""

    check: Literal["freshness"] = "freshness"
    column: ColumnName
    max_age_seconds: float = Field(gt=0)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"freshness({self.column}, {self.max_age_seconds:g} s)"


RowCheck = NotNull | Unique | Between | InSet | Matches | ForeignKey | Expression
TableCheck = RowCount | Freshness
Check = Annotated[RowCheck | TableCheck, Field(discriminator="check")]


class Contract(Definition):
    """What must be true of the rows of a lake table, checked by every load into it."""

    kind: ClassVar[str] = "contract"
    relation: ClassVar[Relation] = Relation.DEFINES

    table: str = Field(pattern=TABLE)
    checks: tuple[Check, ...] = Field(min_length=1)

    def shape(self) -> dict[str, Any]:
        """What decides on which rows pass, JSON-ready."""
        return self.model_dump(mode="json", include={"name", "table", "checks"})


class Example(BaseModel):
    """A row that violates a check: its number (from 1, without header), and its values."""

    row: int
    values: dict[str, Any] | None = None
    """None where the source is personal or sensitive."""


class CheckResult(BaseModel):
    """What was measured of one check."""

    contract: str
    check: str
    severity: Severity
    n_rows: int
    n_violations: int
    share: float
    """Of the rows, from 0 to 1."""
    passed: bool
    measured: str = ""
    """What a check of all rows together found."""
    examples: list[Example] = []


class LoadState(StrEnum):
    """How a load ended."""

    DONE = "done"
    UNCHANGED = "unchanged"  # these files had been loaded before
    REFUSED = "refused"  # the contract is broken; nothing was written


class LoadReport(BaseModel):
    """What one load did."""

    id: str
    source: str
    table: str
    state: LoadState
    at: datetime
    digest: str
    """SHA-256 of the files' contents and of what the definitions say."""
    files: list[str]
    n_read: int
    n_written: int
    n_quarantined: int
    snapshot: int | None = None
    """The lake snapshot that this load made."""
    job: str | None = None
    checks: list[CheckResult] = []
