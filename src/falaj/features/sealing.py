"""Sealing: the rows of personal and sensitive views never stand in clear."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.features.order import ORDER_BYTES
from falaj.kernel.errors import Corrupt

_NONCE_BYTES = 12


class Sealing(Protocol):
    """How the rows of a view stand encrypted.

    The first ``clear`` bytes of each row stand in clear, by default the order.
    """

    def seal_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Rows as they are stored; None for one that must not be."""
        ...

    def open_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes | None], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Rows as they were; None for one that nobody can read any more. Raises Corrupt."""
        ...


class Sealer:
    """Encrypts rows (AES-256-GCM, random nonce).

    The first ``clear`` bytes stand in clear, by default the order, which stores compare; a
    row without one has 0. They and the key are authenticated with what is encrypted, so that
    a row cannot be moved to another entity or another time.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    def seal(self, key: bytes, row: bytes, clear: int = ORDER_BYTES) -> bytes:
        """A row with its body encrypted."""
        head, nonce = row[:clear], os.urandom(_NONCE_BYTES)
        return head + nonce + self._cipher.encrypt(nonce, row[clear:], key + head)

    def open(self, key: bytes, row: bytes, clear: int = ORDER_BYTES) -> bytes:
        """The row as it was; raises Corrupt if it is not what was sealed for this key."""
        head, body = row[:clear], row[clear:]
        nonce, sealed = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        try:
            return head + self._cipher.decrypt(nonce, sealed, key + head)
        except (InvalidTag, ValueError):
            raise Corrupt(
                "A sealed row of the online store is not what was written.",
                hint="Materialise the view again, and look for who changed the store.",
            ) from None

    def seal_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Every row with its body encrypted."""
        return [self.seal(key, row, clear) for key, row in zip(keys, rows, strict=True)]

    def open_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes | None], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Every row as it was, None where there is none; raises Corrupt."""
        return [
            None if row is None else self.open(key, row, clear)
            for key, row in zip(keys, rows, strict=True)
        ]
