"""Page tokens that tell nothing: sealed before they are given out, opened when they come back.

A place in an answer counts what lies before it, also what its reader may not see. So whoever
may read no run of another team must not read from a token how many there are.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from falaj.kernel.errors import InvalidInput

PURPOSE = "page-tokens"
"""Of the key, at the key service."""
_NONCE_BYTES = 12
_ROUND = 256
"""Tokens are filled up to a multiple of this, so that their length tells nothing either."""
_LONGEST = 8_000


class PageSeal:
    """Seals page tokens with AES-256-GCM.

    Args:
        key: gives 32 bytes, the same in every process of a platform; asked when it is needed.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def close(self, token: str | None) -> str | None:
        """A token as it is given out; None stays None."""
        if token is None:
            return None
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        text = token.encode()
        text = text.ljust(-(-len(text) // _ROUND) * _ROUND)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key()).encrypt(nonce, text, PURPOSE.encode())
        return urlsafe_b64encode(nonce + sealed).decode()

    def open(self, token: str | None) -> str | None:
        """The token that was closed; nothing stays None.

        Raises:
            InvalidInput: this platform did not make it.
        """
        if not token:
            return None
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            whole = urlsafe_b64decode(token[:_LONGEST].encode())
            nonce, sealed = whole[:_NONCE_BYTES], whole[_NONCE_BYTES:]
            text = AESGCM(self._key()).decrypt(nonce, sealed, PURPOSE.encode())
        except (ValueError, InvalidTag):
            raise InvalidInput(
                "Invalid page token: it is none of this platform's.",
                hint="Begin the search anew, without a page token.",
            ) from None
        return text.decode().rstrip()
