"""Page tokens that tell nothing: sealed before they are given out, opened when they come back.

A place in an answer counts what lies before it, also what its reader may not see. So whoever
may read no run of another team must not read from a token how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

from falaj.kernel.errors import InvalidInput
from falaj.training.sealedtexts import SealedTexts

PURPOSE = "page-tokens"
"""Of the key, at the key service."""
_ROUND = 256
"""Tokens are filled up to a multiple of this, so that their length tells nothing either."""
_LONGEST = 8_000


class PageSeal:
    """Seals page tokens.

    Args:
        key: gives 32 bytes, the same in every process of a platform; asked when it is needed.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._texts = SealedTexts(key, PURPOSE)

    def close(self, token: str | None) -> str | None:
        """A token as it is given out; None stays None."""
        if token is None:
            return None
        return self._texts.close(token + " " * (-len(token.encode()) % _ROUND))

    def open(self, token: str | None) -> str | None:
        """The token that was closed; nothing stays None.

        Raises:
            InvalidInput: this platform did not make it.
        """
        if not token:
            return None
        try:
            return self._texts.open(token[:_LONGEST]).rstrip()
        except ValueError:
            raise InvalidInput(
                "Invalid page token: it is none of this platform's.",
                hint="Begin the search anew, without a page token.",
            ) from None
