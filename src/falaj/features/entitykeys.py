"""The keys of entities as bytes, one to one, and many at once.

An int64 stands as eight bytes whose order is that of the numbers, a string as its length
(two bytes) and its UTF-8; behind the view's prefix, in the order of the entity's keys.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints
from falaj.features.types import DType
from falaj.kernel.errors import InvalidInput, LimitExceeded

_SHIFT = 1 << 63
_LEAST = np.int64(-_SHIFT)
LONGEST_KEY = 480
"""Bytes of an encoded entity key: what LMDB takes (511), less our prefix and some room."""
_INT = struct.Struct(">Q")
_LENGTHS = [struct.pack(">H", n) for n in range(LONGEST_KEY + 1)]
_FEW = 6
"""For so few keys a loop is faster than arrays."""

One = Callable[[Any], bytes]


def sliced(matrix: Array) -> list[bytes]:
    """The rows of a contiguous matrix as bytes."""
    width = matrix.shape[1] * matrix.dtype.itemsize
    rows: list[bytes] = matrix.view(f"V{width}").ravel().tolist()
    return rows


def plain(column: Any) -> Sequence[Any]:
    """A column as Python values; a numpy array gives a list."""
    found: Sequence[Any] = column.tolist() if isinstance(column, np.ndarray) else column
    return found


class KeyCodec:
    """Encodes the keys of entities.

    Args:
        prefix: the first bytes of every key: the view's storage.
        keys: the names and types of the entity's keys, in order.
        secret: with it the key is replaced by its keyed hash (BLAKE2b, 32 bytes), so
            that the key of a person does not stand in clear.
    """

    def __init__(
        self, prefix: bytes, keys: Mapping[str, DType], *, secret: bytes | None = None
    ) -> None:
        self._prefix = prefix
        self._secret = secret
        self.names = tuple(keys)
        self._dtypes = tuple(keys.values())
        self._parts = [
            (_integer if dtype is DType.INT64 else _text)(name) for name, dtype in keys.items()
        ]
        self.one = self._first_alone() if len(keys) == 1 and secret is None else None
        """Encodes the only key of an entity, which is not null; None if there are several."""

    def _first_alone(self) -> One:
        prefix, part = self._prefix, self._parts[0]

        def one(value: Any) -> bytes:
            return prefix + part(value)

        return one

    def encoded(self, values: Sequence[Any]) -> bytes | None:
        """The key of one entity; None if one of its values is null.

        Raises:
            InvalidInput: a value of another type (a NaN is no key).
            LimitExceeded: the key is longer than any store takes.
        """
        for value in values:
            if value is None:
                return None
        key = b"".join([part(value) for part, value in zip(self._parts, values, strict=True)])
        if len(key) > LONGEST_KEY:
            raise _too_long()
        return self._finished(key)

    def _finished(self, key: bytes) -> bytes:
        if self._secret is not None:
            key = hashlib.blake2b(key, key=self._secret, digest_size=32).digest()
        return self._prefix + key

    def asked(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The keys of m entities, given as columns of Python values or numpy arrays.

        None where a value is null. Raises as ``encoded``.
        """
        given = [plain(one) for one in columns]
        if len(given) == 1 and len(given[0]) > _FEW:
            column = given[0]
            kinds = set(map(type, column))
            if kinds == {int} and self._dtypes[0] is DType.INT64:
                try:
                    return [*self._numbers(np.array(column, np.int64))]
                except OverflowError:
                    pass  # the loop tells which
            if kinds == {str} and self._dtypes[0] is DType.STRING:
                try:
                    return [*self._texts([value.encode() for value in column])]
                except UnicodeEncodeError:
                    pass
        return [self.encoded(values) for values in zip(*given, strict=True)]

    def column(self, keys: Sequence[pa.Array], since: int | None = None) -> list[bytes]:
        """The keys of many entities, given as typed Arrow columns without nulls.

        ``since`` means nothing here (see ``SubjectKeyCodec``): these are nobody's.
        """
        if len(keys) == 1:
            if self._dtypes[0] is DType.INT64:
                return self._numbers(keys[0].to_numpy(zero_copy_only=False))
            return self._texts(_utf8(keys[0]))
        parts = [
            sliced(_ordered(array.to_numpy(zero_copy_only=False)))
            if dtype is DType.INT64
            else [_length(text) + text for text in _utf8(array)]
            for array, dtype in zip(keys, self._dtypes, strict=True)
        ]
        found = list(map(b"".join, zip(*parts, strict=True)))
        if max(map(len, found), default=0) > LONGEST_KEY:
            raise _too_long()
        return [self._finished(key) for key in found]

    def _numbers(self, values: Ints) -> list[bytes]:
        if self._secret is not None:
            return [self._finished(key) for key in sliced(_ordered(values))]
        at = len(self._prefix)
        matrix = np.empty((len(values), at + 8), np.uint8)
        matrix[:, :at] = np.frombuffer(self._prefix, np.uint8)
        matrix[:, at:] = _ordered(values)
        return sliced(matrix)

    def _texts(self, texts: Sequence[bytes]) -> list[bytes]:
        if max(map(len, texts), default=0) > LONGEST_KEY - 2:
            raise _too_long()
        if self._secret is not None:
            return [self._finished(_LENGTHS[len(text)] + text) for text in texts]
        heads = [self._prefix + length for length in _LENGTHS]
        return [heads[len(text)] + text for text in texts]


def _ordered(values: Ints) -> Array:
    """(n, 8) bytes of int64s that compare as they do."""
    return (values ^ _LEAST).astype(">i8").view(np.uint8).reshape(-1, 8)


def _utf8(array: pa.Array) -> list[bytes]:
    """The bytes of each string."""
    found: list[bytes] = array.cast(pa.binary()).to_pylist()
    return found


def _integer(name: str) -> One:
    pack = _INT.pack

    def integer(value: Any) -> bytes:
        if type(value) is not int or not -_SHIFT <= value < _SHIFT:
            raise _wrong_key(name, value, "an int64")
        return pack(value + _SHIFT)

    return integer


def _text(name: str) -> One:
    def text(value: Any) -> bytes:
        if type(value) is not str:
            raise _wrong_key(name, value, "a string")
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            raise _wrong_key(name, value, "well-formed Unicode") from None
        return _length(encoded) + encoded

    return text


def _length(text: bytes) -> bytes:
    if len(text) > LONGEST_KEY - 2:
        raise _too_long()
    return _LENGTHS[len(text)]


def _wrong_key(name: str, value: Any, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"The key {name!r} is {type(value).__name__} {str(value)[:60]!r}, not {wanted}.",
        hint="Give each key of the entity with its declared type.",
    )


def _too_long() -> LimitExceeded:
    return LimitExceeded(
        f"An entity key is longer than {LONGEST_KEY} bytes.",
        hint="Use a shorter key, such as an identifier or a hash; nothing was written.",
    )
