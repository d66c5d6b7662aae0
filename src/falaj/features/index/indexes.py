"""Which runs answer for a view at a snapshot of the lake, kept and brought up to date.

An index is a chain of runs that cover the log of a source table from its beginning. Rows
of the lake never change, so a chain holds for a snapshot if the table still has as many
rows at the positions that the chain covers as it read there. Then only rows at later
positions are read, into a small run; small runs are read again as one when they have
become several. A table that was replaced, or lost rows, is indexed anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from falaj.features.index.building import run_of
from falaj.features.index.files import RunFiles
from falaj.features.index.runs import Run, Span
from falaj.features.views import Events, ViewPlan, empty_source
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.model import Extent
from falaj.lake.ports import Lake

BUDGET = 4 * 2**30
"""Bytes of runs that are held in memory, unless the settings say otherwise."""
_EXTENTS = 4_096
_HISTORIES = 3
"""So many chains of a table that lost rows are held: a pinned past is asked beside the present."""
_PATHS = 32
"""So many ways to chain files are tried."""
_SMALL = 1 / 2
"""A run is read again with the next one if that has at least this share of its rows."""


@dataclass(frozen=True)
class Chain:
    """Runs that cover the log of one table from its beginning, and are of one meaning."""

    runs: tuple[Run, ...]

    @property
    def spans(self) -> list[Span]:
        """Which rows of the source each run covers."""
        return [run.span for run in self.runs]

    @property
    def end(self) -> int:
        """The first position that is not covered."""
        return self.runs[-1].span.end

    @property
    def n_rows(self) -> int:
        """The rows of the source that were read."""
        return sum(run.span.n_rows for run in self.runs)

    @property
    def n_bytes(self) -> int:
        """What all runs take in memory."""
        return sum(run.n_bytes for run in self.runs)


@dataclass(frozen=True)
class _Seen:
    """What the lake said of a table at a snapshot, and when (seconds of a steady clock)."""

    extent: Extent | None
    at: float


class Indexes:
    """The indexes of views over a lake; safe from many threads, and among processes.

    Args:
        lake: the source tables.
        files: keeps runs between processes; None holds them in memory alone, as the
            indexes of views are whose values must not stand in clear.
        budget: bytes of runs held in memory; beyond it the least recently used are let go.
        recheck_seconds: for so long it is taken for granted that a snapshot of the lake
            which was there has not expired.
        erasures: how many persons have been erased; views about persons are indexed anew
            when another one was, so that no erased row is answered from memory.
    """

    def __init__(
        self,
        lake: Lake,
        files: RunFiles | None = None,
        *,
        budget: int = BUDGET,
        recheck_seconds: float = 60.0,
        erasures: Callable[[], int] | None = None,
    ) -> None:
        self.lake = lake
        self._files = files
        self._budget = budget
        self._recheck_seconds = recheck_seconds
        self._erasures = erasures
        self._lock = threading.Lock()
        self._building: dict[str, threading.Lock] = {}
        self._held: OrderedDict[tuple[str, str], tuple[Chain, ...]] = OrderedDict()
        self._extents: OrderedDict[tuple[str, int, int | None], _Seen] = OrderedDict()

    def runs(self, plan: ViewPlan, snapshot: int) -> tuple[Sequence[Run], int]:
        """The runs that answer for a view at a snapshot, and the end of the log there.

        Events at positions from that end on were written later and must not be seen.

        Raises:
            NotFound: no such snapshot. InvalidInput: the table lacks a column or has it of
                another type.
        """
        key = self._key(plan)
        extent = self._extent(plan.view.source, snapshot)
        if extent is None:
            return (self._nothing(plan, snapshot),), 0
        with self._lock:
            building = self._building.setdefault(key, threading.Lock())
        with building:
            held = self._held.get((key, extent.identity), ())
            chain = next(
                (one for one in held if self._holds(one.spans, plan, snapshot, extent)), None
            ) or self._kept(plan, snapshot, extent)
            others = tuple(one for one in held if one is not chain)
            if chain is None:
                chain = Chain((self._read(plan, snapshot, 0, extent),))
            elif extent.end > chain.end:
                chain = self._extended(chain, plan, snapshot, extent)
            self._keep((key, extent.identity), (chain, *others)[:_HISTORIES])
        return chain.runs, extent.end

    def _kept(self, plan: ViewPlan, snapshot: int, extent: Extent) -> Chain | None:
        """A chain out of files that holds at a snapshot, if there is one."""
        if self._files is None or plan.sealed:
            return None
        key = meaning(plan)
        spans = [one for one in self._files.spans(key) if one.identity == extent.identity]
        for path in islice(chained(spans, 0), _PATHS):
            if self._holds(path, plan, snapshot, extent):
                runs = [self._files.load(key, span) for span in path]
                whole = tuple(run for run in runs if run is not None)
                if len(whole) == len(path):
                    return Chain(whole)
        return None

    @property
    def n_held(self) -> int:
        """How many indexes are held now."""
        return len(self._held)

    def _extent(self, table: str, snapshot: int, before: int | None = None) -> Extent | None:
        """The extent of a table; None if there is none."""
        asked = (table, snapshot, before)
        now = time.monotonic()
        with self._lock:
            seen = self._extents.get(asked)
        if seen is not None and now - seen.at < self._recheck_seconds:
            return seen.extent
        try:
            found: Extent | None = self.lake.extent(table, snapshot, before=before)
        except NotFound:
            self.lake.tables(snapshot)  # raises if it is the snapshot that is not there
            found = None
        with self._lock:
            self._extents[asked] = _Seen(found, now)
            while len(self._extents) > _EXTENTS:
                self._extents.popitem(last=False)
        return found

    def _key(self, plan: ViewPlan) -> str:
        """What the view's index is held under; what was held before an erasure is let go."""
        key = meaning(plan)
        if self._erasures is None or not plan.sealed:
            return key  # it holds nothing of persons
        now = f"{key}-{self._erasures()}"
        with self._lock:
            for held in [held for held in self._held if held[0].startswith(key)]:
                if held[0] != now:
                    del self._held[held]
        return now

    def forget(self, plan: ViewPlan) -> None:
        """Drop a view's index from memory and from disk, as when rows have been erased."""
        key = meaning(plan)
        with self._lock:
            for held in [held for held in self._held if held[0].startswith(key)]:
                del self._held[held]
        if self._files is not None:
            self._files.forget(key)

    def _holds(self, spans: Sequence[Span], plan: ViewPlan, snapshot: int, extent: Extent) -> bool:
        """True if the rows that a chain has read are those that the table has at a snapshot."""
        table, end = plan.view.source, spans[-1].end
        if extent.end >= end:
            there = self._extent(table, snapshot, end)
            return there is not None and there.n_rows == sum(span.n_rows for span in spans)
        there = self._extent(table, spans[-1].snapshot, extent.end)
        return (
            there is not None
            and there.identity == extent.identity
            and there.n_rows == extent.n_rows
        )

    def _extended(self, chain: Chain, plan: ViewPlan, snapshot: int, extent: Extent) -> Chain:
        """The chain with the rows that came later; read again with runs that are no larger."""
        kept = list(chain.runs)
        n_new = extent.n_rows - chain.n_rows
        while kept and n_new >= _SMALL * kept[-1].span.n_rows:
            n_new += kept.pop().span.n_rows
        begin = kept[-1].span.end if kept else 0
        return Chain((*kept, self._read(plan, snapshot, begin, extent)))

    def _read(self, plan: ViewPlan, snapshot: int, begin: int, extent: Extent) -> Run:
        events, n_rows = source_events(self.lake, plan, snapshot, since=begin)
        run = run_of(plan, events, Span(extent.identity, begin, extent.end, n_rows, snapshot))
        if self._files is None or plan.sealed:
            return run
        return self._files.save(meaning(plan), run)

    def _nothing(self, plan: ViewPlan, snapshot: int) -> Run:
        none = plan.events(empty_source(plan), np.empty(0, np.int64))
        return run_of(plan, none, Span("", 0, 0, 0, snapshot))

    def _keep(self, key: tuple[str, str], chains: tuple[Chain, ...]) -> None:
        with self._lock:
            self._held[key] = chains
            self._held.move_to_end(key)
            sizes = {key: sum(chain.n_bytes for chain in held) for key, held in self._held.items()}
            total = sum(sizes.values())
            while total > self._budget and len(self._held) > 1:
                gone, _ = self._held.popitem(last=False)
                total -= sizes[gone]


