"""Reading a latest-value view: from stored rows to values, statuses and event times.

A row of the future is never told (MISSING); one is EXPIRED if
``event_time <= t - ttl``, as offline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from falaj.features.columns import Array, Ints
from falaj.features.order import LEAST, ORDER_BYTES, instants_of, times_of
from falaj.features.plan import ViewUse
from falaj.features.requestfields import lacks
from falaj.features.rows import RowCodec
from falaj.features.vectors import EXPIRED, MISSING, NO_TIME, NULL, PRESENT, Assembly
from falaj.features.viewstorage import ViewStorage
from falaj.kernel.errors import Corrupt


class LatestReading:
    """One latest-value view, as a reader of a service uses it.

    Args:
        use: the view, and which of its features are wanted.
        storage: its place in the store.
        codec: of its rows.
        places: the place of each column of the service.
        view: the place of the view among the event times.
    """

    def __init__(
        self,
        use: ViewUse,
        storage: ViewStorage,
        codec: RowCodec,
        places: Mapping[str, int],
        view: int,
    ) -> None:
        self._storage, self._codec, self._view = storage, codec, view
        self._key_columns = use.key_columns
        self._one, self._first = storage.keys.one, use.key_columns[0]
        offered = list(use.plan.outputs)
        names = [f"{use.plan.name}__{feature}" for feature in use.features]
        self._slots = [
            (name, codec.slots[offered.index(feature)])
            for name, feature in zip(names, use.features, strict=True)
        ]
        bits = [slot.bit for _, slot in self._slots]
        self._bits = None if bits == list(range(len(codec.slots))) else bits
        self._places = [places[name] for name in names]
        first = self._places[0]
        together = self._places == list(range(first, first + len(names)))
        self._span = slice(first, first + len(names)) if together else None
        self._at: Any = self._span or self._places
        self._ttl_us = use.plan.ttl_us
        self._sealed = use.plan.sealed
        words = [slot.word for _, slot in self._slots]
        self._first_byte = 8 * words[0]
        near = words == list(range(words[0], words[0] + len(words)))
        self._words: Any = slice(words[0], words[0] + len(words)) if near else words

    def key(self, row: Mapping[str, Any]) -> bytes | None:
        """The entity's key in a request, None if it is null; raises InvalidInput."""
        try:
            if self._one is not None:
                value = row[self._first]
                return None if value is None else self._one(value)
            return self._storage.keys.encoded([row[column] for column in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None

    def lookups(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes | None]:
        """The key of each of m entities, None if it is null; raises InvalidInput."""
        try:
            return self._storage.keys.asked([columns[name] for name in self._key_columns])
        except KeyError as error:
            raise lacks(error.args[0], "entity key") from None

    def fill_one(
        self, vector: list[Any], codes: bytearray, key: bytes | None, row: bytes | None, at_us: int
    ) -> int:
        """Put the view's features into one vector; returns the event time."""
        if self._sealed and row is not None:
            (row,) = self._storage.opened([key], [row])
        if key is None or row is None:
            return self._absent(codes, MISSING, NO_TIME)
        if len(row) < ORDER_BYTES:
            raise _cut_short()
        event_time, recorded_at = times_of(row)
        if event_time > at_us or recorded_at > at_us:
            return self._absent(codes, MISSING, NO_TIME)
        if self._ttl_us is not None and event_time <= at_us - self._ttl_us:
            return self._absent(codes, EXPIRED, event_time)
        values = self._codec.values(row)
        if self._bits is not None:
            values = [values[bit] for bit in self._bits]
        if self._span is not None:
            vector[self._span] = values
        else:
            for place, value in zip(self._places, values, strict=True):
                vector[place] = value
        if None in values:
            for place, value in zip(self._places, values, strict=True):
                if value is None:
                    codes[place] = NULL
        return event_time

    @property
    def is_block(self) -> bool:
        """True if the row holds nothing but the wanted values, all of them float64."""
        return self._codec.all_float and self._bits is None and not self._sealed

    def block(self, row: bytes, at_us: int) -> tuple[Array, int] | None:
        """The values (n, 1) as they stand in a row, and its event time; None if one of them
        is null or not to be told. Only where ``is_block``."""
        if len(row) != self._codec.n_bytes or not self._codec.is_full(row):
            return None
        event_time, recorded_at = times_of(row)
        if event_time > at_us or recorded_at > at_us:
            return None
        if self._ttl_us is not None and event_time <= at_us - self._ttl_us:
            return None
        values = np.frombuffer(row, np.float64, len(self._places), self._first_byte)
        return values.reshape(-1, 1), event_time

    def _absent(self, codes: bytearray, code: int, event_time: int) -> int:
        for place in self._places:
            codes[place] = code
        return event_time

    def fill(
        self,
        into: Assembly,
        keys: Sequence[bytes | None],
        rows: Sequence[bytes | None],
        at_us: int | Ints,
    ) -> None:
        """Put the view's features of m entities into columns."""
        if self._sealed:
            rows = self._storage.opened(keys, rows)
        m, every = len(keys), None not in rows
        there = range(m) if every else [i for i, row in enumerate(rows) if row is not None]
        found: Sequence[bytes] = rows if every else [row for row in rows if row is not None]  # type: ignore[assignment]
        matrix = self._codec.matrix(found)
        times = instants_of(matrix[:, :2])
        event_time = times[:, 0]
        valid = self._codec.valid(matrix)
        if valid is None and every and self._fresh(times, at_us):
            into.codes[:, self._at] = PRESENT
            into.event_times[:, self._view] = event_time
            if into.block is not None:
                into.block[self._at] = self._floats(matrix)
            else:
                for name, slot in self._slots:
                    into.values[name] = self._codec.column(slot, matrix, found)
            return
        at = at_us[there] if isinstance(at_us, np.ndarray) and not every else at_us
        code = np.zeros(len(there), np.uint8)
        if self._ttl_us is not None:
            code[event_time <= at - self._ttl_us] = EXPIRED
        code[times.max(axis=1) > at] = MISSING
        codes = np.full((m, len(self._places)), MISSING, np.uint8)
        own = np.repeat(code[:, None], len(self._places), axis=1)
        if valid is not None:
            nulls = ~(valid if self._bits is None else valid[:, self._bits])
            own[nulls & (code == PRESENT)[:, None]] = NULL
        codes[there] = own
        into.codes[:, self._at] = codes
        into.event_times[there, self._view] = np.where(code == MISSING, NO_TIME, event_time)
        kept = codes[there] == PRESENT
        if into.block is not None:
            whole = np.full((len(self._places), m), np.nan)
            whole[:, there] = np.where(kept.T, self._floats(matrix), np.nan)
            into.block[self._at] = whole
            return
        rows_there = np.array(there, np.int64)
        for i, (name, slot) in enumerate(self._slots):
            column = slot.empty(m)
            here = kept[:, i]
            column[rows_there[here]] = self._codec.column(slot, matrix, found)[here]
            into.values[name] = column

    def _fresh(self, times: Ints, at_us: int | Ints) -> bool:
        """True if all of (n, 2) times of rows may be told, the event's and its recording's."""
        if isinstance(at_us, int):
            if times.max(initial=LEAST) > at_us:
                return False
            return self._ttl_us is None or times[:, 0].min(initial=at_us) > at_us - self._ttl_us
        if (times > at_us[:, None]).any():
            return False
        return self._ttl_us is None or not (times[:, 0] <= at_us - self._ttl_us).any()

    def _floats(self, matrix: Ints) -> Array:
        """(features, n) of a view of nothing but float64."""
        return matrix.view(np.float64)[:, self._words].T


def _cut_short() -> Corrupt:
    return Corrupt(
        "A row of the online store is cut short.",
        hint="Materialise the view again; see `falaj doctor`.",
    )
