"""A stream, compiled: the columns of its events, and the views that they feed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.catalog.model import Classification
from falaj.features.columns import arrow_type, typed
from falaj.features.entitykeys import LONGEST_KEY
from falaj.features.model import FeatureView
from falaj.features.sources import ForeignTable, Stream
from falaj.features.streams.contracts import RowContracts
from falaj.features.streams.decoding import encoded
from falaj.features.streams.sealedrows import SealedRows
from falaj.features.subjectviews import subject_of
from falaj.features.types import DType, Type
from falaj.features.versions import AppliedViews, live_plans
from falaj.features.views import LATE_BY, ViewPlan
from falaj.ingest.model import Contract
from falaj.kernel.clock import monotonic
from falaj.kernel.errors import InvalidInput
from falaj.lake.personal import PersonalGroup, PersonalRule

Schema = Callable[[str], Mapping[str, pa.DataType] | None]
"""The columns of a lake table; None if there is no such table yet."""
_KEPT_SECONDS = 1.0
_ENCODED_BYTES = 16
"""More than the code of one part of an entity key adds to its text."""


@dataclass(frozen=True)
class StreamPlan:
    """Everything that decides what becomes of an event of one table.

    Args:
        table: the lake table; also the stream's name.
        stream: as it was declared, or None for a table that is only pushed to.
        views: those that read the table.
        contracts: what the table's contracts ask of each row by itself.
        stands: the columns of the lake table as far as it stands.
        subject: the column that names the person whom an event is about, and the kind of
            persons; None if events are about nobody.
        sealed_rows: seals the events of persons in the log, and opens them.
    """

    table: str
    stream: Stream | None
    views: tuple[ViewPlan, ...]
    contracts: RowContracts | None
    stands: Mapping[str, pa.DataType]
    subject: tuple[str, str] | None = None
    sealed_rows: SealedRows = field(default_factory=lambda: SealedRows(None))

    def payload(self, rows: pa.RecordBatch) -> bytes:
        """Rows as a payload of the log; raises Unavailable if keys cannot be made."""
        if self.subject is None:
            return encoded(rows)
        return self.sealed_rows.sealed(self.topic, rows, self.subject, self.event_time)

    def named(self, row: Mapping[str, Any]) -> str | None:
        """The name of the person whom a row is about, if it tells it."""
        value = None if self.subject is None else row.get(self.subject[0])
        return None if value is None else str(value)

    @cached_property
    def rules(self) -> tuple[PersonalRule, ...]:
        """What the lake seals of the events and of their dead letters, under whose keys.

        Of a stream those columns are personal that are classified so, or are not classified in
        a stream that is, but its times; of a table that no stream describes, all but its times.
        """
        if self.subject is None:
            return ()
        column, kind = self.subject
        of_persons = (Classification.PERSONAL, Classification.SENSITIVE)
        times: set[str | None] = {view.view.event_time for view in self.views}
        times |= {view.view.recorded_at for view in self.views}
        said: Mapping[str, Classification] = {}
        rest = True
        if self.stream is not None:
            times |= {self.stream.event_time, self.stream.recorded_at}
            said, rest = self.stream.classifications, self.stream.classification in of_persons
        personal = tuple(
            name
            for name in self.types
            if name != column
            and (said[name] in of_persons if name in said else rest and name not in times)
        )
        group = PersonalGroup(subject=column, kind=kind, columns=personal)
        letters = PersonalGroup(subject="subject", kind=kind, columns=("reason", "payload"))
        return (
            PersonalRule(table=self.table, groups=(group,)),
            PersonalRule(table=self.dead_letters, groups=(letters,)),
        )

    @cached_property
    def topic(self) -> str:
        """The topic of the event log."""
        return (self.stream.topic if self.stream else None) or self.table

    @cached_property
    def n_partitions(self) -> int:
        """How many partitions the topic is made with."""
        return self.stream.partitions if self.stream else 1

    @cached_property
    def dead_letters(self) -> str:
        """The lake table of what could not be taken."""
        return self.stream.dead_letters if self.stream else f"{self.table[:50]}_dead_letters"

    @cached_property
    def event_time(self) -> str | None:
        """The column by which events are late or not."""
        if self.stream is not None:
            return self.stream.event_time
        return self.views[0].view.event_time if self.views else None

    @cached_property
    def storages(self) -> tuple[bytes, ...]:
        """The views' places in the online store."""
        return tuple(view.storage_id for view in self.views)

    @cached_property
    def judges_lateness(self) -> bool:
        """True if some view sets late events aside."""
        return any(view.lateness_us is not None for view in self.views)

    @cached_property
    def types(self) -> dict[str, pa.DataType]:
        """The types of the columns that are known: as declared, as they stand, as views ask."""
        if self.stream is not None:
            found = {name: arrow_type(kind) for name, kind in self.stream.columns.items()}
            if self.stream.recorded_at is not None:
                found.setdefault(self.stream.recorded_at, arrow_type(DType.TIMESTAMP))
            return found
        found = {}
        for view in self.views:
            for name, kind in view.source_types.items():
                found.setdefault(name, kind)
        found.update((name, kind) for name, kind in self.stands.items() if name != LATE_BY)
        return found

    # ── fitting ──────────────────────────────────────────────────────────────────────

    def fitted(self, rows: pa.Table) -> pa.Table:
        """Rows with the columns and types of the stream, whole.

        Raises:
            InvalidInput: a column is missing or not known, a value has another type, or
                one of the views cannot read it.
            LimitExceeded: an entity's key is too long.
        """
        _check_sound(self.table, rows)
        if rows.schema in self._known:  # as those that were fitted before
            for field in rows.schema:
                if pa.types.is_timestamp(field.type):
                    typed(rows.column(field.name), DType.TIMESTAMP, field.name)
            if self.stream is not None:
                self._check_times(rows)
            self._check_keys(rows)
            return rows
        rows = self._declared(rows) if self.stream is not None else self._standing(rows)
        if rows.schema in self._known:
            self._check_keys(rows)
        else:
            for view in self.views:
                view.events(rows)
            self._check_keys(rows)
            self._remember(rows.schema)
        return rows

    def _declared(self, rows: pa.Table) -> pa.Table:
        assert self.stream is not None  # noqa: S101 - asked by `fitted`
        stream, columns = self.stream, dict[str, pa.Array]()
        unknown = [name for name in rows.column_names if name not in self.types]
        if unknown:
            raise InvalidInput(
                f"The stream {self.table!r} has no column {unknown[0]!r}.",
                hint=f"It has: {', '.join(self.types)}.",
            )
        kinds: dict[str, Type] = dict(stream.columns)
        if stream.recorded_at is not None:
            kinds.setdefault(stream.recorded_at, DType.TIMESTAMP)
        for name, kind in kinds.items():
            if name in rows.column_names:
                columns[name] = typed(rows.column(name), kind, name)
            elif name == stream.recorded_at:
                columns[name] = pa.nulls(rows.num_rows, arrow_type(kind))
            else:
                raise InvalidInput(
                    f"The rows for the stream {self.table!r} lack the column {name!r}.",
                    hint="Give every declared column; null where there is no value.",
                )
        fitted = pa.table(columns)
        self._check_times(fitted)
        return fitted

    def _check_times(self, rows: pa.Table) -> None:
        assert self.stream is not None  # noqa: S101 - asked by `fitted`
        column = rows.column(self.stream.event_time)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise InvalidInput(
                f"Row {row} has no {self.stream.event_time!r}, which is its event time.",
                hint="Say of every event when it happened.",
            )

    def _standing(self, rows: pa.Table) -> pa.Table:
        """Without a declared stream: as the lake table stands, and as the views need it."""
        columns = {}
        for name in rows.column_names:
            column, wanted = rows.column(name), self.types.get(name)
            if name == LATE_BY:
                raise InvalidInput(
                    f"The column {name!r} is the platform's own.", hint="Name yours otherwise."
                )
            kind = _SCALARS.get(wanted)
            if kind is not None and column.type != wanted:
                columns[name] = typed(column, kind, name)
            else:
                columns[name] = column
        missing = [name for name in self.stands if name not in columns and name != LATE_BY]
        if missing:
            raise InvalidInput(
                f"The rows for {self.table!r} lack the column {missing[0]!r}.",
                hint="Give every column of the table; null where there is no value.",
            )
        unknown = [name for name in columns if self.stands and name not in self.stands]
        if unknown:
            raise InvalidInput(
                f"The table {self.table!r} has no column {unknown[0]!r}.",
                hint=f"It has: {', '.join(self.stands)}.",
            )
        return pa.table(columns)

    @cached_property
    def _known(self) -> set[pa.Schema]:
        return set()

    def _remember(self, schema: pa.Schema) -> None:
        """Rows of this form need no further look if every view reads them as they are.

        Lists are looked into each time: no type says that no element of them is null.
        """
        if any(pa.types.is_nested(field.type) for field in schema):
            return
        for view in self.views:
            for name, kind in view.source_types.items():
                if schema.field(name).type != kind:
                    return
        self._known.add(schema)

    @cached_property
    def _text_keys(self) -> list[tuple[ViewPlan, list[str]]]:
        return [
            (view, [view.view.entity_columns.get(key, key) for key in view.keys])
            for view in self.views
            if DType.STRING in view.keys.values()
        ]

    def _check_keys(self, rows: pa.Table) -> None:
        for view, columns in self._text_keys:
            size = 0
            for column in columns:
                chunks = rows.column(column).chunks
                size += max(map(_longest, chunks), default=0) + _ENCODED_BYTES
            if size > LONGEST_KEY:
                _check_each(view, rows)


