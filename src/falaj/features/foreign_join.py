"""Views over a foreign table, joined where it lies.

First only the columns that say which rows count are read (keys, times, filters), part by
part on all processors, and matched with the entities of the spine. Then the other columns
are read of those parts alone that hold a wanted row, and only these rows are kept: what is
in memory is one part for each processor, the marks, and the answer. The answers are those
of a view over the same rows in the lake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints, Values, column_of, typed
from falaj.features.foreign import ForeignTables, Opened, Part
from falaj.features.foreign_keys import Asked
from falaj.features.model import Feature, Knowledge
from falaj.features.plan import DefinitionAccess
from falaj.features.sources import ForeignTable
from falaj.features.views import Events, ViewPlan
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput, NotFound, Unavailable

T = TypeVar("T")
_EVER = -(1 << 63)
_VALUES_AT_ONCE = 1_000_000
"""Values of a part that are read at once, about: 8 MB of numbers. Reading a part of 1M rows
column by column took 0.27 s where all ten columns at once took 0.30 to 0.35 (2 processors)."""
_MOSTLY = 0.5
"""Of a part more of which counts than this, all rows are kept: picking them costs more."""


@dataclass(frozen=True)
class _Marked:
    """The rows of one part that count; ``rows`` are their places, None for all.

    ``codes`` (n,) are int32 numbers of entities of the spine, -1 for others. ``disorder``
    is the place of the first row that is earlier than one before it, ``first`` and ``last``
    the places and instants of the first and the last row with an instant.
    """

    part: Part
    rows: Ints | None
    codes: Array
    times: Ints
    recorded: Ints | None
    disorder: int
    first: tuple[int, int] | None
    last: int


class ForeignView:
    """A view over an opened foreign table.

    Args:
        plan: the compiled view.
        opened: its source.
        ordered_by: the column whose order the owner promised; it is checked.
    """

    def __init__(self, plan: ViewPlan, opened: Opened, ordered_by: str | None = None) -> None:
        self._plan = plan
        self._opened = opened
        self._ordered = ordered_by == plan.view.event_time
        none = opened.schema.empty_table()
        for name in plan.source_columns:
            column_of(none, name, of=plan.told)

    def events(self) -> Events:
        """All events of the view; raises InvalidInput if a column does not fit."""
        columns = self._plan.source_columns
        tables = each(lambda part: part.read(columns), self._opened.parts)
        self._opened.check()
        return self._events(tables)

    def features(
        self, features: Sequence[str], keys: Sequence[pa.Array], at: Ints, knowledge: Knowledge
    ) -> dict[str, pa.Array]:
        """Features of each spine row, as known at its instant.

        Args:
            features: which of the view's.
            keys: the entity's key columns of the spine, typed, m rows each.
            at: (m,) UTC microseconds.
            knowledge: whether rows recorded later than ``at`` are invisible.

        Returns:
            By feature an Arrow array of m rows, null where nothing is known.

        Raises:
            InvalidInput: a column does not fit, or rows are not in the promised order.
            ForeignChanged: the table was written meanwhile.
        """
        asked = Asked(keys, list(self._plan.keys.values()))
        parts = self._parts(at)
        marked = each(lambda part: self._marked(part, asked, alone=len(parts) == 1), parts)
        if self._ordered:
            self._check_order(marked)
        if self._plan.view.features:
            answer = self._latest(features, marked, asked, at, knowledge)
        else:
            answer = self._aggregated(features, marked, keys, at, knowledge)
        self._opened.check()
        return answer

    def _parts(self, at: Ints) -> list[Part]:
        """The parts that may hold rows of the past of some spine row."""
        last = int(at.max()) if len(at) else _EVER
        kept = []
        for part in self._opened.parts:
            least = part.least(self._plan.view.event_time)
            known = isinstance(least, datetime) and least.tzinfo is not None
            if not (known and isinstance(least, datetime) and microseconds(least) > last):
                kept.append(part)
        return kept

    def _marked(self, part: Part, asked: Asked, *, alone: bool) -> _Marked:
        """One part; if it is ``alone``, the processors share its columns."""
        columns = self._plan.marking_columns
        if alone:
            tables = each(part.read, _groups(columns, part))
            table = pa.table(
                {name: one.column(name) for one in tables for name in one.column_names}
            )
        else:
            table = part.read(columns)
        marks = self._plan.marks(table)
        time = marks.event_time
        codes = asked.codes_of(marks.keys, marks.kept)
        disorder, first, last = _order_of(time) if self._ordered else (-1, None, _EVER)
        count = int(np.count_nonzero(codes >= 0))
        if time.valid.all() and count > _MOSTLY * len(codes):
            return _Marked(part, None, codes, time.values, marks.recorded_at, disorder, first, last)
        rows = np.flatnonzero(codes >= 0)
        recorded = None if marks.recorded_at is None else marks.recorded_at[rows]
        return _Marked(part, rows, codes[rows], time.values[rows], recorded, disorder, first, last)

    def _check_order(self, marked: Sequence[_Marked]) -> None:
        latest = _EVER
        for one in marked:
            if one.first is None:
                continue
            wrong = one.first[0] if one.first[1] < latest else one.disorder
            if wrong >= 0:
                raise InvalidInput(
                    f"{self._plan.told} is not in the order of "
                    f"{self._plan.view.event_time!r}, as it promises: row {wrong + 1} of "
                    f"{one.part.name} is earlier than a row before it.",
                    hint="Leave `ordered_by` out of the foreign table: it is sorted then.",
                )
            latest = one.last

    def _aggregated(
        self,
        features: Sequence[str],
        marked: Sequence[_Marked],
        keys: Sequence[pa.Array],
        at: Ints,
        knowledge: Knowledge,
    ) -> dict[str, pa.Array]:
        from falaj.features.index.building import run_of
        from falaj.features.index.runs import ALL, Span
        from falaj.features.windows import aggregated

        events = self._only(marked)
        run = run_of(self._plan, events, Span(self._opened.pin, 0, ALL, len(events), 0))
        hide_late = knowledge is Knowledge.RECORDED
        return aggregated(self._plan, features, [run], keys, at, hide_late=hide_late, bound=ALL)

    def _latest(
        self,
        features: Sequence[str],
        marked: Sequence[_Marked],
        asked: Asked,
        at: Ints,
        knowledge: Knowledge,
    ) -> dict[str, pa.Array]:
        codes = _concatenated([one.codes for one in marked], np.int32)
        times = _concatenated([one.times for one in marked], np.int64)
        recorded = None
        if self._plan.view.recorded_at is not None:
            recorded = _concatenated([one.recorded for one in marked], np.int64)
        order = None
        if not self._ordered and bool((times[1:] < times[:-1]).any()):
            order = np.argsort(times, kind="stable")
            codes, times = codes[order], times[order]
            recorded = None if recorded is None else recorded[order]
        if recorded is None:
            found = _last_before(codes, times, asked, at)
        else:
            hidden = knowledge is Knowledge.RECORDED
            found = _last_known(codes, times, recorded, asked, at, hidden=hidden)
        there = found >= 0
        if self._plan.ttl_us is not None:
            there[there] = times[found[there]] > at[there] - self._plan.ttl_us
        if order is not None:
            found = order[found]
        return self._gathered(features, marked, found, there)

    def _gathered(
        self, features: Sequence[str], marked: Sequence[_Marked], found: Ints, there: Array
    ) -> dict[str, pa.Array]:
        """The features of the found rows, null where there is none.

        Args:
            features: which of the view's.
            marked: the parts.
            found: (m,) places among all marked rows.
            there: (m,) False where ``found`` means nothing.
        """
        wanted, place = np.unique(found[there], return_inverse=True)
        edges = np.cumsum([0, *(len(one.codes) for one in marked)])
        bounds = np.searchsorted(wanted, edges)
        needed = [number for number in range(len(marked)) if bounds[number] < bounds[number + 1]]
        offered = {feature.name: feature for feature in self._plan.view.features}
        pieces: dict[tuple[str, int], pa.Array] = {}

        def read(task: tuple[int, list[str]]) -> None:
            number, names = task
            one = marked[number]
            rows = wanted[bounds[number] : bounds[number + 1]] - edges[number]
            taken = pa.array(rows if one.rows is None else one.rows[rows])
            table = one.part.read(list(dict.fromkeys(offered[name].column for name in names)))
            for name in names:
                pieces[name, number] = _typed(offered[name], table, taken)

        tasks = [(n, names) for n in needed for names in _groups(features, marked[n].part)]
        each(read, tasks)
        rows = np.zeros(len(found), np.int64)
        rows[there] = place
        at = pa.array(rows, mask=~there)
        none = self._opened.schema.empty_table()
        answer = {}
        for name in features:
            parts = [_typed(offered[name], none, None), *(pieces[name, n] for n in needed)]
            answer[name] = pa.concat_arrays(parts).take(at)
        return answer

    def _only(self, marked: Sequence[_Marked]) -> Events:
        """The events of asked entities alone, with all columns."""
        columns = self._plan.source_columns

        def read(one: _Marked) -> pa.Table:
            table = one.part.read(columns)
            return table if one.rows is None else table.take(pa.array(one.rows))

        return self._events(each(read, [one for one in marked if len(one.codes)]))

    def _events(self, tables: Iterable[pa.Table]) -> Events:
        """The events among consecutive rows."""
        none = self._opened.schema.empty_table().select(self._plan.source_columns)
        whole = pa.concat_tables([none, *tables], promote_options="permissive")
        return self._plan.events(whole, np.arange(whole.num_rows))


class Foreign:
    """The views of foreign tables among others.

    Args:
        definitions: tell which tables are foreign; None: none is.
        tables: opens them; None where this process cannot.
    """

    def __init__(self, definitions: DefinitionAccess | None, tables: ForeignTables | None) -> None:
        self._definitions = definitions
        self._tables = tables

    def table(self, name: str) -> ForeignTable | None:
        """The foreign table of that name, if there is one."""
        if self._definitions is None:
            return None
        try:
            found = self._definitions.get(ForeignTable.kind, name)
        except NotFound:
            return None
        return found if isinstance(found, ForeignTable) else None

    def pins(self, plans: Iterable[ViewPlan]) -> dict[str, str]:
        """The version of each foreign table that the views read, by its name, as it is now.

        Raises:
            SourceBroken, ForeignUnreadable: it cannot be opened.
        """
        found = (self.table(name) for name in dict.fromkeys(plan.view.source for plan in plans))
        return {one.name: self._opened(one, None).pin for one in found if one is not None}

    def views(self, plans: Iterable[ViewPlan], pins: Mapping[str, str]) -> dict[str, ForeignView]:
        """Those of the views that read foreign tables, each table opened once.

        Args:
            plans: compiled views.
            pins: the versions to open, by table; the present one where none is named.

        Raises:
            SourceBroken, ForeignUnreadable: a table cannot be opened.
            ForeignChanged: a pinned version is gone.
        """
        opened: dict[str, Opened] = {}
        found: dict[str, ForeignView] = {}
        for plan in plans:
            table = self.table(plan.view.source)
            if table is None:
                continue
            if table.name not in opened:
                opened[table.name] = self._opened(table, pins.get(table.name))
            found[plan.name] = ForeignView(plan, opened[table.name], table.ordered_by)
        return found

    def _opened(self, table: ForeignTable, pin: str | None) -> Opened:
        if self._tables is None:
            raise Unavailable(
                f"The foreign table {table.name!r} cannot be read by this process.",
                hint="Ask the control plane or a worker.",
            )
        return self._tables.open(table, pin)


def _typed(feature: Feature, table: pa.Table, rows: pa.Array | None) -> pa.Array:
    """A feature's column of some rows of a table (of all, if None)."""
    column = table.column(feature.column)
    taken = column if rows is None else column.take(rows)
    return typed(taken, feature.dtype, feature.column)


