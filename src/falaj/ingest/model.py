"""The words of ingest: sources, contracts, loads and the results of checks."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from falaj.catalog.columns import OF_PEOPLE
from falaj.catalog.definitions import Definition
from falaj.catalog.model import Classification, Relation
from falaj.ingest.checks import TABLE, Check, ColumnName, Severity
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.lake.queries import through_expressions
from falaj.operations.scheduled_model import CheckSchedule, Look

TYPE = re.compile(r"^(text|integer|number|boolean|date|instant|decimal\((\d{1,2}), ?(\d{1,2})\))$")


CHECK_JOB = "contracts.check"
"""The kind of the job that holds a whole table to a contract."""
SCHEDULED_JOB = "contracts.check-by-schedule"
"""The kind of the job that asks for such a check when its time has come."""


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


class Contract(Definition):
    """What must be true of the rows of a lake table, checked by every load into it, and of the
    whole table at the times of its schedule."""

    kind: ClassVar[str] = "contract"
    relation: ClassVar[Relation] = Relation.DEFINES

    table: str = Field(pattern=TABLE)
    checks: tuple[Check, ...] = Field(min_length=1)
    schedule: CheckSchedule | None = None
    """When the table as it stands is held to it; None leaves it to loads and people."""

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
    value: float | None = None
    """The figure whose trend is kept: the share of violating rows, or what was measured."""
    low: float | None = None
    high: float | None = None
    """The bounds that the figure was held to; None if there is none."""
    examples: list[Example] = []


class TrendPoint(BaseModel):
    """What one check measured once."""

    at: datetime
    check: str
    via: str
    """``load``: of the rows of one load. ``check``: of the whole table."""
    passed: bool
    severity: Severity
    n_rows: int
    n_violations: int
    share: float
    measured: str
    value: float | None
    low: float | None
    high: float | None


class ContractCheck(Look):
    """One check of a contract's whole table that its schedule asked for.

    ``result`` holds ``check``, under which ``contracts.history`` has what was found; ``passed``;
    and ``broken``: the number of its checks that failed.
    """

    contract: str


class ContractSchedule(BaseModel):
    """A contract that is checked by a schedule, and how it goes."""

    contract: str
    table: str
    schedule: CheckSchedule
    principal: str
    """As whom its checks are done: whoever applied it last."""
    next_at: datetime
    last: ContractCheck | None = None
    n_failed: int = 0
    """Checks in a row that could not be done, up to the last one that ended."""
    broken: list[int] = []
    """How many of its checks failed at each of the last looks, the newest first."""


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
