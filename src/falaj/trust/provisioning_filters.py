"""The filters of SCIM (RFC 7644, section 3.4.2.2): a text, a tree, a yes or no.

Nothing of a filter ever becomes a part of a statement to a database: it is parsed into a tree,
and the tree is asked about resources that were read already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from falaj.kernel.actions import is_writable
from falaj.trust.provisioning_model import NotProvisionable

MOST_LETTERS = 2_000
MOST_WORDS = 200
DEEPEST = 10
"""So many brackets may stand inside each other."""

_COMPARISONS = frozenset({"eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"})
_ORDER = frozenset({"gt", "ge", "lt", "le"})
_LITERALS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_EXACT = frozenset({"id", "externalid", "$ref"})
"""Attributes whose letters count as they are written; of all others the case does not count."""
_INSTANTS = frozenset({"created", "lastmodified"})
_TOKEN = re.compile(r'\s+|[()\[\]]|"(?:[^"\\]|\\.)*"|[^\s()\[\]"]+')
_NAME = re.compile(r"[A-Za-z$][A-Za-z0-9_$-]*")
_SCHEMA = re.compile(r"urn:[A-Za-z0-9][A-Za-z0-9-]*:[A-Za-z0-9:._-]+")


@dataclass(frozen=True)
class AttributePath:
    """The way to an attribute: a schema if one is named, an attribute, a part of it."""

    attribute: str
    part: str | None = None
    schema: str | None = None


@dataclass(frozen=True)
class Comparison:
    """An attribute compared with a value."""

    path: AttributePath
    operator: str
    value: str | bool | int | float | None


@dataclass(frozen=True)
class Present:
    """An attribute has a value."""

    path: AttributePath


@dataclass(frozen=True)
class Having:
    """One of an attribute's values fits a filter of its own: ``emails[type eq "work"]``."""

    path: AttributePath
    fits: Filter


@dataclass(frozen=True)
class Joined:
    """Filters joined by ``and`` or ``or``."""

    word: str
    items: tuple[Filter, ...]


@dataclass(frozen=True)
class Negated:
    """The opposite of a filter."""

    item: Filter


Filter: TypeAlias = Comparison | Present | Having | Joined | Negated


def parsed_filter(text: str) -> Filter:
    """The tree of a filter.

    Raises:
        NotProvisionable: it is none, or is too long or nested too deep (``invalidFilter``).
    """
    reader = _Reader(text)
    found = reader.alternatives(0)
    reader.end()
    return found


def parsed_path(text: str) -> tuple[AttributePath, Filter | None]:
    """The path of a PATCH: an attribute, and which of its values if the path says so.

    ``emails[type eq "work"].value`` gives the path ``emails.value`` and the filter.

    Raises:
        NotProvisionable: it is no path (``invalidPath``).
    """
    try:
        reader = _Reader(text)
        path = attribute_path(reader.take())
        if reader.next is None:
            return path, None
        reader.expect("[")
        fits = reader.alternatives(1)
        reader.expect("]")
        if reader.next is not None:
            tail = reader.take()
            if path.part is not None or not tail.startswith(".") or not _NAME.fullmatch(tail[1:]):
                raise reader.wrong()
            path = AttributePath(path.attribute, tail[1:], path.schema)
        reader.end()
    except NotProvisionable as error:
        raise NotProvisionable(
            f"{_short(text)} is no path to an attribute.",
            hint='Write name.familyName, or emails[type eq "work"].value.',
            scim_type="invalidPath",
        ) from error
    return path, fits


def attribute_path(word: str) -> AttributePath:
    """The path that a word names; raises NotProvisionable (``invalidFilter``)."""
    schema, colon, rest = word.rpartition(":")
    if colon and not _SCHEMA.fullmatch(schema):
        raise _bad(f"{_short(word)} names no attribute.")
    attribute, dot, part = rest.partition(".")
    if not _NAME.fullmatch(attribute) or (dot and not _NAME.fullmatch(part)):
        raise _bad(f"{_short(word)} names no attribute.")
    return AttributePath(attribute, part if dot else None, schema or None)


