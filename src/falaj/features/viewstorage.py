"""One view in the online store: which rows it keeps there, and how events change them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Ints
from falaj.features.entitykeys import KeyCodec
from falaj.features.grouping import latest_of_each
from falaj.features.ports import Merge, OnlineStore, Secrets
from falaj.features.rows import RowCodec
from falaj.features.sealing import Sealer, Sealing
from falaj.features.subjectsealing import SubjectKeyCodec, SubjectSealer
from falaj.features.views import Events, ViewPlan, column_key
from falaj.features.windowstorage import Keys, Rebuilt, WindowStorage
from falaj.kernel.errors import Unavailable
from falaj.trust.subjectciphers import SubjectCiphers

_PERSONS_AT_ONCE = 20_000
"""Entities of persons whose keys are in use at a time; a process keeps more than that."""


class ViewStorage:
    """One view in the online store.

    Args:
        plan: the compiled view.
        secrets: for views whose classification is personal or sensitive: keys of
            entities are replaced by keyed hashes, and values are encrypted.
        subjects: the keys of persons, for views with a subject: both stand under the key
            of the person that an entity is about.

    Raises:
        Unavailable: the view has a subject, and there are no keys of persons.

    A window view is ``window``. Its *mark* tells up to which lake snapshot the view was
    rebuilt and which is the newest that was applied since, so that a push and a rebuild at
    the same time neither lose nor double an event.
    """

    def __init__(
        self, plan: ViewPlan, secrets: Secrets, subjects: SubjectCiphers | None = None
    ) -> None:
        self.plan = plan
        prefix = plan.storage_id
        hash_key: bytes | None = None
        self._sealer: Sealing | None = None
        if plan.view.subject is None and plan.sealed:
            name = prefix.hex()
            hash_key = secrets.derive(f"online-key.{name}", 32)
            self._sealer = Sealer(secrets.derive(f"online-value.{name}", 32))
        self.keys: Keys = KeyCodec(prefix, plan.keys, secret=hash_key)
        of_window: Keys = KeyCodec(b"", plan.keys, secret=hash_key)
        if plan.view.subject is not None:
            if subjects is None:
                raise Unavailable(
                    f"The view {plan.name!r} is about persons, and their keys are not at hand.",
                    hint="Open the store with the keys of data subjects.",
                )
            named = plan.view.subject, plan.view.subject_kind
            self.keys = SubjectKeyCodec(prefix, plan.keys, named, subjects)
            of_window = SubjectKeyCodec(b"", plan.keys, named, subjects)
            self._sealer = SubjectSealer(subjects)
        self.rows: RowCodec | None = None
        self.window: WindowStorage | None = None
        if plan.view.aggregates:
            self.window = WindowStorage(plan, prefix, of_window, self._sealer)
            self.keys = of_window
        else:
            self.rows = RowCodec(list(plan.outputs.values()))

    def opened(
        self, keys: Sequence[bytes | None], rows: Sequence[bytes | None]
    ) -> list[bytes | None]:
        """Rows in clear, None where there is none that can be read; raises Corrupt.

        Where a row is, its key is not None.
        """
        if self._sealer is None:
            return list(rows)
        return self._sealer.open_all([key or b"" for key in keys], rows)

    def latest_rows(self, events: Events, since: int | None = None) -> list[tuple[bytes, bytes]]:
        """(key, row) of the latest event of each entity among these, for ``Write.newer``.

        Sorted by key, of a view about persons in pieces.

        Args:
            events: the events.
            since: how many persons had been erased when they were read (see
                ``SubjectCiphers.named``); None if they come from outside.

        Raises:
            LimitExceeded: a key is too long. ErasedMeanwhile: another person was erased since.
        """
        batches = self.latest_batches(events, len(events), since)
        return [row for batch in batches for row in batch]

    def latest_batches(
        self, events: Events, size: int, since: int | None = None
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """``latest_rows`` in batches of so many entities, each made when it is asked for."""
        if self.rows is None or not len(events):
            return
        final = np.sort(latest_of_each(events))
        persons = self.plan.view.subject is not None
        size = min(size, _PERSONS_AT_ONCE) if persons else size
        # Keys of persons have no order that would be worth to be known beforehand.
        order = np.arange(len(final)) if persons else self._order(events, final)
        recorded_at = events.event_time if events.recorded_at is None else events.recorded_at
        columns = [
            events.columns[column_key(feature.column, feature.dtype)]
            for feature in self.plan.view.features
        ]
        for start in range(0, len(order), size):
            by_key = final[order[start : start + size]]
            ranked = np.argsort(by_key)  # the order of the log is fast to gather
            keys = self.keys.column([key.take(pa.array(by_key)) for key in events.keys], since)
            rows = self.rows.packed(
                events.event_time, recorded_at, columns, by_key[ranked], np.argsort(ranked)
            )
            if self._sealer is None:
                yield list(zip(keys, rows, strict=True))
                continue
            sealed = zip(keys, self._sealer.seal_all(keys, rows), strict=True)
            found = [(key, row) for key, row in sealed if row is not None]
            yield sorted(found) if persons else found

    def _order(self, events: Events, rows: Ints) -> Ints:
        """The order of some events by the keys of their entities, as stores sort them."""
        first, *others = events.keys
        if not others and pa.types.is_integer(first.type) and not self.plan.sealed:
            return np.argsort(first.to_numpy(zero_copy_only=False)[rows])
        keys = self.keys.column([key.take(pa.array(rows)) for key in events.keys])
        return np.asarray(pc.sort_indices(pa.array(keys, pa.binary())).to_numpy(), np.int64)

    def applier(
        self, events: Events, now_us: int, since: int | None = None
    ) -> Callable[[int], Merge] | None:
        """Prepares the merge of new events into the rows of a window view.

        Everything that can be refused is refused here. The function returned makes the
        merge, given the lake snapshot that holds these events: if the view was rebuilt
        from it or a later one, they are in already. (0: merged in any case.) Whoever keeps
        a position of its own puts it into the same ``Write`` and gives 0. ``since`` and what
        is raised: as for ``latest_rows``.
        """
        if self.window is None or not len(events):
            return None
        return self.window.applier(events, now_us, since)

    def rebuilt(
        self,
        store: OnlineStore,
        events: Events,
        now_us: int,
        snapshot: int,
        since: int | None = None,
    ) -> Rebuilt | None:
        """Make a window view anew of these events; see ``WindowStorage.rebuilt``."""
        if self.window is None:
            return None
        return self.window.rebuilt(store, events, now_us, snapshot, since)


def once_mark(table: str, key: str) -> bytes:
    """The mark of a push, by the table and the caller's idempotency key."""
    return hashlib.blake2b(f"push\0{table}\0{key}".encode(), digest_size=24).digest()
