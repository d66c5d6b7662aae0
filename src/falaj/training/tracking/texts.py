"""Which names and values of parameters, metrics and tags can be kept."""

from __future__ import annotations

from falaj.kernel.actions import is_writable
from falaj.kernel.errors import InvalidInput

LONGEST_KEY = 250


def plain(text: str) -> bool:
    """True if a database can hold the text, or look for it."""
    return (text.isascii() and "\0" not in text) or is_writable(text)


def check_key(what: str, key: str) -> None:
    """Raise InvalidInput unless a name can be that of a parameter, a metric or a tag."""
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidInput(
            f"The name of a {what} has {len(key)} characters.",
            hint=f"Use 1 to {LONGEST_KEY} characters.",
        )
    if not plain(key):
        raise InvalidInput(
            f"The name {key!r} of a {what} holds a NUL or half a surrogate pair.",
            hint="Use text that is valid Unicode.",
        )


def check_text(what: str, key: str, value: str, longest: int) -> None:
    """Raise InvalidInput unless a value is plain text that is not too long."""
    if len(value) > longest:
        raise InvalidInput(
            f"The {what} {key!r} has {len(value)} characters.",
            hint=f"Keep it under {longest}, or keep the text as an artifact.",
        )
    if not plain(value):
        raise InvalidInput(
            f"The {what} {key!r} holds a NUL or half a surrogate pair.",
            hint="Use text that is valid Unicode.",
        )