def fits(resource: Mapping[str, Any], wanted: Filter) -> bool:
    """True if a resource fits a filter; an attribute that it lacks has no value.

    Raises:
        NotProvisionable: the filter compares what has no order (``invalidFilter``).
    """
    if isinstance(wanted, Joined):
        every = all if wanted.word == "and" else any
        return every(fits(resource, item) for item in wanted.items)
    if isinstance(wanted, Negated):
        return not fits(resource, wanted.item)
    values = _values_of(resource, wanted.path)
    if isinstance(wanted, Having):
        return any(fits(_as_mapping(value), wanted.fits) for value in values)
    if isinstance(wanted, Present):
        return any(_says_something(value) for value in values)
    return _holds(wanted, [_plain(value) for value in values])


def _holds(wanted: Comparison, values: list[Any]) -> bool:
    if wanted.operator == "ne":
        return not _holds(replace(wanted, operator="eq"), values)
    if wanted.value is None:
        return not any(_says_something(value) for value in values)
    return any(_compares(value, wanted) for value in values)


def narrowed(wanted: Filter, attribute: str) -> str | None:
    """The text that an attribute of the resource itself must equal, if the filter demands one.

    A list that looks for one thing need not be read whole.
    """
    if isinstance(wanted, Joined) and wanted.word == "and":
        found = (narrowed(item, attribute) for item in wanted.items)
        return next((one for one in found if one is not None), None)
    if not isinstance(wanted, Comparison) or wanted.operator != "eq":
        return None
    named = wanted.path.part is None and wanted.path.attribute.lower() == attribute.lower()
    return wanted.value if named and isinstance(wanted.value, str) else None


class _Reader:
    """Reads a filter from its words, the loosest binding first."""

    def __init__(self, text: str) -> None:
        if len(text) > MOST_LETTERS:
            raise _bad(f"A filter has at most {MOST_LETTERS} letters; this one has {len(text)}.")
        self._text = text
        self._words = list(_words(text))
        if len(self._words) > MOST_WORDS:
            raise _bad(f"A filter has at most {MOST_WORDS} words.")
        self._place = 0

    @property
    def next(self) -> str | None:
        """The word that comes next, or None at the end."""
        return self._words[self._place] if self._place < len(self._words) else None

    def take(self) -> str:
        """The next word; it is read."""
        word = self.next
        if word is None:
            raise self.wrong()
        self._place += 1
        return word

    def expect(self, word: str) -> None:
        """Read this word, or none."""
        if self.take() != word:
            raise self.wrong()

    def end(self) -> None:
        """Nothing may be left."""
        if self.next is not None:
            raise self.wrong()

    def wrong(self) -> NotProvisionable:
        """The error of a text that is no filter."""
        return _bad(f"{_short(self._text)} is no filter.")

    def alternatives(self, depth: int) -> Filter:
        """What ``or`` joins."""
        return self._joined("or", depth)

    def _joined(self, word: str, depth: int) -> Filter:
        items = [self._item(word, depth)]
        while (self.next or "").lower() == word:
            self.take()
            items.append(self._item(word, depth))
        return items[0] if len(items) == 1 else Joined(word, tuple(items))

    def _item(self, word: str, depth: int) -> Filter:
        return self._joined("and", depth) if word == "or" else self._single(depth)

    def _single(self, depth: int) -> Filter:
        if depth > DEEPEST:
            raise _bad(f"A filter's brackets stand at most {DEEPEST} deep in each other.")
        word = self.take()
        if word.lower() == "not" and self.next == "(":
            self.take()
            return Negated(self._until(")", depth))
        if word == "(":
            return self._until(")", depth)
        path = attribute_path(word)
        if self.next == "[":
            self.take()
            return Having(path, self._until("]", depth))
        operator = self.take().lower()
        if operator == "pr":
            return Present(path)
        if operator not in _COMPARISONS:
            raise _bad(f"{_short(operator)} compares nothing.")
        return Comparison(path, operator, self._value(operator))

    def _until(self, bracket: str, depth: int) -> Filter:
        found = self.alternatives(depth + 1)
        self.expect(bracket)
        return found

    def _value(self, operator: str) -> str | bool | int | float | None:
        word = self.take()
        if word.lower() in _LITERALS:
            value = _LITERALS[word.lower()]
        else:
            try:
                value = json.loads(word, parse_constant=_no_number)
            except ValueError:
                raise _bad(f"{_short(word)} is no value; texts stand in quotes.") from None
        if not isinstance(value, str | int | float) and value is not None:
            raise _bad(f"{_short(word)} is no value.")
        if isinstance(value, str) and not is_writable(value):
            raise _bad(f"{_short(word)} is not plain text.")
        if operator not in ("eq", "ne") and (value is None or isinstance(value, bool)):
            raise _bad(f"{operator} does not compare with {word}.")
        found: str | bool | int | float | None = value
        return found


