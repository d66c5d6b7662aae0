"""Window aggregates online: tiles that are merged on write, and where they stand.

A tile ``k`` of a *hop* (a length of tile) holds the partial aggregates of the events of one
entity with ``k h < event_time <= (k+1) h``. Tiles stand together in *chunks* of some
consecutive ones, one row for each entity and chunk, whose key begins with the hop and the
number of the chunk: what happens at one time stands in neighbouring pages, whatever the
entities, and what has gone out of every window is one range. Each entity has a *head* row
besides (see ``heads``) with its *horizon* and the raw events that are later than it.

The horizon is ``min(time of the write, newest event) - head`` of the view and never moves
back. What is promised: a read at any ``t`` not before the horizon, and not before the
greatest ``recorded_at`` of what was pushed, gives what the offline execution gives, unless
the chunks that it needs were let go by ``expired``. Before the horizon a read leaves out
each tile that ends after ``t``, so that it never counts an event of the future, but may
miss up to one hop at the head and, farther back, tiles that were let go: when an entity is
written, its chunks that no read at or after its horizon needs are removed.

All rows of a view belong to a *generation*. A rebuild makes the next one beside it, in as
many writes as it takes, and one more write turns readers and writers over to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from falaj.features.columns import Ints
from falaj.features.heads import HeadCodec
from falaj.features.hops import Hop
from falaj.features.model import Aggregate, microseconds
from falaj.features.order import ORDER_BYTES
from falaj.features.sealing import Sealing
from falaj.features.views import ViewPlan

_SHIFT = 1 << 63
_NUMBER = struct.Struct(">Q")
_MARK = struct.Struct(">qqBB")
_HEADS = b"\x00"
N_GENERATIONS = 250


@dataclass(frozen=True)
class Mark:
    """The row that tells where a view stands.

    ``rebuilt`` is the lake snapshot that it was rebuilt from, ``applied`` the newest that
    was applied since; ``generation`` is what is read, ``building`` what is being rebuilt (the
    same: nothing is).
    """

    rebuilt: int = 0
    applied: int = 0
    generation: int = 0
    building: int = 0

    @classmethod
    def of(cls, row: bytes | None) -> Mark:
        """The mark that a row tells; a view without a row is empty."""
        return cls() if row is None else cls(*_MARK.unpack(row))

    def row(self) -> bytes:
        """The row that tells it."""
        return _MARK.pack(self.rebuilt, self.applied, self.generation, self.building)


class TileLayout:
    """Where the rows of a window view stand, and what they hold.

    Args:
        plan: the compiled view.
        prefix: what all its keys begin with.
        sealer: encrypts what rows hold, if that must not stand in clear.
    """

    def __init__(self, plan: ViewPlan, prefix: bytes, sealer: Sealing | None) -> None:
        self.name = plan.name
        self.columns = list(plan.columns)
        groups: dict[int, list[Aggregate]] = {}
        for aggregate in plan.view.aggregates:
            groups.setdefault(aggregate.hop_us, []).append(aggregate)
        self.hops = [Hop(hop, found, self.columns) for hop, found in groups.items()]
        self.heads = HeadCodec(self.columns)
        self.head_us = microseconds(plan.view.head)
        self.mark_key = prefix
        self._sealer = sealer

    # ── keys ─────────────────────────────────────────────────────────────────────────

    def generation_prefix(self, generation: int) -> bytes:
        """What the keys of a generation begin with."""
        return self.mark_key + bytes([generation])

    def head_keys(self, generation: int, entities: Iterable[bytes]) -> list[bytes]:
        """The keys of the heads of entities."""
        prefix = self.generation_prefix(generation) + _HEADS
        return [prefix + entity for entity in entities]

    def hop_prefix(self, generation: int, hop: int, *, by_value: bool) -> bytes:
        """What the keys of the chunks of the ``hop``-th hop begin with."""
        return self.generation_prefix(generation) + bytes([1 + 2 * hop + by_value])

    def chunk_keys(
        self, prefix: bytes, numbers: Sequence[int], entities: Iterable[bytes]
    ) -> list[bytes]:
        """The key of each entity's chunk of that number."""
        begin = {number: chunk_prefix(prefix, number) for number in set(numbers)}
        return [begin[number] + entity for number, entity in zip(numbers, entities, strict=True)]

    # ── rows ─────────────────────────────────────────────────────────────────────────

    def opened(
        self, keys: Sequence[bytes], rows: Sequence[bytes | None], *, heads: bool = False
    ) -> list[bytes | None]:
        """Rows of chunks, or heads, in clear, None for those that nobody can read any more;
        raises Corrupt."""
        if self._sealer is None:
            return list(rows)
        return self._sealer.open_all(keys, rows, ORDER_BYTES if heads else 0)

    def closed(
        self, keys: Sequence[bytes], rows: Sequence[bytes], *, heads: bool = False
    ) -> list[bytes | None]:
        """Rows of chunks, or heads, as they are stored, None for those that must not be; only
        the order of a head is in clear."""
        if self._sealer is None:
            return list(rows)
        return self._sealer.seal_all(keys, rows, ORDER_BYTES if heads else 0)


def chunk_prefix(prefix: bytes, number: int) -> bytes:
    """What the keys of one chunk of all entities begin with."""
    return prefix + _NUMBER.pack(number + _SHIFT)


def chunk_of(hop: Hop, tiles: Any) -> Any:
    """The number of the chunk that a tile stands in."""
    return tiles // hop.n_tiles


def first_tile(hop: Hop, at_us: Any, window_us: int | None = None) -> Any:
    """The first tile of a window that ends at an instant; by default of the longest."""
    return (at_us - (window_us or hop.window_us)) // hop.hop_us


def words(rows: Sequence[bytes | None], empty: bytes) -> Ints:
    """The words of rows, one behind the other; where there is no row, of an empty one."""
    whole = b"".join([empty if row is None else row for row in rows])
    return np.frombuffer(bytearray(whole), np.int64)
