"""Sketches: what a model saw and said, as sums that merge by addition.

Values are counted on edges that were frozen with the model, beside the number of missing
ones, sums, squares and extremes. Two sketches of one model version add up to the sketch of
both, in any order, so that minutes become hours and one worker's traffic all workers', and
whatever is read from them costs the same for ten rows as for ten million. The counts have no
error of their own; sums are floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import msgspec
import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.model import FeatureStatistics, Statistics

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
_FORMAT = 1
_WIDTHS = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))


@dataclass(frozen=True)
class Bins:
    """The frozen bins of one model version: of each input, then of the score."""

    names: tuple[str, ...]
    edges: tuple[Reals | None, ...]
    """Of each input; None for a category, whose values are the places of its words."""
    sizes: tuple[int, ...]
    """How many bins each input has; of a category one for each word, and one for all others."""
    score_edges: Reals

    @classmethod
    def of(cls, statistics: Statistics) -> Bins:
        """The bins that were frozen with a bundle."""
        features = statistics.features
        return cls(
            tuple(one.name for one in features),
            tuple(_edges(one) for one in features),
            tuple(len(one.counts) for one in features),
            np.array(statistics.scores.edges, dtype=np.float64),
        )

    @property
    def n_score_bins(self) -> int:
        """One more than the score's edges."""
        return len(self.score_edges) + 1


@dataclass(frozen=True)
class Sketch:
    """What the rows of one model version in some stretch of time were like.

    Attributes:
        n: rows.
        counts: of each input its bins, one after the other.
        missing: of each input, rows without a value; its other arrays know nothing of them.
        infinite: of each input, rows with a value that is not finite; the sums leave them out.
        totals, squares: of each input, the sum of its finite values and of their squares.
        low, high: of each input; +inf and -inf where there was none.
        scores: how many scores fell into each bin of the score.
        score_totals: the sum of the scores in each of those bins.
    """

    n: int
    counts: Integers
    missing: Integers
    infinite: Integers
    totals: Reals
    squares: Reals
    low: Reals
    high: Reals
    scores: Integers
    score_totals: Reals

    @classmethod
    def empty(cls, bins: Bins) -> Sketch:
        """Of no rows."""
        n = len(bins.names)
        return cls(
            0,
            np.zeros(sum(bins.sizes), dtype=np.int64),
            np.zeros(n, dtype=np.int64),
            np.zeros(n, dtype=np.int64),
            np.zeros(n),
            np.zeros(n),
            np.full(n, np.inf),
            np.full(n, -np.inf),
            np.zeros(bins.n_score_bins, dtype=np.int64),
            np.zeros(bins.n_score_bins),
        )

    @classmethod
    def of(cls, bins: Bins, matrix: NDArray[np.float32], scores: Reals) -> Sketch:
        """Of rows.

        Args:
            bins: of the model version that scored them.
            matrix: (rows, inputs), encoded as the model reads them; NaN is missing.
            scores: (rows,); one that is not finite is counted nowhere.

        Raises:
            InvalidInput: the matrix has other columns than the bins.
        """
        if matrix.ndim != 2 or matrix.shape[1] != len(bins.names):
            raise InvalidInput(
                f"Rows of {matrix.shape[-1]} inputs do not fit the {len(bins.names)} of the model.",
                hint="Sketch each model version's rows by its own bins.",
            )
        columns = np.ascontiguousarray(matrix.T, dtype=np.float64)
        counts = [
            _counted(column, edges, size)
            for column, edges, size in zip(columns, bins.edges, bins.sizes, strict=True)
        ]
        finite = np.isfinite(columns)
        known = np.where(finite, columns, 0.0)
        missing = np.isnan(columns).sum(axis=1)
        said = scores[np.isfinite(scores)]
        places = np.searchsorted(bins.score_edges, said, side="left")
        return cls(
            len(matrix),
            np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64),
            missing,
            len(matrix) - finite.sum(axis=1) - missing,
            known.sum(axis=1),
            (known * known).sum(axis=1),
            np.where(finite, columns, np.inf).min(axis=1, initial=np.inf),
            np.where(finite, columns, -np.inf).max(axis=1, initial=-np.inf),
            np.bincount(places, minlength=bins.n_score_bins).astype(np.int64),
            np.bincount(places, weights=said, minlength=bins.n_score_bins).astype(np.float64),
        )

    def __add__(self, other: Sketch) -> Sketch:
        if self.counts.shape != other.counts.shape or self.scores.shape != other.scores.shape:
            raise InvalidInput(
                "Sketches on other bins cannot be added.",
                hint="Add sketches of one model version.",
            )
        return Sketch(
            self.n + other.n,
            self.counts + other.counts,
            self.missing + other.missing,
            self.infinite + other.infinite,
            self.totals + other.totals,
            self.squares + other.squares,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.scores + other.scores,
            self.score_totals + other.score_totals,
        )

    def of_input(self, bins: Bins, place: int) -> Integers:
        """The counts of one input, by its place."""
        start = sum(bins.sizes[:place])
        return self.counts[start : start + bins.sizes[place]]

    def packed(self) -> bytes:
        """As bytes: counts in the narrowest integers that hold them."""
        whole = [self.counts, self.missing, self.infinite, self.scores]
        real = [self.totals, self.squares, self.low, self.high, self.score_totals]
        kept = _Kept(
            _FORMAT,
            self.n,
            [_narrow(array) for array in whole],
            [array.astype("<f8").tobytes() for array in real],
        )
        return msgspec.msgpack.encode(kept)


