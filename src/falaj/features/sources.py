"""Where views read from, besides tables that pipelines load: streams and foreign tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from falaj.catalog.definitions import Definition
from falaj.catalog.model import Classification, Relation
from falaj.features.model import Column, Name
from falaj.features.types import DType, FeatureType
from falaj.kernel.call import AssetRef
from falaj.lake.model import COLUMN_NAME


class Stream(Definition):
    """Events that are pushed, or consumed from a topic, into the lake table of that name.

    ``columns`` are the columns of an event with their types; an event with others, or with
    a value of another type, is set aside in the dead-letter table with the reason, and so
    is one that breaks a contract of the table. ``recorded_at`` names the column that the
    platform fills with the instant at which it took the event, if the event does not say.
    ``key`` are the columns by which events are spread over partitions: events with equal
    keys stay in order. ``topic`` is the topic of the event log that is consumed; by
    default the stream's name. ``partitions`` counts for a log that the platform makes.

    ``subject`` is the column (text or integer) that names the person whom an event is about,
    and ``subject_kind`` what it names. Events stand in the log under that person's key; in the
    lake the subject and the columns that ``classifications`` calls personal or sensitive do.
    """

    kind: ClassVar[str] = "stream"
    relation: ClassVar[Relation] = Relation.FEEDS

    name: Name
    columns: dict[Column, FeatureType] = Field(min_length=1, max_length=10_000)
    event_time: Column
    recorded_at: Column | None = None
    key: tuple[Column, ...] = ()
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None = None
    partitions: int = Field(1, ge=1, le=256)
    classifications: dict[Column, Classification] = Field(default_factory=dict)
    subject: Column | None = None
    subject_kind: Name = "person"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        subject = () if self.subject is None else (self.subject,)
        for name in (self.event_time, *self.key, *subject, *self.classifications):
            if name not in self.columns:
                raise ValueError(f"{name!r} is not one of the stream's columns")
        if self.subject and self.columns[self.subject] not in (DType.STRING, DType.INT64):
            raise ValueError(f"{self.subject!r} names a person: its type is string or int64")
        for name in filter(None, (self.event_time, self.recorded_at)):
            if self.columns.get(name, DType.TIMESTAMP) is not DType.TIMESTAMP:
                raise ValueError(f"{name!r} says when an event was: its type is timestamp")
        for name in (*self.columns, *filter(None, [self.recorded_at])):
            if not COLUMN_NAME.match(name):
                raise ValueError(
                    f"{name[:80]!r} is no column of a lake table: use letters, digits and "
                    "underscores, not beginning with a digit"
                )
        if len({name.lower() for name in self.columns}) != len(self.columns):
            raise ValueError("two columns have the same name (case does not count)")
        return self

    @property
    def table(self) -> str:
        """The lake table that the stream feeds."""
        return self.name

    @property
    def dead_letters(self) -> str:
        """The lake table of events that could not be taken, with the reason."""
        return f"{self.name[:50]}_dead_letters"


class Format(StrEnum):
    """How a foreign table is kept."""

    PARQUET = "parquet"
    DELTA = "delta"
    ICEBERG = "iceberg"


class ForeignTable(Definition):
    """A table that someone else writes: it is joined where it lies, and never copied.

    ``location`` is a path or glob from the project's folder (Parquet), the folder of a
    Delta table, or the metadata file of an Iceberg table. ``ordered_by`` promises that the
    rows stand in the order of that instant, which is checked when they are read and makes
    the join faster.
    """

    kind: ClassVar[str] = "foreign_table"

    name: Name
    location: str = Field(min_length=1, max_length=2_000)
    format: Format = Format.PARQUET
    ordered_by: Column | None = None

    def references(self) -> list[AssetRef]:
        """Nothing of ours flows into it."""
        return []
