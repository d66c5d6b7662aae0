"""Where a search goes on: opaque texts that are good for one question of one caller.

A token holds a place in an answer and a digest of the question, of who asked it, and of when.
Whoever changes one gains nothing but another place in an answer that is theirs; so a token is
checked, not signed. Where places count what a reader may not see, it is sealed (``pageseal.py``).
"""

from __future__ import annotations

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from typing import Any, NoReturn

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import InvalidInput

GOOD_FOR = timedelta(hours=24)
_FORM = 1
_LONGEST = 2_000


def written(question: Any, place: list[Any], begun: datetime) -> str:
    """The token for a place in the answer to a question, whose first page was given then."""
    document = [_FORM, _digest(question), microseconds(begun), *place]
    return urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


def read(
    token: str, question: Any, now: datetime, n: int = 1, *, texts: int = 0
) -> tuple[list[Any], datetime]:
    """The place that a token names, and when the first page was given.

    Args:
        n, texts: of how many whole numbers, and texts behind them, a place is made.

    Raises:
        InvalidInput: it is no token, belongs to another question or caller, or is too old.
    """
    try:
        if len(token) > _LONGEST:
            _refuse("it is none of this platform's")
        found = json.loads(urlsafe_b64decode(token.encode()))
        form, digest, begun_us, *place = found
        begun = from_microseconds(begun_us)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
        _refuse("it is none of this platform's")
    if form != _FORM or list(map(type, place)) != [int] * n + [str] * texts:
        _refuse("it is none of this platform's")
    if digest != _digest(question):
        _refuse("it belongs to another search")
    if not timedelta(0) <= now - begun <= GOOD_FOR:
        _refuse("it is too old")
    return place, begun


def _digest(question: Any) -> str:
    return hashlib.sha256(repr(question).encode(errors="backslashreplace")).hexdigest()[:24]


def _refuse(why: str) -> NoReturn:
    raise InvalidInput(
        f"Invalid page token: {why}.", hint="Begin the search anew, without a page token."
    ) from None