def _words(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _bad(f"{_short(text)} is no filter.")
        place = found.end()
        if not found.group().isspace():
            yield found.group()


def _values_of(resource: Mapping[str, Any], path: AttributePath) -> list[Any]:
    value = found_in(resource, path.attribute)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if path.part is not None:
        values = [found_in(_as_mapping(one), path.part) for one in values]
    return [one for one in values if one is not None]


def found_in(mapping: Mapping[str, Any], name: str) -> Any:
    """The value under a name whose case does not count, or None."""
    if name in mapping:
        return mapping[name]
    lowered = name.lower()
    return next((value for key, value in mapping.items() if key.lower() == lowered), None)


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _plain(value: Any) -> Any:
    """What is compared of a value with parts: its part ``value``."""
    return value.get("value") if isinstance(value, Mapping) else value


def _says_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_says_something(one) for one in value.values())
    return value not in (None, "", [])


def _compares(value: Any, wanted: Comparison) -> bool:
    operator, with_ = wanted.operator, wanted.value
    if isinstance(value, bool) or isinstance(with_, bool):
        return operator == "eq" and value is with_
    name = (wanted.path.part or wanted.path.attribute).lower()
    if isinstance(value, str) and isinstance(with_, str):
        if name in _INSTANTS and operator in (*_ORDER, "eq"):
            return _ordered(operator, _instant(value), _instant(with_))
        if name not in _EXACT:
            value, with_ = value.casefold(), with_.casefold()
        if operator in ("co", "sw", "ew"):
            return bool(_TEXTUAL[operator](value, with_))
        return _ordered(operator, value, with_)
    numbers = isinstance(value, int | float) and isinstance(with_, int | float)
    return numbers and operator not in _TEXTUAL and _ordered(operator, value, with_)


_TEXTUAL: Mapping[str, Callable[[str, str], bool]] = {
    "co": lambda value, part: part in value,
    "sw": lambda value, part: value.startswith(part),
    "ew": lambda value, part: value.endswith(part),
}


def _ordered(operator: str, left: Any, right: Any) -> bool:
    found = {
        "eq": left == right,
        "gt": left > right,
        "ge": left >= right,
        "lt": left < right,
        "le": left <= right,
    }
    return bool(found[operator])


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise _bad(f"{_short(text)} is no instant; write 2026-11-23T08:00:00Z.") from None
    if found.tzinfo is None:
        raise _bad(f"{_short(text)} says no time zone; write 2026-11-23T08:00:00Z.")
    return found


def _no_number(constant: str) -> Any:
    raise ValueError(constant)


def _bad(message: str) -> NotProvisionable:
    return NotProvisionable(
        message, hint='Write userName eq "amina@corp.ae".', scim_type="invalidFilter"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
