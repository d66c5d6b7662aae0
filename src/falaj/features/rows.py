"""The packed row of a latest-value view: the same bytes in every store.

A row is a number of 64-bit little-endian words: its *order* (three words, see ``order``),
a bitmap of the values that are there (a word for each 64 features), and the *slots* of the
features, one word each. Numbers, instants and bools stand in their slot; a fixed list of
numbers takes as many words as it needs; of a string, of bytes and of other lists the slot
tells where in the *tail* behind the words the value begins (four bytes) and how long it is
(four bytes). All rows of a view without tails have one length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.columns import NUMPY, Array, Ints, Values
from falaj.features.entitykeys import sliced
from falaj.features.order import ORDER_BYTES, ORDER_WORDS, words_of
from falaj.features.tails import ELEMENTS, Ragged, copied, elements, ragged, reader
from falaj.features.types import DType, Element, ListType, Type, is_fixed_width
from falaj.kernel.errors import Corrupt, FalajError

_ROWS_IN_CACHE = 1024


@dataclass(frozen=True)
class Slot:
    """Where one feature stands in a row: its first word, and how many it takes."""

    dtype: Type
    bit: int
    word: int
    n_words: int

    @property
    def is_tail(self) -> bool:
        """True if the slot only tells where the value is."""
        if isinstance(self.dtype, ListType):
            return self.dtype.length is None or self.dtype.element is Element.STRING
        return not is_fixed_width(self.dtype)

    @property
    def null(self) -> Any:
        """What stands for null in an array of the feature: NaN, 0, False or None."""
        if self.is_tail:
            return None
        if isinstance(self.dtype, ListType):
            return np.nan if ELEMENTS[self.dtype.element].kind == "f" else 0
        return np.nan if self.dtype is DType.FLOAT64 else 0

    def empty(self, n: int) -> Array:
        """An array for n values, all null."""
        if self.is_tail:
            return np.full(n, None, np.object_)
        if isinstance(self.dtype, ListType):
            return np.full((n, self.dtype.length or 0), self.null, ELEMENTS[self.dtype.element])
        return np.full(n, self.null, NUMPY[self.dtype])


class RowCodec:
    """Packs the features of a latest-value view into rows, and unpacks them.

    Args:
        dtypes: the types of the features, in order.
    """

    def __init__(self, dtypes: Sequence[Type]) -> None:
        n = len(dtypes)
        self._bitmap = slice(ORDER_WORDS, ORDER_WORDS + (n + 63) // 64)
        at, self.slots = self._bitmap.stop, list[Slot]()
        for bit, dtype in enumerate(dtypes):
            self.slots.append(Slot(dtype, bit, at, _n_words(dtype)))
            at += self.slots[-1].n_words
        self.n_words, self.n_bytes = at, 8 * at
        self.has_tails = any(slot.is_tail for slot in self.slots)
        self._readers = [self._reader(slot) for slot in self.slots]
        self._plain = all(read is None for read in self._readers)
        self._n_maps = self._bitmap.stop - ORDER_WORDS
        codes = "".join(_code(slot) for slot in self.slots)
        self._struct = struct.Struct(f"<{ORDER_BYTES}x{self._n_maps}Q{codes}")
        self._maps = [(1 << min(64, n - 64 * i)) - 1 for i in range(self._n_maps)]
        self._full = np.array(self._maps, np.uint64).view(np.int64)
        self._full_bytes = self._full.tobytes()
        self.all_float = all(slot.dtype is DType.FLOAT64 for slot in self.slots)

    # ── writing ──────────────────────────────────────────────────────────────────────

    def packed(
        self,
        event_time: Ints,
        recorded_at: Ints,
        columns: Sequence[pa.Array],
        rows: Ints | None = None,
        order: Ints | None = None,
    ) -> list[bytes]:
        """The packed rows of events at log position 0.

        Args:
            event_time, recorded_at: (N,) UTC microseconds.
            columns: one typed Arrow column (N,) a feature.
            rows: the n events that are packed, ascending; by default all.
            order: which of those comes first, second … in the result.
        """
        n = len(event_time) if rows is None else len(rows)
        matrix = np.zeros((n, self.n_words), np.int64)
        words = [(0, words_of(event_time)), (1, words_of(recorded_at))]
        words += [
            (slot.word, Values.of(column, slot.dtype, "").values)
            for slot, column in zip(self.slots, columns, strict=True)
            if isinstance(slot.dtype, DType) and not slot.is_tail
        ]
        self._fill(matrix, [(word, _chosen(values, rows, order)) for word, values in words])
        chosen = rows if order is None else order if rows is None else rows[order]
        tails: list[Ragged] = []
        length = np.zeros(n, np.int64)
        for slot, whole in zip(self.slots, columns, strict=True):
            if not (slot.is_tail or whole.null_count or isinstance(slot.dtype, ListType)):
                continue
            column = whole if chosen is None else whole.take(pa.array(chosen))
            if slot.is_tail:
                tails.append(ragged(column, slot.dtype))
                matrix[:, slot.word] = length | (tails[-1].lengths << 32)
                length = length + tails[-1].lengths
            elif isinstance(slot.dtype, ListType):
                self._put_list(matrix, slot, column)
            if column.null_count:
                absent = column.is_null().to_numpy(zero_copy_only=False)
                word = self._bitmap.start + (slot.bit >> 6)
                matrix.view(np.uint64)[absent, word] &= ~np.uint64(1 << (slot.bit & 63))
                matrix[absent, slot.word : slot.word + slot.n_words] = 0
        if not tails:
            return sliced(matrix)
        return self._with_tails(matrix, length, tails)

    def _fill(self, matrix: Ints, words: Sequence[tuple[int, Ints]]) -> None:
        """Put (word, values) into the rows, some rows at a time: by whole columns each write
        would miss the processor's cache."""
        matrix[:, self._bitmap] = self._full
        block = np.empty((len(words), _ROWS_IN_CACHE), np.int64)
        runs = _runs([word for word, _ in words])
        for low in range(0, len(matrix), _ROWS_IN_CACHE):
            here = matrix[low : low + _ROWS_IN_CACHE]
            for into, (_, values) in zip(block, words, strict=True):
                into[: len(here)] = values[low : low + _ROWS_IN_CACHE]
            for start, place, length in runs:
                here[:, place : place + length] = block[start : start + length, : len(here)].T

    @staticmethod
    def _put_list(matrix: Ints, slot: Slot, column: pa.Array) -> None:
        if not isinstance(slot.dtype, ListType) or not slot.dtype.length:
            raise TypeError(slot)
        there = column.is_valid().to_numpy(zero_copy_only=False)
        flat = elements(column.flatten(), slot.dtype.element).reshape(-1, slot.dtype.length)
        block = np.zeros((len(matrix), slot.n_words * 8), np.uint8)
        block[there, : flat.shape[1] * flat.itemsize] = flat.view(np.uint8)
        matrix[:, slot.word : slot.word + slot.n_words] = block.view(np.int64)

    def _with_tails(self, matrix: Ints, length: Ints, tails: Sequence[Ragged]) -> list[bytes]:
        sizes = self.n_bytes + length
        ends = np.cumsum(sizes)
        starts = ends - sizes
        whole = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        fixed = Ragged(
            matrix.view(np.uint8).ravel(),
            np.arange(len(matrix)) * self.n_bytes,
            np.full(len(matrix), self.n_bytes, np.int64),
        )
        copied(whole, starts, fixed)
        at = starts + self.n_bytes
        for values in tails:
            copied(whole, at, values)
            at = at + values.lengths
        raw = whole.tobytes()
        return [raw[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    # ── reading one row ──────────────────────────────────────────────────────────────

    def is_full(self, row: bytes) -> bool:
        """True if none of the values of a row is null."""
        return row[ORDER_BYTES : ORDER_BYTES + 8 * self._n_maps] == self._full_bytes

    def values(self, row: bytes) -> tuple[Any, ...] | list[Any]:
        """The values of one row, None for null; raises Corrupt if it is cut short.

        Instants are UTC microseconds; lists are lists.
        """
        try:
            found = self._struct.unpack_from(row)
        except struct.error:
            raise _cut_short() from None
        n = self._n_maps
        if n == 1 and found[0] == self._maps[0]:
            if self._plain:
                return found[1:]
            return [
                v if r is None else r(v, row) for r, v in zip(self._readers, found[1:], strict=True)
            ]
        maps = 0
        for i in range(n):
            maps |= found[i] << 64 * i
        return [
            (value if read is None else read(value, row)) if maps >> bit & 1 else None
            for bit, (read, value) in enumerate(zip(self._readers, found[n:], strict=True))
        ]

    def _reader(self, slot: Slot) -> Callable[[Any, bytes], Any] | None:
        """Turns what stands in a slot into the value; None if it is the value."""
        if slot.is_tail:
            read, fixed = reader(slot.dtype), self.n_bytes

            def value(place: int, row: bytes) -> Any:
                found = read(_tail(row, fixed, place))
                return found.tolist() if isinstance(found, np.ndarray) else found

            return value
        if isinstance(slot.dtype, ListType):
            form, length = ELEMENTS[slot.dtype.element], slot.dtype.length or 0
            return lambda raw, _row: np.frombuffer(raw, form, length).tolist()
        return None

    # ── reading many rows ────────────────────────────────────────────────────────────

    def matrix(self, rows: Sequence[bytes]) -> Ints:
        """The words of n rows, (n, n_words); raises Corrupt if one is cut short."""
        size = self.n_bytes
        raw = b"".join([row[:size] for row in rows] if self.has_tails else rows)
        if len(raw) != size * len(rows) or (self.has_tails and rows and min(map(len, rows)) < size):
            raise _cut_short()
        return np.frombuffer(raw, "<i8").reshape(-1, self.n_words)

    def valid(self, matrix: Ints) -> Array | None:
        """(n, features) True where a value is there; None if all are."""
        maps = matrix[:, self._bitmap]
        if (maps == self._full).all():
            return None
        bits = np.unpackbits(np.ascontiguousarray(maps).view(np.uint8), axis=1, bitorder="little")
        return bits[:, : len(self.slots)].astype(np.bool_)

    def column(self, slot: Slot, matrix: Ints, rows: Sequence[bytes]) -> Array:
        """The values of one feature in n rows; where it is null, they mean nothing."""
        if slot.is_tail:
            read, fixed = reader(slot.dtype), self.n_bytes
            found = np.empty(len(rows), np.object_)
            for i, (place, row) in enumerate(zip(matrix[:, slot.word].tolist(), rows, strict=True)):
                found[i] = read(_tail(row, fixed, place))
            return found
        if isinstance(slot.dtype, ListType):
            block = np.ascontiguousarray(matrix[:, slot.word : slot.word + slot.n_words])
            flat: Array = block.view(ELEMENTS[slot.dtype.element])
            return flat[:, : slot.dtype.length]
        words: Array = matrix[:, slot.word]
        if slot.dtype is DType.FLOAT64:
            words = matrix.view(np.float64)[:, slot.word]
        return words.astype(np.bool_) if slot.dtype is DType.BOOL else words


def _chosen(values: Array, rows: Ints | None, order: Ints | None) -> Ints:
    """Values as words, those of the rows, in the order; gathered twice, because each gather
    alone is kind to the cache: the first goes forward, the second stays in few pages."""
    if values.dtype == np.bool_:
        values = values.astype(np.int64)
    words: Ints = values.view(np.int64)
    for chosen in (rows, order):
        if chosen is not None:
            words = words.take(chosen, mode="clip")
    return words


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """(index, first place, length) of each run of places that follow each other."""
    runs: list[tuple[int, int, int]] = []
    for i, place in enumerate(places):
        if runs and place == runs[-1][1] + runs[-1][2]:
            start, first, length = runs[-1]
            runs[-1] = (start, first, length + 1)
        else:
            runs.append((i, place, 1))
    return runs


def _tail(row: bytes, fixed: int, place: int) -> bytes:
    start = fixed + (place & 0xFFFFFFFF)
    raw = row[start : start + (place >> 32)]
    if len(raw) != place >> 32:
        raise _cut_short()
    return raw


def _n_words(dtype: Type) -> int:
    if isinstance(dtype, ListType) and dtype.length and dtype.element is not Element.STRING:
        return (dtype.length * int(ELEMENTS[dtype.element].itemsize) + 7) // 8
    return 1


def _code(slot: Slot) -> str:
    if slot.n_words > 1 or (isinstance(slot.dtype, ListType) and not slot.is_tail):
        return f"{8 * slot.n_words}s"
    if slot.dtype is DType.FLOAT64:
        return "d"
    return "?7x" if slot.dtype is DType.BOOL else "q"


def _cut_short() -> FalajError:
    return Corrupt(
        "A row of the online store is cut short.",
        hint="Materialise the view again; see `falaj doctor`.",
    )