class _Kept(msgspec.Struct, array_like=True):
    format: int
    n: int
    whole: list[tuple[int, bytes]]
    """Of each array of integers the bytes of one, and all of them."""
    real: list[bytes]


def unpacked(data: bytes) -> Sketch:
    """The sketch in what ``Sketch.packed`` gave.

    Raises:
        Corrupt: these bytes are none.
    """
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept)
        if kept.format != _FORMAT or len(kept.whole) != 4 or len(kept.real) != 5:
            raise ValueError(f"format {kept.format}")
        counts, missing, infinite, scores = (_wide(width, raw) for width, raw in kept.whole)
        reals = [np.frombuffer(raw, dtype="<f8").astype(np.float64) for raw in kept.real]
        totals, squares, low, high, score_totals = reals
        same = {len(missing), len(infinite), *(len(one) for one in reals[:4])}
        if len(same) != 1 or len(scores) != len(score_totals):
            raise ValueError("arrays of other lengths")
    except (ValueError, msgspec.MsgspecError) as error:
        raise Corrupt(
            f"A kept sketch is not readable: {error}.",
            hint="Leave that minute out, or make it again from the prediction log.",
        ) from error
    return Sketch(
        kept.n, counts, missing, infinite, totals, squares, low, high, scores, score_totals
    )


def put_together(bins: Bins, kept: Sequence[bytes]) -> Sketch:
    """What ``merged`` gives of all that ``unpacked`` reads, in one addition for each array.

    Raises:
        Corrupt: some of these bytes are no sketch.
        InvalidInput: they are on other bins.
    """
    if not kept:
        return Sketch.empty(bins)
    first = unpacked(kept[0])
    try:
        parts = [msgspec.msgpack.decode(data, type=_Kept) for data in kept]
        if any(one.format != _FORMAT or len(one.whole) != 4 or len(one.real) != 5 for one in parts):
            raise ValueError("another format")
        whole = [
            _added([one.whole[place] for one in parts], size)
            for place, size in enumerate(
                (len(first.counts), len(first.missing), len(first.missing), len(first.scores))
            )
        ]
        reals = [
            np.frombuffer(b"".join([one.real[place] for one in parts]), dtype="<f8").reshape(
                len(parts), size
            )
            for place, size in enumerate((*(len(first.missing),) * 4, len(first.scores)))
        ]
    except (ValueError, msgspec.MsgspecError):  # which of them it is, and why, is told so
        return merged(bins, [unpacked(data) for data in kept])
    counts, missing, infinite, scores = whole
    totals, squares, low, high, score_totals = reals
    return Sketch.empty(bins) + Sketch(
        sum(one.n for one in parts),
        counts,
        missing,
        infinite,
        totals.sum(axis=0),
        squares.sum(axis=0),
        low.min(axis=0),
        high.max(axis=0),
        scores,
        score_totals.sum(axis=0),
    )


def _added(arrays: Sequence[tuple[int, bytes]], size: int) -> Integers:
    """The sum of arrays of one length, of which each has integers of its own width."""
    by_width: dict[int, list[bytes]] = {}
    for width, raw in arrays:
        by_width.setdefault(width, []).append(raw)
    total = np.zeros(size, dtype=np.int64)
    for width, raws in by_width.items():
        if any(len(raw) != width * size for raw in raws):
            raise ValueError("arrays of other lengths")
        rows = np.frombuffer(b"".join(raws), dtype=f"<u{width}").reshape(len(raws), size)
        total += rows.sum(axis=0, dtype=np.int64)
    return total


def merged(bins: Bins, sketches: Sequence[Sketch]) -> Sketch:
    """All sketches as one; empty if there are none."""
    return reduce(Sketch.__add__, sketches, Sketch.empty(bins))


def _edges(feature: FeatureStatistics) -> Reals | None:
    return None if feature.categories else np.array(feature.edges, dtype=np.float64)


def _counted(column: Reals, edges: Reals | None, size: int) -> Integers:
    known = column[~np.isnan(column)]
    if edges is None:
        places = np.clip(known, 0, size - 1).astype(np.int64)
    else:
        places = np.searchsorted(edges, known, side="left")
    return np.bincount(places, minlength=size).astype(np.int64)


def _narrow(array: Integers) -> tuple[int, bytes]:
    largest = int(array.max(initial=0))
    width = next(one for one in _WIDTHS if largest < 1 << (8 * one.itemsize))
    return width.itemsize, array.astype(width).tobytes()


def _wide(width: int, raw: bytes) -> Integers:
    if width not in (1, 2, 4, 8):
        raise ValueError(f"integers of {width} bytes")
    return np.frombuffer(raw, dtype=f"<u{width}").astype(np.int64)
