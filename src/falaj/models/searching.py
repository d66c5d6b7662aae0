"""The search of models and versions: MLflow's filter grammar, its order, and pages.

``name LIKE 'late%' AND tags.team = 'risk'``; conditions are joined by AND alone. A page's
token names the last thing that was shown, not how many lie before it, so that it tells
nothing of what a caller may not see.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from falaj.kernel.actions import is_writable
from falaj.kernel.errors import InvalidInput

Value = str | int | tuple[str, ...]
LONGEST_FILTER = 20_000
MOST_CONDITIONS = 50
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<word>[A-Za-z_][\w.\-/]*)
      | (?P<ticked>`[^`]*`)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<sign><=|>=|!=|<>|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_WORDS = ("=", "!=", "LIKE", "ILIKE")
_LISTS = ("IN", "NOT IN")
_NUMBERS = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Condition:
    """One comparison; ``tag`` is True if ``key`` is a tag's."""

    tag: bool
    key: str
    comparator: str
    value: Value


@dataclass(frozen=True)
class Searched:
    """What may be compared and ordered by.

    Args:
        columns: SQL expressions by the names of the grammar.
        filters: names that may be compared.
        numbers: names that are compared with whole numbers.
        instants: names of instants.
        lists: names that may stand before IN.
        orders: names that may be ordered by.
        tie: the order in which all else is equal; together unique.
    """

    columns: Mapping[str, ColumnElement[Any]]
    filters: tuple[str, ...]
    numbers: frozenset[str]
    instants: frozenset[str]
    lists: frozenset[str]
    orders: frozenset[str]
    tie: tuple[tuple[str, bool], ...]


def parsed(text: str, searched: Searched) -> tuple[Condition, ...]:
    """The conditions of a filter.

    Raises:
        InvalidInput: says what does not belong where.
    """
    if len(text) > LONGEST_FILTER:
        raise InvalidInput(
            f"The filter has {len(text)} characters.", hint=f"At most {LONGEST_FILTER} are read."
        )
    if not is_writable(text):
        raise InvalidInput("The filter is not plain text.", hint="Leave out NUL characters.")
    tokens = _Tokens(text)
    found: list[Condition] = []
    while tokens.more:
        if found:
            tokens.keyword("AND")
        found.append(_condition(tokens, searched))
        if len(found) > MOST_CONDITIONS:
            raise InvalidInput(f"The filter has more than {MOST_CONDITIONS} conditions.")
    return tuple(found)


class _Tokens:
    """The words, texts, numbers and signs of a filter, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise self.wrong(text[place:].strip())
            kind = match.lastgroup or ""
            self._found.append((kind, match.group(kind)))
            place = match.end()
        self._place = 0

    @property
    def more(self) -> bool:
        """True if something is left."""
        return self._place < len(self._found)

    def next(self) -> tuple[str, str]:
        """The kind and text of the next one, which is taken."""
        if not self.more:
            raise InvalidInput(f"The filter {self._text[:200]!r} ends too early.", hint=_HINT)
        self._place += 1
        return self._found[self._place - 1]

    def touching(self, kind: str) -> str | None:
        """The next one if it is of a kind; it is taken."""
        if self.more and self._found[self._place][0] == kind:
            return self.next()[1]
        return None

    def keyword(self, word: str) -> None:
        """Take a word that must come next."""
        kind, text = self.next()
        if kind not in ("word", "sign") or text.upper() != word:
            raise self.wrong(text)

    def wrong(self, at: str) -> InvalidInput:
        """What to raise at something that does not belong there."""
        return InvalidInput(f"The filter cannot be read at {at[:80]!r}.", hint=_HINT)


_HINT = "Join conditions by AND: name = 'late' AND tags.team LIKE 'risk%'."


def _condition(tokens: _Tokens, searched: Searched) -> Condition:
    tag, key = _identifier(tokens, searched)
    _, sign = tokens.next()
    comparator = "!=" if sign == "<>" else sign.upper()
    if comparator == "NOT":
        tokens.keyword("IN")
        comparator = "NOT IN"
    number = not tag and key in searched.numbers
    allowed = _NUMBERS if number else _WORDS
    if not tag and key in searched.lists:
        allowed = (*allowed, *_LISTS)
    if comparator not in allowed:
        raise InvalidInput(
            f"{key[:80]!r} cannot be compared by {comparator[:20]!r}.",
            hint=f"Use one of {', '.join(allowed)}.",
        )
    if comparator in _LISTS:
        return Condition(tag, key, comparator, _listed(tokens))
    return Condition(tag, key, comparator, _number(tokens) if number else _text(tokens))


def _identifier(tokens: _Tokens, searched: Searched) -> tuple[bool, str]:
    kind, text = tokens.next()
    if kind not in ("word", "ticked", "text"):
        raise tokens.wrong(text)
    name = text if kind == "word" else text[1:-1]
    space, dot, key = name.partition(".")
    if kind == "word" and dot and space.lower() in ("tag", "tags", "attribute", "attributes"):
        if not key:  # the key stands in quotes behind the dot
            _, quoted = tokens.next()
            key = quoted[1:-1]
        if space.lower().startswith("tag"):
            return True, key
        name = key
    if name not in searched.filters:
        raise InvalidInput(
            f"Invalid attribute key {name[:80]!r} specified.",
            hint=f"There are {', '.join(searched.filters)}, and tags.KEY.",
        )
    return False, name


def _text(tokens: _Tokens) -> str:
    kind, text = tokens.next()
    if kind != "text":
        raise InvalidInput(
            f"The filter has {text[:80]!r} where a text belongs.", hint="Put it in single quotes."
        )
    return text[1:-1].replace(text[0] * 2, text[0])


def _number(tokens: _Tokens) -> int:
    kind, text = tokens.next()
    try:
        found = int(text[1:-1] if kind == "text" else text)
    except ValueError:
        raise InvalidInput(f"The filter has {text[:80]!r} where a whole number belongs.") from None
    if abs(found) >= 1 << 63:
        raise InvalidInput(f"The number {text[:80]} is too large.")
    return found


def _listed(tokens: _Tokens) -> tuple[str, ...]:
    tokens.keyword("(")
    found = [_text(tokens)]
    while tokens.touching("sign") == ",":
        found.append(_text(tokens))
        if len(found) > 1_000:
            raise InvalidInput("A list of the filter has more than 1,000 texts.")
    return tuple(found)


def compared(
    column: ColumnElement[Any], comparator: str, value: Any, dialect: str
) -> ColumnElement[bool]:
    """The SQL of one comparison; LIKE minds case on every database, ILIKE on none.

    Within a pattern ``%`` stands for any letters and ``_`` for one; nothing is escaped.
    """
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
    """The whole order: as given, then the tie.

    Raises:
        InvalidInput: a name is none, or comes twice.
    """
    found: list[tuple[str, bool]] = []
    for clause in given:
        words = clause.replace("`", "").split()
        name = words[0].removeprefix("attribute.").removeprefix("attributes.") if words else ""
        way = words[1].upper() if len(words) == 2 else "ASC"
        if name not in searched.orders or way not in ("ASC", "DESC") or len(words) > 2:
            raise InvalidInput(
                f"Invalid order_by clause {clause[:80]!r}.",
                hint=f"Name one of {', '.join(sorted(searched.orders))}, then ASC or DESC.",
            )
        if name in dict(found):
            raise InvalidInput(f"The order names {name!r} twice.")
        found.append((name, way == "ASC"))
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
    if name in searched.numbers:
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
            raise ValueError
        return value
    if not isinstance(value, str) or not is_writable(value):
        raise ValueError
    return value


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]
