"""Which number an entity has in a run.

Entities are numbered from 0 in the order of their first event. An integer key is found in
a compiled hash table, a text by its hash and then its bytes; a key of several columns is
found column by column, the numbers of the columns being joined two by two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints
from falaj.features.kernels import in_slices, plain

_SMALLEST = 1 << 10
_PAIR = 32
"""Numbers are below 2^31, so that two of them fit into one integer."""


def _empty_table(n_keys: int) -> Ints:
    size = _SMALLEST
    while size < 2 * n_keys:
        size *= 2
    table = np.empty((size, 2), np.int64)
    table[:, 1] = -1
    return table


def _shift(table: Ints) -> np.uint64:
    return np.uint64(64 - (len(table).bit_length() - 1))


def _validity(column: pa.Array) -> Array:
    if not column.null_count:
        return np.broadcast_to(np.bool_(True), len(column))
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)


@dataclass(frozen=True)
class IntKeys:
    """Numbers of integers; ``table`` as in ``kernels_entities``."""

    table: Ints
    n: int

    @classmethod
    def numbered(cls, keys: Ints, valid: Array) -> tuple[IntKeys, Ints]:
        """The table of (n,) keys, and the number of each, -1 where it is not valid."""
        from falaj.features.index import kernels_entities as kernels

        codes = np.empty(len(keys), np.int64)
        known, table = np.empty(_SMALLEST // 2, np.int64), _empty_table(0)
        keys, valid = plain(keys, np.int64), plain(valid, np.bool_)
        done, n_known = kernels.number_ints(keys, valid, 0, table, _shift(table), known, 0, codes)
        while done < len(keys):
            known = np.resize(known, len(known) * 4)
            table = _empty_table(len(known))
            kernels.place(known[:n_known], table, _shift(table))
            done, n_known = kernels.number_ints(
                keys, valid, done, table, _shift(table), known, n_known, codes
            )
        if len(table) > len(small := _empty_table(n_known)):
            table = small
            kernels.place(known[:n_known], table, _shift(table))
        return cls(table, n_known), codes

    def find(self, keys: Ints, valid: Array) -> Ints:
        """The number of each key, -1 where it is unknown or not valid."""
        from falaj.features.index import kernels_entities as kernels

        codes = np.empty(len(keys), np.int64)
        shift = _shift(self.table)
        keys, valid = plain(keys, np.int64), plain(valid, np.bool_)

        def work(low: int, high: int) -> None:
            kernels.find_ints(keys[low:high], valid[low:high], self.table, shift, codes[low:high])

        in_slices(work, len(keys))
        return codes

    def arrays(self) -> dict[str, Array]:
        """What a file keeps of it."""
        return {"table": self.table, "n": np.array([self.n])}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> IntKeys:
        """From what ``arrays`` gave."""
        return cls(arrays["table"], int(arrays["n"][0]))


@dataclass(frozen=True)
class TextKeys:
    """Numbers of texts; the i-th is ``data[offsets[i] : offsets[i + 1]]``."""

    table: Ints
    offsets: Ints
    data: Array

    @property
    def n(self) -> int:
        """How many texts have a number."""
        return len(self.offsets) - 1

    @classmethod
    def numbered(cls, keys: pa.Array) -> tuple[TextKeys, Ints]:
        """The table of n texts, and the number of each, -1 where it is null."""
        from falaj.features.index import kernels_entities as kernels

        encoded = keys.dictionary_encode()
        offsets, data, _ = _text_buffers(encoded.dictionary)
        table = _empty_table(len(encoded.dictionary))
        made = cls(table, offsets, data)
        kernels.place(_hashes(offsets, data), table, _shift(table))
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return made, codes

    def find(self, keys: pa.Array) -> Ints:
        """The number of each text, -1 where it is unknown or null."""
        from falaj.features.index import kernels_entities as kernels

        offsets, data, valid = _text_buffers(keys)
        codes = np.empty(len(keys), np.int64)
        shift = _shift(self.table)

        def work(low: int, high: int) -> None:
            part = offsets[low : high + 1]
            kernels.find_texts(
                _hashes(part, data), valid[low:high], part, data,
                self.table, shift, self.offsets, self.data, codes[low:high],
            )  # fmt: skip

        in_slices(work, len(keys))
        return codes

    def arrays(self) -> dict[str, Array]:
        """What a file keeps of it."""
        return {"table": self.table, "offsets": self.offsets, "data": self.data}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> TextKeys:
        """From what ``arrays`` gave."""
        return cls(arrays["table"], arrays["offsets"], arrays["data"])


def _hashes(offsets: Ints, data: Array) -> Ints:
    from falaj.features.index import kernels_entities as kernels

    hashes = np.empty(len(offsets) - 1, np.int64)
    kernels.hash_texts(offsets, data, hashes)
    return hashes


def _text_buffers(column: pa.Array) -> tuple[Ints, Array, Array]:
    """Offsets (n + 1, int64), bytes, and validity of an Arrow string array."""
    valid = plain(_validity(column), np.bool_)
    if not len(column):
        return np.zeros(1, np.int64), np.empty(0, np.uint8), valid
    _, ends, data = column.buffers()
    offsets = np.frombuffer(ends, np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    begin = int(offsets[0])
    own = plain(content[begin : offsets[-1]], np.uint8)
    return offsets.astype(np.int64) - begin, own, valid


@dataclass(frozen=True)
class Entities:
    """The numbers of a run's entities; ``columns`` by key, ``pairs`` joining them."""

    columns: tuple[IntKeys | TextKeys, ...]
    pairs: tuple[IntKeys, ...]

    @property
    def n(self) -> int:
        """How many entities there are."""
        return (self.pairs or self.columns)[-1].n

    @classmethod
    def numbered(cls, keys: Sequence[pa.Array]) -> tuple[Entities, Ints]:
        """The entities of events, and the number of each event's.

        Args:
            keys: the key columns, int64 or string, n rows each.
        """
        columns: list[IntKeys | TextKeys] = []
        pairs: list[IntKeys] = []
        codes = np.empty(0, np.int64)
        for column in keys:
            own: IntKeys | TextKeys
            if pa.types.is_integer(column.type):
                own, found = IntKeys.numbered(_integers(column), _validity(column))
            else:
                own, found = TextKeys.numbered(column)
            if columns:
                pair, codes = IntKeys.numbered(*_joined(codes, found))
                pairs.append(pair)
            else:
                codes = found
            columns.append(own)
        return cls(tuple(columns), tuple(pairs)), codes

    def find(self, keys: Sequence[pa.Array]) -> Ints:
        """(m,) the number of each asked entity; -1 if it is unknown or a key is null."""
        codes = np.empty(0, np.int64)
        for place, (own, column) in enumerate(zip(self.columns, keys, strict=True)):
            if isinstance(own, IntKeys):
                found = own.find(_integers(column), _validity(column))
            else:
                found = own.find(column)
            codes = self.pairs[place - 1].find(*_joined(codes, found)) if place else found
        return codes

    def arrays(self) -> dict[str, Array]:
        """What a file keeps of it, by name."""
        return {
            f"entities.{kind}.{place}.{name}": array
            for kind, parts in (("column", self.columns), ("pair", self.pairs))
            for place, part in enumerate(parts)
            for name, array in part.arrays().items()
        }

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Entities:
        """From what ``arrays`` gave."""
        parts: dict[tuple[str, int], dict[str, Array]] = {}
        for name, array in arrays.items():
            _, kind, place, own = name.split(".")
            parts.setdefault((kind, int(place)), {})[own] = array
        columns = [
            TextKeys.of(part) if "data" in part else IntKeys.of(part)
            for (kind, _), part in sorted(parts.items())
            if kind == "column"
        ]
        pairs = [IntKeys.of(part) for (kind, _), part in sorted(parts.items()) if kind == "pair"]
        return cls(tuple(columns), tuple(pairs))


def _integers(column: pa.Array) -> Ints:
    if column.null_count:
        column = column.fill_null(0)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _joined(one: Ints, other: Ints) -> tuple[Ints, Array]:
    valid = (one >= 0) & (other >= 0)
    return (one << _PAIR) | (other & ((1 << _PAIR) - 1)), valid
