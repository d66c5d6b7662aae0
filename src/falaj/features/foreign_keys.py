"""The entities of a spine, numbered, and the same numbers for the rows of a foreign table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.features.columns import Array, Ints, Values
from falaj.features.types import DType


class Asked:
    """The entities of a spine, numbered.

    Args:
        keys: the key columns of the spine, typed, m rows each.
        dtypes: their types.

    ``codes`` (m,) are int32, -1 where a key is null; ``n`` is one more than the greatest.
    """

    def __init__(self, keys: Sequence[pa.Array], dtypes: Sequence[DType]) -> None:
        self._numbers = [_Numbers.of(key, dtype) for key, dtype in zip(keys, dtypes, strict=True)]
        parts = [
            numbers.of_column(key, np.ones(len(key), np.bool_))
            for numbers, key in zip(self._numbers, keys, strict=True)
        ]
        self._pairs: list[_Numbers] = []
        codes = parts[0]
        for part in parts[1:]:
            paired = _paired(codes, part)
            known = np.unique(paired[paired >= 0])
            self._pairs.append(_Numbers(DType.INT64, pa.array(known)))
            codes = self._pairs[-1].of_ints(paired, paired >= 0)
        self.codes = codes
        self.n = int(codes.max(initial=-1)) + 1

    def codes_of(self, keys: Sequence[pa.Array], kept: Array) -> Array:
        """(n,) int32: the entities of source rows, -1 for others and where not ``kept``."""
        codes = self._numbers[0].of_column(keys[0], kept)
        for pairs, numbers, key in zip(self._pairs, self._numbers[1:], keys[1:], strict=True):
            paired = _paired(codes, numbers.of_column(key, kept))
            codes = pairs.of_ints(paired, paired >= 0)
        return codes


def _paired(one: Array, other: Array) -> Ints:
    """Two numbers as one; -1 where one of them is."""
    both = one.astype(np.int64) << 32 | other
    return np.where((one < 0) | (other < 0), -1, both)


class _Numbers:
    """Distinct keys, numbered in their order.

    ``kernels_foreign`` holds integers in a table of open addresses, Arrow holds texts.
    """

    def __init__(self, dtype: DType, known: pa.Array) -> None:
        self._known = known
        self._ints = dtype is DType.INT64
        if self._ints:
            from falaj.features import kernels_foreign

            size = 1 << max(4, (2 * len(known)).bit_length())
            self._slots = np.zeros(size, np.int64)
            self._codes = np.full(size, -1, np.int32)
            keys = known.to_numpy(zero_copy_only=False).astype(np.int64)
            kernels_foreign.hashed(keys, self._slots, self._codes)

    @classmethod
    def of(cls, column: pa.Array, dtype: DType) -> _Numbers:
        return cls(dtype, pc.unique(column).drop_null())

    def of_column(self, column: pa.Array, kept: Array) -> Array:
        """(n,) int32 numbers of keys, -1 for null, unknown, and where not ``kept``."""
        if self._ints:
            values = Values.of(column, DType.INT64, "")
            known = kept if not column.null_count else kept & values.valid
            return self.of_ints(values.values, known)
        found = pc.index_in(column, value_set=self._known, skip_nulls=True).fill_null(-1)
        codes = found.to_numpy(zero_copy_only=False)
        return codes if kept.all() else np.where(kept, codes, np.int32(-1))

    def of_ints(self, keys: Ints, kept: Array) -> Array:
        from falaj.features import kernels_foreign

        out = np.empty(len(keys), np.int32)
        kernels_foreign.looked_up(keys, kept, self._slots, self._codes, out)
        return out
