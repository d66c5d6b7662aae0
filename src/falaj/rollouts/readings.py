"""What workers counted of each variant between two looks.

Counters only grow, over all workers and restarts of a machine; where one has become smaller
it began anew (its folder was lost), and what it holds now is what happened since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from falaj.serving.counted import BUCKETS, buckets_of, quantile, upper_of
from falaj.serving.model import SeriesCounts


@dataclass(frozen=True)
class Counter:
    """Requests of one variant: since the beginning, or of a stretch of time."""

    answered: int = 0
    failed: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    """Answered requests by bucket of the histogram (``serving.counted``)."""

    @property
    def requests(self) -> int:
        """Those that were answered, and those that failed."""
        return self.answered + self.failed

    def since(self, before: Counter) -> Counter:
        """What happened after an earlier reading."""
        restarted = (
            self.answered < before.answered
            or self.failed < before.failed
            or any(self.latency.get(place, 0) < n for place, n in before.latency.items())
        )
        if restarted:
            return self
        grown = {n: k - before.latency.get(n, 0) for n, k in self.latency.items()}
        return Counter(
            self.answered - before.answered,
            self.failed - before.failed,
            {place: n for place, n in grown.items() if n},
        )

    def __add__(self, other: Counter) -> Counter:
        both = dict(self.latency)
        for place, n in other.latency.items():
            both[place] = both.get(place, 0) + n
        return Counter(self.answered + other.answered, self.failed + other.failed, both)

    def slower_than(self, bucket: int) -> int:
        """Answered requests in the buckets above one."""
        return sum(n for place, n in self.latency.items() if place > bucket)

    def bucket_at(self, share: float) -> int | None:
        """The bucket in which a quantile of the latency lies; None of nothing."""
        counts = np.zeros(BUCKETS, np.int64)
        for place, n in self.latency.items():
            counts[place] = n
        upper = quantile(counts, share)
        return None if upper is None else int(buckets_of(np.array([upper], np.float32))[0]) - 1

    def told(self) -> list[Any]:
        """As JSON."""
        return [self.answered, self.failed, sorted(self.latency.items())]

    @classmethod
    def read(cls, told: Sequence[Any]) -> Counter:
        """Of what ``told`` gave."""
        return cls(int(told[0]), int(told[1]), {int(k): int(n) for k, n in told[2]})


def counters(
    series: Iterable[SeriesCounts], endpoint: str, shadows: Collection[str] = ()
) -> dict[str, Counter]:
    """The counters of one endpoint by variant, since the beginning.

    Args:
        shadows: the variants of which those requests are meant that they ran behind.
    """
    return {
        one.variant: Counter(one.requests, one.failed, dict(one.latency))
        for one in series
        if one.endpoint == endpoint and one.variant and one.shadow == (one.variant in shadows)
    }


def bucket_above(bucket: int, factor: float) -> int:
    """The bucket whose upper edge is at least ``factor`` times that of another one."""
    wanted = upper_of(bucket) * factor
    found = bucket
    while upper_of(found) < wanted * (1 - 1e-9) and found < BUCKETS - 1:
        found += 1
    return found
