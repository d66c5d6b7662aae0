"""One view in the online store: which rows it keeps there, and how events change them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Ints
from falaj.features.entitykeys import KeyCodec
from falaj.features.grouping import latest_of_each
from falaj.features.ports import Merge, OnlineStore, Secrets
from falaj.features.rows import RowCodec
from falaj.features.sealing import Sealer
from falaj.features.views import Events, ViewPlan, column_key
from falaj.features.windowstorage import Rebuilt, WindowStorage


class ViewStorage:
    """One view in the online store.

    Args:
        plan: the compiled view.
        secrets: for views whose classification is personal or sensitive: keys of
            entities are replaced by keyed hashes, and values are encrypted.

    A window view is ``window``. Its *mark* tells up to which lake snapshot the view was
    rebuilt and which is the newest that was applied since, so that a push and a rebuild at
    the same time neither lose nor double an event.
    """

    def __init__(self, plan: ViewPlan, secrets: Secrets) -> None:
        self.plan = plan
        prefix = plan.storage_id
        hash_key, self._sealer = None, None
        if plan.sealed:
            name = prefix.hex()
            hash_key = secrets.derive(f"online-key.{name}", 32)
            self._sealer = Sealer(secrets.derive(f"online-value.{name}", 32))
        self.keys = KeyCodec(prefix, plan.keys, secret=hash_key)
        self.rows: RowCodec | None = None
        self.window: WindowStorage | None = None
        if plan.view.aggregates:
            self.window = WindowStorage(plan, prefix, hash_key, self._sealer)
            self.keys = self.window.keys
        else:
            self.rows = RowCodec(list(plan.outputs.values()))

    def opened(self, key: bytes, row: bytes) -> bytes:
        """A row in clear; raises Corrupt."""
        return row if self._sealer is None else self._sealer.open(key, row)

    def latest_rows(self, events: Events) -> list[tuple[bytes, bytes]]:
        """(key, row) of the latest event of each entity among these, for ``Write.newer``.

        Sorted by key. Raises LimitExceeded: a key is too long.
        """
        return [row for batch in self.latest_batches(events, len(events)) for row in batch]

    def latest_batches(self, events: Events, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """``latest_rows`` in batches of so many entities, each made when it is asked for."""
        if self.rows is None or not len(events):
            return
        final = np.sort(latest_of_each(events))
        order = self._order(events, final)
        recorded_at = events.event_time if events.recorded_at is None else events.recorded_at
        columns = [
            events.columns[column_key(feature.column, feature.dtype)]
            for feature in self.plan.view.features
        ]
        for start in range(0, len(order), size):
            by_key = final[order[start : start + size]]
            ranked = np.argsort(by_key)  # the order of the log is fast to gather
            keys = self.keys.column([key.take(pa.array(by_key)) for key in events.keys])
            rows = self.rows.packed(
                events.event_time, recorded_at, columns, by_key[ranked], np.argsort(ranked)
            )
            if self._sealer is not None:
                rows = list(map(self._sealer.seal, keys, rows))
            yield list(zip(keys, rows, strict=True))

    def _order(self, events: Events, rows: Ints) -> Ints:
        """The order of some events by the keys of their entities, as stores sort them."""
        first, *others = events.keys
        if not others and pa.types.is_integer(first.type) and not self.plan.sealed:
            return np.argsort(first.to_numpy(zero_copy_only=False)[rows])
        keys = self.keys.column([key.take(pa.array(rows)) for key in events.keys])
        return np.asarray(pc.sort_indices(pa.array(keys, pa.binary())).to_numpy(), np.int64)

    def applier(self, events: Events, now_us: int) -> Callable[[int], Merge] | None:
        """Prepares the merge of new events into the rows of a window view.

        Everything that can be refused is refused here. The function returned makes the
        merge, given the lake snapshot that holds these events: if the view was rebuilt
        from it or a later one, they are in already. (0: merged in any case.) Whoever keeps
        a position of its own puts it into the same ``Write`` and gives 0.
        """
        if self.window is None or not len(events):
            return None
        return self.window.applier(events, now_us)

    def rebuilt(
        self, store: OnlineStore, events: Events, now_us: int, snapshot: int
    ) -> Rebuilt | None:
        """Make a window view anew of these events; see ``WindowStorage.rebuilt``."""
        if self.window is None:
            return None
        return self.window.rebuilt(store, events, now_us, snapshot)


def once_mark(table: str, key: str) -> bytes:
    """The mark of a push, by the table and the caller's idempotency key."""
    return hashlib.blake2b(f"push\0{table}\0{key}".encode(), digest_size=24).digest()