def chained(spans: Sequence[Span], begin: int) -> Iterator[tuple[Span, ...]]:
    """The ways to cover a log from a position on by spans, those that reach far first."""
    fitting = [span for span in spans if span.begin == begin and span.end > begin]
    for span in sorted(fitting, key=lambda one: (one.end, one.snapshot), reverse=True):
        for rest in chained(spans, span.end):
            yield (span, *rest)
        yield (span,)


def meaning(plan: ViewPlan) -> str:
    """What an index of the view depends on, in 32 hexadecimal digits; views may share one."""
    view = plan.view
    said = {
        "source": view.source,
        "event_time": view.event_time,
        "recorded_at": view.recorded_at,
        "keys": [[view.entity_columns.get(k, k), dtype.value] for k, dtype in plan.keys.items()],
        "columns": [[name, dtype.value if dtype else None] for name, dtype in plan.columns],
        "where": [item.model_dump(mode="json") for item in view.where],
        "sealed": plan.sealed,
        **({} if view.subject is None else {"subject": [view.subject, view.subject_kind]}),
        "late": plan.lateness_us,
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def source_events(
    lake: Lake, plan: ViewPlan, snapshot: int, *, since: int = 0
) -> tuple[Events, int]:
    """The events of a view in the lake from a position on, and how many rows were read.

    Raises:
        NotFound: no such table. InvalidInput: it lacks a column or has it of another type.
    """
    table, columns = plan.view.source, plan.source_columns
    there = lake.schema(table, snapshot).names
    lacking = [name for name in columns if name not in there]
    if lacking:
        raise InvalidInput(
            f"The table {table!r} has no column {lacking[0]!r}, which a view reads.",
            hint=f"It has: {', '.join(there)}.",
        )
    columns = [*columns, *(name for name in plan.optional_columns if name in there)]
    read = lake.log(table, columns=columns, snapshot=snapshot, since=since).read_all().columns
    positions = np.asarray(read[0].to_numpy(), np.int64)
    for place, column in enumerate(read):  # one by one: pieces and wholes take twice the room
        read[place] = column.combine_chunks()
    return plan.events(pa.table(read[1:], names=columns), positions), len(positions)
