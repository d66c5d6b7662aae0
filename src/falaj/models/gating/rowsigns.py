"""Signs of leakage that lie in the rows: the same row in two parts, and travel in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from falaj.kernel.clock import microseconds
from falaj.models.gating.proportions import newcombe
from falaj.training.encoding import instants, numbers
from falaj.training.model import TEST, TRAIN, VALIDATION, TimeSplit
from falaj.training.spines import SPLIT
from falaj.training.splits import GroupSplit
from falaj.training.training_sets import part_of

if TYPE_CHECKING:
    from falaj.models.gating.examined import Examined
    from falaj.models.intervals import Interval

_ROWS_AT_ONCE = 65_536
_SCALES = (1e6, 1e3, 1.0)
"""Microseconds in a second, a millisecond, a microsecond."""
_EARLIEST, _LATEST = 946_684_800e6, 4_102_444_800e6  # 2000 to 2100, in microseconds
_SLACK_US = 1e6
"""Whole seconds are rounded numbers of the question's own instant."""


@dataclass(frozen=True)
class Twins:
    """How many rows have the very inputs of a fitted row."""

    n_twins: int
    """Of the test rows."""
    n_rows: int
    n_fitted_twins: int
    """Of the fitted rows: those that have a twin among the other fitted rows."""
    n_fitted: int

    @property
    def excess(self) -> Interval:
        """How much larger the share of twins is among test rows than among fitted rows.

        Rows of few values repeat by themselves, and then do so on both sides alike.
        """
        return newcombe(self.n_twins, self.n_rows, self.n_fitted_twins, self.n_fitted)

    def evidence(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "share": self.n_twins / max(self.n_rows, 1),
                "excess": self.excess.evidence()}  # fmt: skip


def twins(examined: Examined) -> Twins:
    """Test rows whose inputs are those of a row of the train or validation part, bit by bit."""
    encoding = examined.bundle.manifest.signature.encoding
    parts = [part_of(examined.whole, part) for part in (TRAIN, VALIDATION)]
    fitted = np.concatenate([row_hashes(encoding.matrix(part)) for part in parts])
    asked = row_hashes(examined.matrix)
    known, counts = np.unique(fitted, return_counts=True)
    n_twins = int(np.isin(asked, known).sum())
    return Twins(n_twins, asked.size, int(counts[counts > 1].sum()), fitted.size)


def row_hashes(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """64 bits for each row: equal for equal rows (any NaN is one value, and so is any zero).

    Two multilinear hashes with random multipliers, of which the upper halves are kept
    (Lemire and Kaser, The Computer Journal 57, 2014).
    """
    random = np.random.default_rng(7)
    keys = random.integers(0, 2**64, size=(2, matrix.shape[1] + 1), dtype=np.uint64)
    found = np.empty(len(matrix), dtype=np.uint64)
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        part = matrix[start : start + _ROWS_AT_ONCE] + np.float32(0)
        part = np.where(np.isnan(part), np.float32(np.nan), part)
        bits = np.ascontiguousarray(part).view(np.uint32).astype(np.uint64)
        high, low = ((bits * key[1:]).sum(axis=1, dtype=np.uint64) + key[0] for key in keys)
        found[start : start + len(part)] = (high & np.uint64(0xFFFFFFFF00000000)) | (
            low >> np.uint64(32)
        )
    return found


def misplaced(examined: Examined) -> int:
    """How many rows lie in another part than their instant says; 0 if time did not part them."""
    spec = examined.training_set.spec
    _, split = examined.training_set.trainable()
    if not isinstance(split, TimeSplit):
        return 0
    at = instants(examined.whole.column(spec.timestamp), spec.timestamp)
    train_until, fitted_until = (
        microseconds(one) for one in (split.train_until, split.validation_until)
    )
    told = np.asarray(examined.whole.column(SPLIT).to_pylist(), dtype=object)
    wrong = (
        ((told == TRAIN) & (at >= train_until))
        | ((told == VALIDATION) & ((at < train_until) | (at >= fitted_until)))
        | ((told == TEST) & (at < fitted_until))
    )
    return int(wrong.sum())


def divided_groups(examined: Examined) -> int:
    """How many groups stand on both sides of the test, in a set that is cut by groups."""
    _, split = examined.training_set.trainable()
    if not isinstance(split, GroupSplit):
        return 0
    groups = examined.whole.column(split.group).cast(pa.string())
    tested = np.asarray(examined.whole.column(SPLIT).to_pylist(), dtype=object) == TEST
    words = np.asarray(groups.to_pylist(), dtype=object)
    return len(set(words[tested].tolist()) & set(words[~tested].tolist()))


def later_instants(examined: Examined) -> dict[str, int]:
    """Inputs that tell instants, and in how many test rows one after the row's own.

    Meant is a number that is Unix time (in seconds, milliseconds or microseconds of this
    century) in every row where it is known.
    """
    spec = examined.training_set.spec
    at = instants(examined.rows.column(spec.timestamp), spec.timestamp).astype(np.float64)
    found = {}
    for name in examined.bundle.manifest.signature.encoding.names:
        told = _as_instants(examined.rows.column(name), name)
        if told is not None:
            n_later = int((told > at + _SLACK_US).sum())  # NaN is not later
            if n_later:
                found[name] = n_later
    return found


def _as_instants(column: pa.ChunkedArray, name: str) -> Any:
    """Microseconds, or None if the column does not tell instants."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    values = numbers(column, name)
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    for scale in _SCALES:
        if (known * scale > _EARLIEST).all() and (known * scale < _LATEST).all():
            return values * scale
    return None
