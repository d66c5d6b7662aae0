"""Masks: what stands in place of values that a caller may not see.

A masked column keeps its type, so that whatever reads it goes on. Nothing of a column that
is masked as ``null`` or ``mask`` is told, not even whether there is a value. ``hash`` is
HMAC-SHA-256 under a key of the platform's, of the table and of the column: equal values stay
equal within the column, and nobody without the key can test a value that they guess.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pyarrow as pa

HIDDEN = "***"
"""What a masked text says."""
_LARGEST = (1 << 63) - 1
_HASHED_BYTES = 16


class How(StrEnum):
    """How values are masked, the strictest first."""

    NULL = "null"  # null, whatever there is
    MASK = "mask"  # texts are "***", everything else is null
    HASH = "hash"  # texts, bytes and 64-bit integers are a keyed hash, everything else is null
    GENERALISE = "generalise"  # values are made coarse, as ``characters``, ``width``, ``to`` say


class Mask(BaseModel):
    """How the values of a column are masked.

    ``generalise`` keeps the first ``characters`` of a text, the lower bound of the bucket of
    that ``width`` of a number, and the month or the year of a date or an instant; a column of
    a type for which nothing is said is null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: How
    characters: int | None = Field(None, ge=1, le=8)
    width: float | None = Field(None, gt=0)
    to: Literal["month", "year"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [self.characters, self.width, self.to]
        if self.how is How.GENERALISE and given == [None, None, None]:
            raise ValueError("generalise takes characters, width, or to")
        if self.how is not How.GENERALISE and given != [None, None, None]:
            raise ValueError("characters, width and to are for generalise alone")
        return self

    def __str__(self) -> str:
        told = ("characters", "width", "to")
        said = [f"{name}={getattr(self, name)}" for name in told if getattr(self, name) is not None]
        return f"{self.how}({', '.join(said)})" if said else str(self.how)

    def together(self, other: Mask) -> Mask:
        """The stricter of two; of two that generalise, one that is as coarse as both."""
        order = list(How)
        if self.how is not other.how:
            return min(self, other, key=lambda one: order.index(one.how))
        if self.how is not How.GENERALISE:
            return self
        characters = _both(min, self.characters, other.characters)
        width = _both(max, self.width, other.width)
        to = _both(max, self.to, other.to)  # "year" comes after "month"
        if characters is None and width is None and to is None:
            return Mask(how=How.NULL)
        return Mask(how=How.GENERALISE, characters=characters, width=width, to=to)


DEFAULT = Mask(how=How.MASK)
"""What whoever may read a table sees of a column of it that they may not read."""


def masked(values: pa.ChunkedArray, mask: Mask, key: bytes) -> pa.ChunkedArray:
    """The values of a column as somebody sees them who may not see them all, of their type.

    Args:
        values: of any type that a table can hold.
        mask: how.
        key: of this table and column, for ``hash``.
    """
    import pyarrow as pa

    kind, n = values.type, len(values)
    done: Any = None
    if mask.how is How.MASK and pa.types.is_string(kind):
        done = pa.repeat(pa.scalar(HIDDEN, kind), n)
    elif mask.how is How.HASH:
        done = _hashed(values, key)
    elif mask.how is How.GENERALISE:
        done = _coarse(values, mask)
    if done is None:
        done = pa.nulls(n, kind)
    return done if isinstance(done, pa.ChunkedArray) else pa.chunked_array([done], kind)


def column_key(secret: bytes, table: str, column: str) -> bytes:
    """The key under which the values of one column are hashed."""
    return hmac.digest(secret, f"{table}\0{column.lower()}".encode(), hashlib.sha256)


def _hashed(values: pa.ChunkedArray, key: bytes) -> pa.ChunkedArray | None:
    """A keyed hash of each distinct value; None for a type that cannot hold one."""
    import pyarrow as pa

    kind = values.type
    make: Callable[[Any], Any]
    if pa.types.is_string(kind):

        def make(value: Any) -> Any:
            return _digest(key, value.encode()).hex()
    elif pa.types.is_binary(kind):

        def make(value: Any) -> Any:
            return _digest(key, value)
    elif pa.types.is_int64(kind) or pa.types.is_uint64(kind):

        def make(value: Any) -> Any:
            return int.from_bytes(_digest(key, str(value).encode())[:8]) & _LARGEST
    else:
        return None
    encoded = values.combine_chunks().dictionary_encode()
    whole = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    words = pa.array(
        [None if one is None else make(one) for one in whole.dictionary.to_pylist()], kind
    )
    return pa.chunked_array([words.take(whole.indices)], kind)


def _digest(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, hashlib.sha256)[:_HASHED_BYTES]


def _coarse(values: pa.ChunkedArray, mask: Mask) -> pa.ChunkedArray | None:
    """Generalised values; None for a type about which the mask says nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, of = values.type, pa.types
    if of.is_string(kind) and mask.characters is not None:
        return pc.utf8_slice_codeunits(values, 0, mask.characters)
    if mask.width is not None and (of.is_integer(kind) or of.is_floating(kind)):
        width = pa.scalar(float(mask.width))
        buckets = pc.floor(pc.divide(values.cast(pa.float64(), safe=False), width))
        coarse = pc.multiply(buckets, width)
        if of.is_floating(kind):
            return coarse.cast(kind, safe=False)
        fits = pc.and_(
            pc.greater_equal(coarse, float(_least(kind))), pc.less(coarse, float(_most(kind)))
        )
        # A bound below the least number of the type is no number of the type.
        return pc.if_else(fits, coarse, pa.scalar(None, pa.float64())).cast(kind, safe=False)
    if mask.to is not None and (of.is_date(kind) or of.is_timestamp(kind)):
        return pc.floor_temporal(values, unit=mask.to)
    return None


def _least(kind: pa.DataType) -> int:
    import pyarrow as pa

    return 0 if pa.types.is_unsigned_integer(kind) else -(1 << (kind.bit_width - 1))


def _most(kind: pa.DataType) -> int:
    import pyarrow as pa

    signed = not pa.types.is_unsigned_integer(kind)
    return int((1 << (kind.bit_width - signed)) - 1)


def _both(choose: Callable[..., Any], left: Any, right: Any) -> Any:
    return None if left is None or right is None else choose(left, right)


__all__ = ["DEFAULT", "HIDDEN", "How", "Mask", "column_key", "masked"]
