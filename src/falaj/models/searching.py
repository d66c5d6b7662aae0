"""The search of models and versions: what may be asked, its SQL, and pages.

The grammar is that of all searches (``training.tracking.filters``). A page's token names the
last thing that was shown, not how many lie before it, so that it tells nothing of what a
caller may not see.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from falaj.kernel.actions import is_writable
from falaj.kernel.errors import InvalidInput
from falaj.training.tracking.filters import Kind, Language, read_order

LONGEST_PATTERN = 1_000
MOST_WILDCARDS = 30
"""A pattern with many would be matched for minutes."""


@dataclass(frozen=True)
class Searched:
    """What may be asked of one sort of thing.

    Args:
        columns: SQL expressions by the names of the grammar.
        asked: what a filter may compare.
        orders: what an order may name.
        instants: names of instants.
        tie: the order in which all else is equal; together unique.
    """

    columns: Mapping[str, ColumnElement[Any]]
    asked: Language
    orders: Language
    instants: frozenset[str]
    tie: tuple[tuple[str, bool], ...]


def language(texts: Sequence[str], numbers: Sequence[str] = (), *, tags: bool = True) -> Language:
    """Attributes, and tags unless they are left out."""
    kinds = {Kind.ATTRIBUTE, Kind.TAG} if tags else {Kind.ATTRIBUTE}
    return Language(frozenset(texts), frozenset(numbers), {}, frozenset(kinds))


def compared(
    column: ColumnElement[Any], comparator: str, value: Any, dialect: str
) -> ColumnElement[bool]:
    """The SQL of one comparison; LIKE minds case on every database, ILIKE on none.

    Within a pattern ``%`` stands for any letters and ``_`` for one; nothing is escaped.

    Raises:
        InvalidInput: a pattern is too long, or has too many ``%``.
    """
    if comparator in ("LIKE", "ILIKE") and (
        len(value) > LONGEST_PATTERN or value.count("%") > MOST_WILDCARDS
    ):
        raise InvalidInput(
            f"The pattern {value[:50]!r}… has {len(value)} characters, {value.count('%')} of them"
            " '%'.",
            hint=f"Use {LONGEST_PATTERN} characters with {MOST_WILDCARDS} '%' at most.",
        )
    if comparator == "LIKE":
        if dialect == "sqlite":  # its own LIKE does not mind case
            return column.op("GLOB", is_comparison=True)(_glob(value))
        return column.like(value, escape="")
    if comparator == "ILIKE":
        return column.like(value) if dialect == "sqlite" else column.ilike(value, escape="")
    plain: dict[str, Callable[[], ColumnElement[bool]]] = {
        "=": lambda: column == value,
        "!=": lambda: column != value,
        "<": lambda: column < value,
        "<=": lambda: column <= value,
        ">": lambda: column > value,
        ">=": lambda: column >= value,
        "IN": lambda: column.in_(value),
        "NOT IN": lambda: column.not_in(value),
    }
    return plain[comparator]()


def _glob(pattern: str) -> str:
    special = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(special.get(letter, letter) for letter in pattern)


Order = tuple[tuple[str, bool], ...]
"""Names, each with whether it ascends."""


def ordered(given: Sequence[str], searched: Searched) -> Order:
    """The whole order: as given, then the tie; raises InvalidInput."""
    found = [(one.key, one.ascending) for one in read_order(tuple(given), searched.orders)]
    named = dict(found)
    return (*found, *((name, ascends) for name, ascends in searched.tie if name not in named))


def after(order: Order, last: Sequence[Any], searched: Searched) -> ColumnElement[bool]:
    """True for rows that come behind the one with these values, in an order."""
    ways = []
    for place, (name, ascends) in enumerate(order):
        column = searched.columns[name]
        same = [
            searched.columns[other] == last[before]
            for before, (other, _) in enumerate(order[:place])
        ]
        beyond = column > last[place] if ascends else column < last[place]
        ways.append(and_(*same, beyond))
    return or_(*ways)


def token_of(question: str, values: Sequence[Any]) -> str:
    """What asks for the page behind a row with these values.

    Args:
        question: the filter and the order; a token answers no other.
    """
    told = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    text = json.dumps([_digest(question), told])
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_token(token: str, question: str, order: Order, searched: Searched) -> list[Any]:
    """The values that a token names.

    Raises:
        InvalidInput: it is of another question, or none at all.
    """
    try:
        digest, told = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        if digest != _digest(question) or not isinstance(told, list):
            raise ValueError
        if len(told) != len(order):
            raise ValueError
        return [_read(value, name, searched) for value, (name, _) in zip(told, order, strict=True)]
    except (ValueError, TypeError):
        raise InvalidInput(
            f"The page token {token[:40]!r} does not belong to this search.",
            hint="Begin without a token, and keep filter and order as they are.",
        ) from None


def _read(value: Any, name: str, searched: Searched) -> Any:
    if name in searched.instants:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError
        return at
    if name in searched.orders.numbers:
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
            raise ValueError
        return value
    if not isinstance(value, str) or not is_writable(value):
        raise ValueError
    return value


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]
