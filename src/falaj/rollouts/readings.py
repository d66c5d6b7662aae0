"""What workers counted of each variant by buckets of units, and what of it is new.

Counts only grow, over all workers and their restarts. Where one has become smaller, some were lost
(with their folder, or as the power failed): which of the others are new cannot be told. So nothing
of that look is taken for new, and counting goes on from what it found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.serving.counted import BUCKETS, buckets_of, quantile, upper_of
from falaj.serving.unitcounts import ERRED_ROW, UNIT_BUCKETS

Ints = NDArray[np.int64]


def _nothing() -> Ints:
    return np.zeros((BUCKETS + 1, UNIT_BUCKETS), np.int64)


@dataclass(frozen=True)
class Counter:
    """Requests of one variant since the beginning.

    Attributes:
        cells: int64 [latency buckets + 1, unit buckets] (``serving.unitcounts``).
    """

    cells: Ints = field(default_factory=_nothing)

    @property
    def failed(self) -> Ints:
        """By bucket of units, those on which the variant's model failed."""
        return np.asarray(self.cells[ERRED_ROW])

    @property
    def answered(self) -> Ints:
        """By bucket of units."""
        return np.asarray(self.cells[:BUCKETS].sum(axis=0))

    def slower_than(self, bucket: int) -> Ints:
        """By bucket of units, answered requests in the buckets of latency above one."""
        return np.asarray(self.cells[bucket + 1 : BUCKETS].sum(axis=0))

    def histogram(self) -> Ints:
        """Answered requests by bucket of latency."""
        return np.asarray(self.cells[:BUCKETS].sum(axis=1))


@dataclass(frozen=True)
class Tally:
    """Events, and requests with those among them, by bucket of units: [unit buckets].

    int64; float64 where only a part of the events of a bucket is read.
    """

    events: Ints | NDArray[np.float64]
    requests: Ints

    @classmethod
    def nothing(cls) -> Tally:
        """Before anything was seen."""
        return cls(np.zeros(UNIT_BUCKETS, np.int64), np.zeros(UNIT_BUCKETS, np.int64))

    @property
    def totals(self) -> tuple[int, int]:
        """Events and requests over all units."""
        return round(float(self.events.sum())), int(self.requests.sum())

    def since(self, before: Tally) -> Tally:
        """What happened after an earlier reading; nothing if any count became smaller since."""
        events, requests = self.events - before.events, self.requests - before.requests
        if (events < 0).any() or (requests < 0).any():
            return Tally.nothing()
        return Tally(events, requests)

    def told(self) -> list[list[int]]:
        """As JSON."""
        return [self.events.tolist(), self.requests.tolist()]

    @classmethod
    def read(cls, told: Sequence[Any]) -> Tally:
        """Of what ``told`` gave."""
        return cls(np.array(told[0], np.int64), np.array(told[1], np.int64))


def counters(
    cells: Mapping[tuple[str, bool], Ints], shadows: Collection[str] = ()
) -> dict[str, Counter]:
    """The counters of one endpoint by variant.

    Args:
        cells: by variant, and whether it ran as a shadow.
        shadows: the variants of which those requests are meant that they ran behind.
    """
    return {
        variant: Counter(one)
        for (variant, shadow), one in cells.items()
        if shadow == (variant in shadows)
    }


def bucket_at(histogram: Ints, share: float) -> int | None:
    """The bucket in which a quantile of the latency lies; None of nothing."""
    upper = quantile(histogram, share)
    return None if upper is None else int(buckets_of(np.array([upper], np.float32))[0]) - 1


def bucket_above(bucket: int, factor: float) -> int:
    """The bucket whose upper edge is at least ``factor`` times that of another one."""
    wanted = upper_of(bucket) * factor
    found = bucket
    while upper_of(found) < wanted * (1 - 1e-9) and found < BUCKETS - 1:
        found += 1
    return found
