"""The bytes of the online store: entity keys, packed rows, sealed rows.

A stored row begins with its *order* (see ``order``). Behind it, for a latest-value view,
stands one packed fixed-width record: a bitmap of the values that are there, eight bytes
for each feature, and the text of strings. The bytes are the same in every store.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.features.columns import Values
from falaj.features.order import ORDER_BYTES
from falaj.features.types import DType
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded

_SHIFT = 1 << 63
LONGEST_KEY = 480
"""Bytes of an encoded entity key: what LMDB takes (511), less our prefix and some room."""
_INT = struct.Struct(">Q")
_LENGTH = struct.Struct(">H")


class KeyCodec:
    """Encodes the keys of entities as bytes, one to one.

    Args:
        prefix: eight bytes of the view's storage.
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
        self._parts = [self._part(name, dtype) for name, dtype in keys.items()]

    @staticmethod
    def _part(name: str, dtype: DType) -> Callable[[Any], bytes]:
        def integer(value: Any) -> bytes:
            if type(value) is not int or not -_SHIFT <= value < _SHIFT:
                raise _wrong_key(name, value, "an int64")
            return _INT.pack(value + _SHIFT)

        def text(value: Any) -> bytes:
            if type(value) is not str:
                raise _wrong_key(name, value, "a string")
            try:
                encoded = value.encode()
            except UnicodeEncodeError:
                raise _wrong_key(name, value, "well-formed Unicode") from None
            if len(encoded) > LONGEST_KEY:
                raise _too_long()
            return _LENGTH.pack(len(encoded)) + encoded

        return integer if dtype is DType.INT64 else text

    def encoded(self, values: Sequence[Any]) -> bytes | None:
        """The key of one entity; None if one of its values is null.

        Raises:
            InvalidInput: a value of another type (a NaN is no key).
            LimitExceeded: the key is longer than any store takes.
        """
        if None in values:
            return None
        key = b"".join([part(value) for part, value in zip(self._parts, values, strict=True)])
        if len(key) > LONGEST_KEY:
            raise _too_long()
        if self._secret is not None:
            key = hashlib.blake2b(key, key=self._secret, digest_size=32).digest()
        return self._prefix + key

    def column(self, keys: Sequence[pa.Array]) -> list[bytes | None]:
        """The keys of many entities, given as typed Arrow columns."""
        return [
            self.encoded(values)
            for values in zip(*(array.to_pylist() for array in keys), strict=True)
        ]


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


class RowCodec:
    """Packs the features of a latest-value view into rows, and unpacks them.

    Args:
        dtypes: the types of the features, in order.
    """

    def __init__(self, dtypes: Sequence[DType]) -> None:
        self._dtypes = tuple(dtypes)
        self._bitmap = (len(self._dtypes) + 7) // 8
        codes = {DType.FLOAT64: "d", DType.BOOL: "?7x", DType.STRING: "II"}
        self._record = struct.Struct(
            f"<{self._bitmap}s" + "".join(codes.get(dtype, "q") for dtype in self._dtypes)
        )
        self._all = self._mask([True] * len(self._dtypes))
        self._plain = DType.STRING not in self._dtypes

    @staticmethod
    def _mask(there: Sequence[bool]) -> bytes:
        bits = sum(1 << i for i, present in enumerate(there) if present)
        return bits.to_bytes((len(there) + 7) // 8, "little")

    def packed(self, columns: Sequence[pa.Array]) -> list[bytes]:
        """The records of n rows, given as one typed Arrow column per feature."""
        n = len(columns[0])
        fields: list[Any] = [("bitmap", "u1", (self._bitmap,))]
        fields += [(f"f{i}", "<i8") for i in range(len(columns))]
        records = np.zeros(n, fields)
        tails = [b""] * n
        for i, (column, dtype) in enumerate(zip(columns, self._dtypes, strict=True)):
            if dtype is DType.STRING:
                texts = [None if v is None else v.encode() for v in column.to_pylist()]
                slots = np.zeros(n, "<i8")
                for row, text in enumerate(texts):
                    if text is not None:
                        slots[row] = len(tails[row]) | len(text) << 32
                        tails[row] += text
                records[f"f{i}"] = slots
                valid = np.array([text is not None for text in texts], np.bool_)
            else:
                values = Values.of(column, dtype, "")
                kept = values.values if dtype is not DType.BOOL else values.values.astype(np.int64)
                records[f"f{i}"] = np.ascontiguousarray(kept).view(np.int64)
                valid = values.valid
            records["bitmap"][:, i >> 3] |= valid.astype(np.uint8) << (i & 7)
        raw, size = records.tobytes(), records.dtype.itemsize
        return [raw[row * size : (row + 1) * size] + tails[row] for row in range(n)]

    def unpacked(self, record: bytes) -> list[Any]:
        """The values of one record, None for null; raises Corrupt if it is cut short."""
        try:
            bitmap, *values = self._record.unpack_from(record)
        except struct.error:
            raise Corrupt(
                "A row of the online store is cut short.",
                hint="Materialise the view again; see `falaj doctor`.",
            ) from None
        if self._plain:
            if bitmap == self._all:
                return values
        else:
            values = self._with_text(values, record)
        bits = int.from_bytes(bitmap, "little")
        return [value if bits >> i & 1 else None for i, value in enumerate(values)]

    def _with_text(self, values: list[Any], record: bytes) -> list[Any]:
        """Strings stand as (start, length) behind the record."""
        flat, found, size = iter(values), [], self._record.size
        for dtype in self._dtypes:
            value = next(flat)
            if dtype is DType.STRING:
                start = size + value
                value = record[start : start + next(flat)].decode()
            found.append(value)
        return found


class Sealer:
    """Encrypts what stands behind the order of a row (AES-256-GCM, random nonce).

    The entity's key and the row's order are authenticated with it, so that a row cannot
    be moved to another entity or another time.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    def seal(self, key: bytes, row: bytes) -> bytes:
        """A row with its body encrypted."""
        order, nonce = row[:ORDER_BYTES], os.urandom(12)
        return order + nonce + self._cipher.encrypt(nonce, row[ORDER_BYTES:], key + order)

    def open(self, key: bytes, row: bytes) -> bytes:
        """The row as it was; raises Corrupt if it is not what was sealed for this key."""
        order, nonce = row[:ORDER_BYTES], row[ORDER_BYTES : ORDER_BYTES + 12]
        try:
            body = self._cipher.decrypt(nonce, row[ORDER_BYTES + 12 :], key + order)
        except (InvalidTag, ValueError):
            raise Corrupt(
                "A sealed row of the online store is not what was written.",
                hint="Materialise the view again, and look for who changed the store.",
            ) from None
        return order + body
