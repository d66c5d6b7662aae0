"""A window view in the online store: merging events into it, and making it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Ints
from falaj.features.entitykeys import KeyCodec
from falaj.features.grouping import numbered
from falaj.features.hops import Kept
from falaj.features.ports import Merge, OnlineStore, Write
from falaj.features.sealing import Sealing
from falaj.features.subjectsealing import SubjectKeyCodec
from falaj.features.tiles import N_GENERATIONS, Mark, TileLayout, chunk_of, chunk_prefix, first_tile
from falaj.features.tilewriting import Batch, Rows, TileMerge, applied
from falaj.features.views import Events, ViewPlan
from falaj.kernel.errors import FalajError

_EVENTS_PER_WRITE = 200_000
_ROWS_PER_REMOVAL = 50_000
Keys = KeyCodec | SubjectKeyCodec
"""What encodes the keys of entities."""


class Superseded(FalajError):
    """A rebuilt view would lose events that were applied while it was being rebuilt."""

    code = "superseded"
    retryable = True


@dataclass(frozen=True)
class Rebuilt:
    """A view that was made anew beside what is read.

    ``merge`` turns readers and writers over to it; it raises Superseded if events of a later
    snapshot were applied, or if the view was rebuilt by someone else, meanwhile. ``finish``,
    called after that was written, removes what was read before.
    """

    merge: Merge
    n_entities: int
    finish: Callable[[], None]


class WindowStorage:
    """One window view in the store.

    Args:
        plan: the compiled view.
        prefix: what its keys begin with.
        keys: encodes the keys of entities. sealer: encrypts what rows hold.
    """

    def __init__(self, plan: ViewPlan, prefix: bytes, keys: Keys, sealer: Sealing | None) -> None:
        self.plan = plan
        self.keys = keys
        self.layout = TileLayout(plan, prefix, sealer)
        self._generation = 0  # the last that was seen; a wrong guess costs one more reading

    def applier(
        self, events: Events, now_us: int, since: int | None = None
    ) -> Callable[[int], Merge]:
        """Prepares the merge of new events; see ``ViewStorage.applier``."""
        batch = self._batch(events, now_us, since)

        def merge(position: int) -> Merge:
            marked = applied(position)

            def seen(mark: Mark) -> tuple[Mark, int] | None:
                self._generation = mark.generation
                return marked(mark)

            return TileMerge(self.layout, batch, seen, self._generation).merge()

        return merge

    def _batch(self, events: Events, now_us: int, since: int | None) -> Batch:
        """Events with their entities numbered in the order of the keys."""
        owner, first = numbered(events.keys)
        keys = self.keys.column([key.take(pa.array(first)) for key in events.keys], since)
        order = pc.sort_indices(pa.array(keys, pa.binary())).to_numpy()
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        kept = self.layout.heads.kept(events)
        return Batch([keys[i] for i in order.tolist()], rank[owner], kept, now_us)

    # ── rebuilding ───────────────────────────────────────────────────────────────────

    def rebuilt(
        self,
        store: OnlineStore,
        events: Events,
        now_us: int,
        snapshot: int,
        since: int | None = None,
    ) -> Rebuilt:
        """Make the view anew of these events, beside what is read, in as many writes as needed.

        Raises:
            Superseded: someone else has begun to rebuild it.
            ErasedMeanwhile: another person was erased since the events were read.
        """
        building, before = self._begun(store)
        for old in {building, before} - {self._generation}:
            self._removed(store, old)
        whole = self._batch(events, now_us, since)
        for batch in _batches(whole):
            merge = TileMerge(self.layout, batch, self._only(building), building).merge()
            store.write(Write(merges=[merge]))
        left: list[int] = []

        def change(stored: Rows) -> list[bytes | None]:
            mark, _ = self._only(building)(Mark.of(stored[0]))
            if mark.applied > snapshot:
                raise Superseded(
                    f"Events were pushed to {self.plan.name!r} while it was being rebuilt.",
                    hint="Materialise it again.",
                )
            left[:] = [mark.generation]
            return [Mark(snapshot, mark.applied, building, building).row()]

        def finish() -> None:
            for generation in left:
                self._removed(store, generation)

        return Rebuilt(Merge([self.layout.mark_key], change), len(whole.entities), finish)

    def _begun(self, store: OnlineStore) -> tuple[int, int]:
        """Choose a generation to build; returns it and what was being built before."""
        chosen: list[tuple[int, int]] = []

        def change(stored: Rows) -> list[bytes | None]:
            mark = Mark.of(stored[0])
            self._generation = mark.generation
            building = (mark.building + 1) % N_GENERATIONS
            if building == mark.generation:
                building = (building + 1) % N_GENERATIONS
            chosen[:] = [(building, mark.building)]
            return [replace(mark, building=building).row()]

        store.write(Write(merges=[Merge([self.layout.mark_key], change)]))
        return chosen[0]

    def _only(self, building: int) -> Callable[[Mark], tuple[Mark, int]]:
        def marked(mark: Mark) -> tuple[Mark, int]:
            if mark.building != building or mark.generation == building:
                raise Superseded(
                    f"Someone else is rebuilding {self.plan.name!r}.", hint="Let it finish."
                )
            return mark, building

        return marked

    def _removed(self, store: OnlineStore, generation: int) -> None:
        keys = list(store.keys(self.layout.generation_prefix(generation)))
        for start in range(0, len(keys), _ROWS_PER_REMOVAL):
            store.forget(keys[start : start + _ROWS_PER_REMOVAL])

    # ── letting go ───────────────────────────────────────────────────────────────────

    def expired(self, store: OnlineStore, before_us: int) -> int:
        """Remove the chunks that no read at or after an instant needs, whatever their entity.

        Returns how many rows were removed. Reads of earlier instants then miss them.
        """
        (row,) = store.read([self.layout.mark_key])
        generation, n = Mark.of(row).generation, 0
        for number, hop in enumerate(self.layout.hops):
            for by_value in (False, True):
                prefix = self.layout.hop_prefix(generation, number, by_value=by_value)
                end = chunk_prefix(prefix, chunk_of(hop, first_tile(hop, before_us)))
                gone = [key for key in store.keys(prefix) if key < end]
                for start in range(0, len(gone), _ROWS_PER_REMOVAL):
                    n += store.forget(gone[start : start + _ROWS_PER_REMOVAL])
        return n


def _batches(whole: Batch) -> Iterator[Batch]:
    """The same events in batches of whole entities."""
    order = np.argsort(whole.owner, kind="stable")
    ends: Ints = np.searchsorted(whole.owner[order], np.arange(len(whole.entities)), "right")
    first = 0
    while first < len(whole.entities):
        begin = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, begin + _EVENTS_PER_WRITE, "right"))
        last = max(first + 1, last)
        rows = order[begin : int(ends[last - 1])]
        events: Kept = whole.events.take(rows)
        yield Batch(whole.entities[first:last], whole.owner[rows] - first, events, whole.now_us)
        first = last
