"""Texts that the platform gives out and takes back, and that nobody else can read or make."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

_NONCE_BYTES = 12


class SealedTexts:
    """Seals texts with AES-256-GCM.

    Args:
        key: gives 32 bytes, the same in every process of a platform; asked when it is needed.
        purpose: what the texts are for; those of another purpose do not open.
    """

    def __init__(self, key: Callable[[], bytes], purpose: str) -> None:
        self._key, self._purpose = key, purpose

    def close(self, text: str, about: str = "") -> str:
        """A text as it is given out: 28 bytes longer, in base64 for addresses."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key()).encrypt(nonce, text.encode(), self._bound(about))
        return urlsafe_b64encode(nonce + sealed).decode()

    def open(self, given: str, about: str = "") -> str:
        """The text that was closed.

        Raises:
            ValueError: this platform did not close it for this purpose, about this.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        whole = urlsafe_b64decode(given.encode())
        nonce, sealed = whole[:_NONCE_BYTES], whole[_NONCE_BYTES:]
        try:
            return AESGCM(self._key()).decrypt(nonce, sealed, self._bound(about)).decode()
        except InvalidTag:
            raise ValueError("not closed here") from None

    def _bound(self, about: str) -> bytes:
        return f"{self._purpose}\0{about}".encode() if about else self._purpose.encode()
