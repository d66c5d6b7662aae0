"""Sealing: the rows of personal and sensitive views never stand in clear."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.features.order import ORDER_BYTES
from falaj.kernel.errors import Corrupt

_NONCE_BYTES = 12


class Sealer:
    """Encrypts what stands behind the order of a row (AES-256-GCM, random nonce).

    The entity's key and the row's order are authenticated with it, so that a row cannot
    be moved to another entity or another time.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    def seal(self, key: bytes, row: bytes) -> bytes:
        """A row with its body encrypted."""
        order, nonce = row[:ORDER_BYTES], os.urandom(_NONCE_BYTES)
        return order + nonce + self._cipher.encrypt(nonce, row[ORDER_BYTES:], key + order)

    def open(self, key: bytes, row: bytes) -> bytes:
        """The row as it was; raises Corrupt if it is not what was sealed for this key."""
        order, body = row[:ORDER_BYTES], row[ORDER_BYTES:]
        nonce, sealed = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        try:
            return order + self._cipher.decrypt(nonce, sealed, key + order)
        except (InvalidTag, ValueError):
            raise Corrupt(
                "A sealed row of the online store is not what was written.",
                hint="Materialise the view again, and look for who changed the store.",
            ) from None