def _groups(names: Sequence[str], part: Part) -> list[list[str]]:
    """Columns to read at once: few of a large part, so that memory is used again."""
    size = max(1, _VALUES_AT_ONCE // max(part.n_rows or _VALUES_AT_ONCE, 1))
    return [list(names[low : low + size]) for low in range(0, len(names), size)]


def _order_of(time: Values) -> tuple[int, tuple[int, int] | None, int]:
    """First row out of order (or -1), first row with an instant and that, the last instant."""
    from falaj.features import kernels_foreign

    some = np.flatnonzero(time.valid[:1]) if time.valid[:1].all() else np.flatnonzero(time.valid)
    if not len(some):
        return -1, None, _EVER
    first = (int(some[0]), int(time.values[some[0]]))
    last = len(time.valid) - 1 - int(np.argmax(time.valid[::-1]))
    disorder = int(kernels_foreign.first_disorder(time.values, time.valid, _EVER))
    return disorder, first, int(time.values[last])


def _last_before(codes: Array, times: Ints, asked: Asked, at: Ints) -> Ints:
    """(m,) the last row of each asked entity at or before each instant, -1 for none."""
    from falaj.features import kernels_foreign

    order = np.argsort(at, kind="stable")
    limits = np.searchsorted(times, at[order], "right")
    out = np.empty(len(at), np.int64)
    kernels_foreign.swept(codes, limits, asked.codes[order], asked.n, out)
    found = np.empty(len(at), np.int64)
    found[order] = out
    return found


def _last_known(
    codes: Array, times: Ints, recorded: Ints, asked: Asked, at: Ints, *, hidden: bool
) -> Ints:
    """The same among rows that were recorded later than they happened.

    Args:
        hidden: rows count only from the instant on at which they were recorded.
    """
    from falaj.features import kernels_foreign

    starts, rows = kernels_foreign.grouped(codes, asked.n)
    kernels_foreign.ties_ordered(starts, rows, times, recorded)
    known = np.maximum(recorded, times) if hidden else times
    least = kernels_foreign.earliest_known(rows, known)
    found = np.empty(len(at), np.int64)
    kernels_foreign.latest_known(starts, rows, times, known, least, asked.codes, at, found)
    return found


def _concatenated(arrays: Sequence[Any], dtype: Any) -> Array:
    if len(arrays) == 1:
        return np.asarray(arrays[0], dtype)
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def each(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """``work`` of each item, in order, on all processors; raises what one of them raised."""
    from falaj.features.kernels import processors

    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(processors(), len(items)), "foreign") as threads:
        return list(threads.map(work, items))