def _longest(column: pa.Array) -> int:
    """At least the bytes of the longest text, quickly: all of them, if there are few."""
    if not pa.types.is_string(column.type):
        return 8
    if len(column) * 64 < LONGEST_KEY:
        return int(column.nbytes)
    lengths = np.diff(
        np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    )
    return int(lengths.max(initial=0))


def _check_each(view: ViewPlan, rows: pa.Table) -> None:
    """Refuse rows with a key that no store takes; raises LimitExceeded."""
    from falaj.features.entitykeys import KeyCodec

    KeyCodec(view.storage_id, view.keys).column(view.events(rows).keys)


_SCALARS = {arrow_type(kind): kind for kind in DType}


class StreamPlans:
    """The compiled streams of a platform, made again when definitions change.

    Args:
        definitions: the applied ones.
        schema: tells the columns of lake tables.
        version: something that differs once definitions have changed; without it every
            plan is made anew at each use.
        checker: makes the row checks of a table's contracts.
        sealed_rows: seals the events of persons in the log, and opens them.
    """

    def __init__(
        self,
        definitions: AppliedViews,
        schema: Schema,
        *,
        version: Callable[[], object] | None = None,
        checker: Callable[[Sequence[Contract]], RowContracts | None],
        sealed_rows: SealedRows | None = None,
    ) -> None:
        self._definitions = definitions
        self._schema = schema
        self._version = version
        self._checker = checker
        self._sealed_rows = sealed_rows or SealedRows(None)
        self._seen: object = None
        self._kept: dict[str, tuple[StreamPlan, float]] = {}

    def of(self, table: str) -> StreamPlan:
        """The plan of a table's stream, of the definitions as they stand.

        Raises:
            InvalidInput: no stream of that name is declared, and no view reads the table.
        """
        if self._version is not None:
            now = self._version()
            if now != self._seen:
                self._kept.clear()
                self._seen = now
            kept = self._kept.get(table)
            if kept is not None and (kept[0].stands or kept[1] > monotonic()):
                return kept[0]
        plan = self._made(table)
        self._kept[table] = (plan, monotonic() + _KEPT_SECONDS)
        return plan

    def forget(self, table: str) -> None:
        """Make this plan anew at its next use: the lake table has changed."""
        self._kept.pop(table, None)

    def tables(self) -> list[str]:
        """The streams: those declared, and the tables of views that are no foreign ones."""
        declared = {item.name for item in self._definitions.all(Stream.kind)}
        foreign = {item.name for item in self._definitions.all(ForeignTable.kind)}
        views = self._definitions.all(FeatureView.kind)
        read = {view.source for view in views if isinstance(view, FeatureView)}
        return sorted(declared | (read - foreign))

    def _made(self, table: str) -> StreamPlan:
        streams = [
            item
            for item in self._definitions.all(Stream.kind)
            if isinstance(item, Stream) and item.name == table
        ]
        if any(item.name == table for item in self._definitions.all(ForeignTable.kind)):
            raise InvalidInput(
                f"{table!r} is a foreign table: nothing is pushed to it.",
                hint="Whoever owns it writes it; `falaj features materialize VIEW` reads it.",
            )
        views = [plan for plan in live_plans(self._definitions) if plan.view.source == table]
        if not views and not streams:
            raise InvalidInput(
                f"No stream {table!r} is declared, and no feature view reads that table.",
                hint="Apply a stream or a view with this source, or load it with a pipeline.",
            )
        contracts = [
            item
            for item in self._definitions.all(Contract.kind)
            if isinstance(item, Contract) and item.table == table
        ]
        return StreamPlan(
            table,
            streams[0] if streams else None,
            tuple(views),
            self._checker(contracts) if contracts else None,
            dict(self._schema(table) or {}),
            subject_of(self._definitions, table),
            self._sealed_rows,
        )


def _check_sound(table: str, rows: pa.Table) -> None:
    """Refuse rows that could never be landed: they would stop all that comes behind them."""
    names = rows.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(
            f"The rows for {table!r} have two columns {twice!r}.", hint="Rename or drop one."
        )
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidInput(
            f"The rows for {table!r} are damaged: {error}.",
            hint="Write text as UTF-8, and let an Arrow library make the columns.",
        ) from None
