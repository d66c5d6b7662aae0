"""A feature view, compiled: how source rows become events, and events become features.

The offline execution is whole here: ``ViewPlan.offline`` gives, for each row of a spine,
what was known at its instant. The online execution reads source rows through the same
``ViewPlan.events``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.catalog.model import Classification
from falaj.features.columns import (
    Array,
    Ints,
    Values,
    arrow_type,
    column_of,
    instants,
    typed,
)
from falaj.features.model import (
    Aggregate,
    Entity,
    FeatureView,
    Filter,
    Function,
    Operator,
    microseconds,
)
from falaj.features.partials import COUNT, NEEDS, Partial, State, finish
from falaj.features.types import DType, Type
from falaj.kernel.errors import InvalidInput

_LAYOUT = 2
"""How rows stand online (``rows``, ``tiles``); it changes with their bytes."""
LATE_BY = "late_by_us"
"""The platform's own column of a stream's table: how far an event came behind the watermark,
in microseconds; null where it did not."""


@dataclass(frozen=True)
class Events:
    """Source rows that are events of a view, in log order.

    ``keys`` are the entity's key columns, ``columns`` the typed source columns that
    features need; all have n rows.
    """

    keys: tuple[pa.Array, ...]
    event_time: Ints
    recorded_at: Ints | None
    columns: Mapping[str, pa.Array]
    positions: Ints | None = None
    """Where each stands in the log of its table, if the source said so."""

    def __len__(self) -> int:
        return len(self.event_time)

    def values(self, column: str, dtype: DType | None) -> Values:
        """A column in numpy; one that is only counted (``dtype`` None) as its validity."""
        array = self.columns[column_key(column, dtype)]
        if dtype is None:
            there = array.to_numpy(zero_copy_only=False)
            return Values(there, there)
        return Values.of(array, dtype, column)

    def known_by(self, limit_us: int) -> Events:
        """The events that had happened and had been recorded by an instant."""
        known = self.event_time <= limit_us
        if self.recorded_at is not None:
            known &= self.recorded_at <= limit_us
        return self.take(np.flatnonzero(known))

    def take(self, rows: Ints) -> Events:
        """Some of the events, by index."""
        at = pa.array(rows)
        return Events(
            tuple(key.take(at) for key in self.keys),
            self.event_time[rows],
            None if self.recorded_at is None else self.recorded_at[rows],
            {name: column.take(at) for name, column in self.columns.items()},
            None if self.positions is None else self.positions[rows],
        )


@dataclass(frozen=True)
class Marks:
    """What says of each row of a source whether it is an event, of what, and when.

    ``keys`` are the typed key columns; ``kept`` is False for rows that are no events. All
    have n rows.
    """

    keys: tuple[pa.Array, ...]
    event_time: Values
    recorded_at: Ints | None
    kept: Array


@dataclass(frozen=True)
class Slot:
    """One partial aggregate of one source column (None: of the rows) that a view keeps.

    ``dtype`` is None for a column that is only counted.
    """

    partial: Partial
    column: str | None
    dtype: DType | None

    @property
    def name(self) -> str:
        """Unique within a view."""
        return f"{self.partial.name}:{column_key(self.column or '', self.dtype)}"


@dataclass(frozen=True)
class ViewPlan:
    """A feature view with the types of its entity's keys.

    Raises (from ``of``):
        InvalidInput: the view names a key, or a subject, that the entity does not have.
    """

    view: FeatureView
    keys: Mapping[str, DType]

    @classmethod
    def of(cls, view: FeatureView, entity: Entity) -> ViewPlan:
        """Compile a view against its entity."""
        unknown = set(view.entity_columns) - set(entity.keys)
        if unknown or entity.name != view.entity:
            raise InvalidInput(
                f"The view {view.name!r} maps {', '.join(sorted(unknown)) or view.entity}, which "
                f"the entity {entity.name!r} does not have as a key.",
                hint=f"Its keys are {', '.join(entity.keys)}.",
            )
        if view.subject is not None and view.subject not in entity.keys:
            raise InvalidInput(
                f"The subject {view.subject!r} of the view {view.name!r} is no key of the entity "
                f"{entity.name!r}.",
                hint=f"Name the key that tells the person: {', '.join(entity.keys)}.",
            )
        return cls(view, dict(entity.keys))

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.name

    @property
    def told(self) -> str:
        """The view's source as an error names it."""
        return f"The source {self.view.source!r} of the view {self.view.name!r}"

    @cached_property
    def sealed(self) -> bool:
        """True if its values must not stand in clear."""
        secret = (Classification.PERSONAL, Classification.SENSITIVE)
        return self.view.subject is not None or self.view.classification in secret

    @cached_property
    def outputs(self) -> dict[str, Type]:
        """The features that the view offers, with their types, in order."""
        if self.view.features:
            return {feature.name: feature.dtype for feature in self.view.features}
        return {aggregate.name: aggregate.output for aggregate in self.view.aggregates}

    @cached_property
    def columns(self) -> dict[tuple[str, Type | None], None]:
        """The source columns that features need, each with the type that it must have.

        A column that is only counted may have any type (None).
        """
        needed: dict[tuple[str, Type | None], None] = {}
        for feature in self.view.features:
            needed[(feature.column, feature.dtype)] = None
        for aggregate in self.view.aggregates:
            if aggregate.column is not None:
                counts = aggregate.function is Function.COUNT
                needed[(aggregate.column, None if counts else aggregate.dtype)] = None
        return needed

    @cached_property
    def source_columns(self) -> list[str]:
        """Every column that is read from the source table."""
        return list(dict.fromkeys([*self.marking_columns, *(name for name, _ in self.columns)]))

    @cached_property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns of the source table that are read besides, if it has them."""
        return () if self.lateness_us is None else (LATE_BY,)

    @cached_property
    def source_types(self) -> dict[str, pa.DataType]:
        """The types of the source columns, as far as the view knows them."""
        view = self.view
        types = {name: arrow_type(dtype) for name, dtype in self.columns if dtype is not None}
        for key, dtype in self.keys.items():
            types[view.entity_columns.get(key, key)] = arrow_type(dtype)
        for name in (view.event_time, view.recorded_at):
            if name:
                types[name] = arrow_type(DType.TIMESTAMP)
        return types

    @cached_property
    def storage_id(self) -> bytes:
        """Eight bytes that name the layout and meaning of what is stored online.

        A view whose meaning changes gets another one: its old rows are never read as new.
        """
        left_out = {"description", "owner", "tags", "ttl", "purposes"}
        meaning = self.view.model_dump(mode="json", exclude=left_out)
        if self.view.subject is None:  # rows that are nobody's stand where they always stood
            del meaning["subject"], meaning["subject_kind"]
        meaning["keys"] = {name: dtype.value for name, dtype in self.keys.items()}
        meaning["layout"] = _LAYOUT
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()[:8]

    @property
    def subject_column(self) -> str | None:
        """The source column that names the person whom a row is about, if the view says so."""
        subject = self.view.subject
        return None if subject is None else self.view.entity_columns.get(subject, subject)

    @cached_property
    def ttl_us(self) -> int | None:
        """The time to live in microseconds."""
        return None if self.view.ttl is None else microseconds(self.view.ttl)

    @cached_property
    def lateness_us(self) -> int | None:
        """The allowed lateness in microseconds; None takes every event."""
        allowed = self.view.allowed_lateness
        return None if allowed is None else microseconds(allowed)

    @cached_property
    def marking_columns(self) -> list[str]:
        """The source columns that say which rows are events, of what, and when."""
        view = self.view
        found = [view.entity_columns.get(key, key) for key in self.keys]
        found += [view.event_time] + ([view.recorded_at] if view.recorded_at else [])
        return list(dict.fromkeys([*found, *(item.column for item in view.where)]))

    def marks(self, table: pa.Table) -> Marks:
        """Which rows of a source table are events of this view, of what, and when.

        Rows that the filter drops, rows without a key or an event time, and those that
        came too late are none.

        Args:
            table: n rows with the columns that the view reads.
            positions: (n,) where each row stands in the log of the table, if that is known.

        Raises:
            InvalidInput: a column is not there, or has a type other than declared.
        """
        view, told = self.view, self.told
        time = instants(column_of(table, view.event_time, of=told), view.event_time)
        kept = time.valid
        if self.lateness_us is not None and LATE_BY in table.column_names:
            late_by = Values.of(table.column(LATE_BY), DType.INT64, LATE_BY)
            kept = kept & ~(late_by.valid & (late_by.values > self.lateness_us))
        for item in view.where:
            kept = kept & _passes(column_of(table, item.column, of=told), item)
        keys = []
        for key, dtype in self.keys.items():
            column = view.entity_columns.get(key, key)
            array = typed(column_of(table, column, of=told), dtype, column)
            if array.null_count:
                kept = kept & array.is_valid().to_numpy(zero_copy_only=False)
            keys.append(array)
        recorded = None
        if view.recorded_at is not None:
            stated = instants(column_of(table, view.recorded_at, of=told), view.recorded_at)
            recorded = np.where(stated.valid, stated.values, time.values)
        return Marks(tuple(keys), time, recorded, kept)

    def events(self, table: pa.Table, positions: Ints | None = None) -> Events:
        """The rows of a source table that are events of this view; see ``marks``.

        Args:
            table: n rows with the columns that the view reads.
            positions: (n,) where each row stands in the log of the table, if that is known.

        Raises:
            InvalidInput: a column is not there, or has a type other than declared.
        """
        marks = self.marks(table)
        columns = {}
        for name, wanted in self.columns:
            column = column_of(table, name, of=self.told)
            columns[column_key(name, wanted)] = (
                pa.array(_validity(column)) if wanted is None else typed(column, wanted, name)
            )
        events = Events(marks.keys, marks.event_time.values, marks.recorded_at, columns, positions)
        return events if marks.kept.all() else events.take(np.flatnonzero(marks.kept))


def slots_of(aggregate: Aggregate) -> list[Slot]:
    """The partial aggregates from which an aggregate is finished (none for ``last``)."""
    if aggregate.function is Function.LAST:
        return []
    if aggregate.function is Function.COUNT:
        return [Slot(COUNT, aggregate.column, None)]
    partials = NEEDS[aggregate.function]
    return [Slot(partial, aggregate.column, aggregate.dtype) for partial in partials]


def finished(aggregate: Aggregate, states: Mapping[str, State]) -> tuple[Array, Array]:
    """Values and validity of an aggregate from merged slots by name."""
    own = {slot.partial.name: states[slot.name] for slot in slots_of(aggregate)}
    return finish(aggregate.function, own)


def column_key(column: str, dtype: Type | None) -> str:
    """The name of a source column as it is read with that type."""
    return f"{column}:{dtype.value if dtype else 'counted'}"


def _validity(column: pa.Array | pa.ChunkedArray) -> Array:
    valid = pc.is_valid(column)
    if isinstance(valid, pa.ChunkedArray):
        return np.asarray(valid.to_numpy(), dtype=np.bool_)
    return np.asarray(valid.to_numpy(zero_copy_only=False), dtype=np.bool_)


_COMPARE = {
    Operator.EQ: pc.equal,
    Operator.NE: pc.not_equal,
    Operator.LT: pc.less,
    Operator.LE: pc.less_equal,
    Operator.GT: pc.greater,
    Operator.GE: pc.greater_equal,
}


def _passes(column: pa.ChunkedArray, item: Filter) -> Array:
    """(n,) True where a row filter keeps the row."""
    if item.op is Operator.NOT_NULL:
        return _validity(column)
    if item.op is Operator.IS_NULL:
        return ~_validity(column)
    if pa.types.is_null(column.type):  # nothing is in it, and a null compares as false
        return np.zeros(len(column), np.bool_)
    try:
        if item.op is Operator.IN:
            values = pa.array(item.value).cast(column.type)
            if pa.types.is_floating(column.type):  # -0.0 + 0.0 is 0.0: they are equal, not alike
                column, values = pc.add(column, 0.0), pc.add(values, 0.0)
            kept = pc.is_in(column, value_set=values)
        else:
            kept = _COMPARE[item.op](column, pa.scalar(item.value))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InvalidInput(
            f"The filter on {item.column!r} ({column.type}) cannot compare with "
            f"{item.value!r}: {error}.",
            hint="Compare with a value of the column's type.",
        ) from None
    return np.asarray(kept.fill_null(False).to_numpy(), dtype=np.bool_)


def empty_source(plan: ViewPlan) -> pa.Table:
    """An empty table with the columns that a view reads, for a source without rows yet."""
    types = plan.source_types
    return pa.table(
        {name: pa.array([], types.get(name, pa.null())) for name in plan.source_columns}
    )
