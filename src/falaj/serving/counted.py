"""What was counted of one endpoint's variant, and the arithmetic of its histograms.

A histogram has sixteen buckets to each power of two, from 1 µs to 1,000 s (for rows: from
1 to a million), so a bucket is at most 6.25 % wide. The bucket of a number is read off the
bits of its float32: exponent and the first four bits of the fraction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

LATENCY, QUEUE, MODEL, ROWS = range(4)
"""The histograms, and the sums beside them: seconds to the answer, seconds that a request
waited for its turn, seconds of the model's run, and rows scored in one run."""
N_HISTOGRAMS = 4

REFUSED, FAILED, SHED, LATE, UNLOGGED, UNTOLD, UNTRACED, ERRED, TAGGED, ANOMALOUS = range(10)
"""The counters: answers 4xx, 5xx, 429 or 503, 504; predictions that are in no log; lines of
the access log and spans that were dropped; requests on which a variant's own model failed,
whatever they were answered; predictions that an isolation forest tagged, and those of them that
it found anomalous. Of a shadow, SHED are requests on which it did not run."""
N_COUNTERS = 10
SHADOW: Final = "shadow/"
"""Before the name of a variant that ran behind the answer: its counts are a series of their
own, and no part of what the endpoint answered."""

SUB: Final = 16
"""Buckets in each power of two."""
_SHIFT = 19  # keeps the exponent and four bits of the fraction of a float32
_LOWEST = -20  # the first bucket begins at 2**-20 s, about 1 µs
_OCTAVES = 30
BUCKETS: Final = SUB * _OCTAVES
_BASE = (127 + _LOWEST) << 4
ROW: Final = 2.0**_LOWEST
"""One row on the scale of the histograms: 1 to 32 rows have buckets of their own."""


def buckets_of(values: NDArray[np.float32]) -> Counts:
    """The bucket of each number (float32, not negative); what is beyond lies in the last one."""
    bits = np.ascontiguousarray(values).view(np.uint32) >> _SHIFT
    placed: Counts = bits.astype(np.int64)
    placed -= _BASE
    np.maximum(placed, 0, out=placed)
    return np.minimum(placed, BUCKETS - 1, out=placed)


def upper_of(bucket: int) -> float:
    """The number that is just above everything in a bucket."""
    octave, part = divmod(bucket, SUB)
    return math.ldexp(1 + (part + 1) / SUB, _LOWEST + octave)


def histogram(values: NDArray[np.float32]) -> Counts:
    """How many of the numbers lie in each bucket."""
    counts: Counts = np.bincount(buckets_of(values), minlength=BUCKETS)
    return counts


def quantile(counts: Counts, share: float) -> float | None:
    """The upper edge of the bucket in which a quantile lies; None of nothing.

    It is never below the true quantile of what was counted, and at most 6.25 % above it.
    """
    total = int(counts.sum())
    if not total:
        return None
    wanted = max(1, math.ceil(share * total))
    place = int(np.searchsorted(np.cumsum(counts), wanted))
    return upper_of(place)


def quantile_ms(counts: Counts, share: float) -> float | None:
    """A quantile of a histogram of seconds, in milliseconds."""
    found = quantile(counts, share)
    return None if found is None else found * 1000


def _histograms() -> Counts:
    return np.zeros((N_HISTOGRAMS, BUCKETS), np.int64)


@dataclass(slots=True)
class Counted:
    """The counts of one endpoint's variant, of one worker or of many."""

    counters: Counts = field(default_factory=lambda: np.zeros(N_COUNTERS, np.int64))
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_HISTOGRAMS))
    histograms: Counts = field(default_factory=_histograms)
    """[histogram, bucket]."""
    in_flight: int = 0
    """Requests in work when it was last looked; of living workers."""
    workers: int = 0
    """Living workers that have served it."""

    def add(self, other: Counted) -> None:
        """Take the other's counts to one's own."""
        self.counters += other.counters
        self.sums += other.sums
        self.histograms += other.histograms
        self.in_flight += other.in_flight
        self.workers += other.workers

    @property
    def answered(self) -> int:
        """Requests that got an answer with predictions."""
        return int(self.histograms[LATENCY].sum())

    @property
    def requests(self) -> int:
        """Requests that were answered in any way."""
        return self.answered + int(self.counters[REFUSED] + self.counters[FAILED])

    @property
    def predictions(self) -> int:
        """Rows that were scored and answered."""
        return round(float(self.sums[ROWS]))

    def quantile_ms(self, share: float, *, of: int = LATENCY) -> float | None:
        """A quantile of one of the histograms of seconds, in milliseconds."""
        return quantile_ms(self.histograms[of], share)

    def tally(self, runs: NDArray[Any], started: NDArray[np.float64]) -> None:
        """Take runs of the model to the counts.

        Args:
            runs: see ``meters.RUN``.
            started: when their requests arrived, where ``place`` of a run points to.
        """
        n = runs["n"]
        arrived, done, begun = runs["started"], runs["done"], runs["begun"]
        if not (n == 1).all():
            arrived, done, begun = _by_request(runs, started)
        whole = runs if runs["rows"].all() else runs[runs["rows"] > 0]
        parts = (done - arrived, begun - arrived, whole["model"], whole["rows"] * ROW)
        # One pass over all four: the cost of a pass is what counts here.
        values = np.concatenate(parts, dtype=np.float32, casting="same_kind")
        places = buckets_of(values)
        at = 0
        for place, part in enumerate(parts):
            self.sums[place] += part.sum() / (ROW if place == ROWS else 1.0)
            places[at : at + len(part)] += place * BUCKETS
            at += len(part)
        counts = np.bincount(places, minlength=N_HISTOGRAMS * BUCKETS)
        self.histograms += counts.reshape(N_HISTOGRAMS, BUCKETS)


def _by_request(
    runs: NDArray[Any], started: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For each request: when it arrived, when its run was answered, when that was begun."""
    alone, many = runs[runs["n"] == 1], runs[runs["n"] > 1]
    n = many["n"].astype(np.int64)
    first = many["place"].astype(np.int64) - (np.cumsum(n) - n)
    places = np.arange(n.sum()) + np.repeat(first, n)
    return (
        np.concatenate((alone["started"], started[places])),
        np.concatenate((alone["done"], np.repeat(many["done"], n))),
        np.concatenate((alone["begun"], np.repeat(many["begun"], n))),
    )
