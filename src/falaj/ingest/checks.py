"""The checks of contracts: what must be true of each row, or of all rows together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TABLE = r"^[a-z][a-z0-9_]{0,62}$"
COLUMN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"

ColumnName = Annotated[str, Field(pattern=COLUMN)]
Value = bool | int | float | str


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


class NotInSet(_Check):
    """No value is one of those listed; nulls pass."""

    check: Literal["not_in_set"] = "not_in_set"
    column: ColumnName
    values: tuple[Value, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"not_in_set({self.column})"


class Matches(_Check):
    """Every text matches the regular expression (RE2) as a whole; nulls pass."""

    check: Literal["matches"] = "matches"
    column: ColumnName
    pattern: str

    @property
    def label(self) -> str:
        """The check in words."""
        return f"matches({self.column}, {self.pattern})"


class Length(_Check):
    """Every text has at least ``least`` and at most ``greatest`` characters; nulls pass."""

    check: Literal["length"] = "length"
    column: ColumnName
    least: int = Field(0, ge=0)
    greatest: int | None = Field(None, ge=0)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"length({self.column}, {self.least}, {self.greatest})"


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
    """The greatest instant of a column is at most so old when the check runs; without a
    column, the last load into the table is."""

    check: Literal["freshness"] = "freshness"
    column: ColumnName | None = None
    max_age_seconds: float = Field(gt=0)

    @property
    def label(self) -> str:
        """The check in words."""
        return f"freshness({self.column or 'last load'}, {self.max_age_seconds:g} s)"


class _Bounded(_OfTable):
    """A figure of all rows lies between two bounds (both belong to it)."""

    least: float | None = None
    greatest: float | None = None

    def _bounds(self) -> str:
        return ", ".join("–" if b is None else f"{b:g}" for b in (self.least, self.greatest))


class Statistic(_Bounded):
    """A statistic of a column of numbers lies between two bounds; nulls are left out.

    Without any value it is broken.
    """

    check: Literal["statistic"] = "statistic"
    column: ColumnName
    of: Literal["mean", "sum", "std", "min", "max", "median", "quantile", "null_share"]
    """``std`` is that of a sample (n - 1); ``quantile`` is the value at ``share``."""
    share: float | None = Field(None, ge=0, le=1)
    """Which quantile, such as 0.95."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.least is None and self.greatest is None:
            raise ValueError("give least, greatest, or both")
        if (self.share is None) == (self.of == "quantile"):
            raise ValueError("give share for a quantile, and for nothing else")
        return self

    @property
    def label(self) -> str:
        """The check in words."""
        of = self.of if self.share is None else f"quantile {self.share:g}"
        return f"statistic({of} of {self.column}, {self._bounds()})"


class Distinct(_Bounded):
    """The number of different values of a column lies between two bounds; nulls are none."""

    check: Literal["distinct"] = "distinct"
    column: ColumnName

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.least is None and self.greatest is None:
            raise ValueError("give least, greatest, or both")
        return self

    @property
    def label(self) -> str:
        """The check in words."""
        return f"distinct({self.column}, {self._bounds()})"


class HasColumns(_OfTable):
    """The rows have these columns; with ``exact`` no others."""

    check: Literal["has_columns"] = "has_columns"
    columns: tuple[ColumnName, ...] = Field(min_length=1)
    exact: bool = False

    @property
    def label(self) -> str:
        """The check in words."""
        return f"has_columns({', '.join(self.columns)}{' and no others' if self.exact else ''})"


class Usual(_Bounded):
    """How much came, or how old the newest of it is, is as it was before.

    What is expected is the median of the earlier results of the same check (of loads, or of
    checks of the whole table), of those on the same day of the week if there are
    ``least_history`` of them. It may be ``width`` median absolute deviations away (times
    1.4826, which makes them standard deviations of normal noise), and a twentieth of the
    median at least. A bound that is declared takes the place of that which was learned.
    """

    check: Literal["usual"] = "usual"
    of: Literal["rows", "daily_rows", "age"]
    """``rows``: the number of rows. ``daily_rows``: those of the last whole UTC day by
    ``column``, against the earlier days in the same rows. ``age``: seconds since the
    greatest instant of ``column``; without one, since the last load into the table."""
    column: ColumnName | None = None
    width: float = Field(6.0, gt=0)
    least_history: int = Field(7, ge=3, le=365)
    """With fewer earlier results nothing is expected, and the check passes."""
    severity: Severity = Severity.WARN

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.of == "daily_rows" and self.column is None:
            raise ValueError("daily_rows needs the column of instants")
        if self.of == "rows" and self.column is not None:
            raise ValueError("rows are counted without a column")
        return self

    @property
    def label(self) -> str:
        """The check in words."""
        return f"usual({self.of}{'' if self.column is None else f' by {self.column}'})"


RowCheck = (
    NotNull | Unique | Between | InSet | NotInSet | Matches | Length | ForeignKey | Expression
)
TableCheck = RowCount | Freshness | Statistic | Distinct | HasColumns | Usual
Check = Annotated[RowCheck | TableCheck, Field(discriminator="check")]
