"""The language of searches: MLflow's filters and orders, read into clauses.

A filter is comparisons joined by ``AND``::

    metrics.loss < 0.1 AND params.depth IN ('3', '4') AND tags."team name" ILIKE '%delay%'

What is compared is ``attributes.x``, ``metrics.x``, ``params.x``, ``tags.x`` or ``datasets.x``
(or their other names); a name without a kind is an attribute. Names may stand in backticks or
double quotes. Texts stand in single or double quotes, in which a doubled quote is one. Words of
the language may be written small. Nothing of it reaches SQL as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from falaj.kernel.errors import InvalidInput
from falaj.training.tracking.texts import plain

LONGEST = 20_000
MOST_CLAUSES = 50
MOST_ORDERS = 10
MOST_LISTED = 1_000
ORDERED = frozenset({"=", "!=", "<", "<=", ">", ">="})
TEXTUAL = frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"})
PRESENCE = frozenset({"IS NULL", "IS NOT NULL"})


class Kind(StrEnum):
    """What a clause speaks of."""

    ATTRIBUTE = "attribute"
    METRIC = "metric"
    PARAM = "parameter"
    TAG = "tag"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison. ``value`` is a number, a text, texts (``IN``), or None (``IS NULL``)."""

    kind: Kind
    key: str
    operator: str
    value: int | float | str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Order:
    """One key of an order."""

    kind: Kind
    key: str
    ascending: bool = True


@dataclass(frozen=True, slots=True)
class Language:
    """What can be asked of one sort of thing.

    Attributes:
        texts, numbers: the attributes that are texts and those that are numbers.
        aliases: other names of attributes.
        kinds: what else there is.
    """

    texts: frozenset[str]
    numbers: frozenset[str]
    aliases: Mapping[str, str]
    kinds: frozenset[Kind]


RUNS = Language(
    frozenset({"run_id", "run_name", "status", "artifact_uri", "user_id"}),
    frozenset({"start_time", "end_time"}),
    {"created": "start_time", "Created": "start_time", "run name": "run_name",
     "Run name": "run_name", "Run Name": "run_name"},
    frozenset(Kind),
)  # fmt: skip
EXPERIMENTS = Language(
    frozenset({"name", "experiment_id"}),
    frozenset({"creation_time", "last_update_time"}),
    {},
    frozenset({Kind.ATTRIBUTE, Kind.TAG}),
)
_DATASET_KEYS = frozenset({"name", "digest", "context"})
_KINDS = {
    "attribute": Kind.ATTRIBUTE, "attributes": Kind.ATTRIBUTE, "attr": Kind.ATTRIBUTE,
    "run": Kind.ATTRIBUTE, "metric": Kind.METRIC, "metrics": Kind.METRIC,
    "parameter": Kind.PARAM, "parameters": Kind.PARAM, "param": Kind.PARAM, "params": Kind.PARAM,
    "tag": Kind.TAG, "tags": Kind.TAG, "dataset": Kind.DATASET, "datasets": Kind.DATASET,
}  # fmt: skip
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<ticked>`[^`]*`)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<operator><=|>=|!=|=|<|>)
    | (?P<mark>[(),.])
    | (?P<word>\w(?:[\w/:-]|\.(?=[\w/:-]))*)
    )""",
    re.VERBOSE,
)
_END = ("end", "")


class _Tokens:
    """The words of a text, one after the other."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what = text, what
        if len(text) > LONGEST or not plain(text):
            raise InvalidInput(
                f"The {what} cannot be read: it is longer than {LONGEST} characters, or no plain"
                " text.",
                hint="Ask for less at once.",
            )
        self._found: list[tuple[str, str]] = []
        place, end = 0, len(text.rstrip())
        while place < end:
            match = _TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                self.wrong(f"it cannot be read from {text[place : place + 30].strip()!r} on")
            self._found.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()
        self._next = 0

    def peek(self) -> tuple[str, str]:
        return self._found[self._next] if self._next < len(self._found) else _END

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self._next += 1
        return token

    def took(self, *words: str) -> bool:
        """Go past these words if they are next."""
        ahead = self._found[self._next : self._next + len(words)]
        if [value.upper() for kind, value in ahead if kind == "word"] != list(words):
            return False
        self._next += len(words)
        return True

    def wrong(self, why: str) -> NoReturn:
        raise InvalidInput(
            f"Invalid {self.what} {self.text[:200]!r}: {why}.",
            hint="Write comparisons joined by AND: metrics.loss < 0.1 AND tags.team = 'delays'.",
        )


def read_filter(text: str, language: Language = RUNS) -> tuple[Clause, ...]:
    """The comparisons of a filter; none for an empty one.

    Raises:
        InvalidInput: says where it cannot be read, or what cannot be compared.
    """
    tokens = _Tokens(text, "filter")
    clauses: list[Clause] = []
    while tokens.peek() != _END:
        if clauses and not tokens.took("AND"):
            tokens.wrong(f"AND is missing before {tokens.peek()[1][:50]!r}")
        clauses.append(_comparison(tokens, language))
        if len(clauses) > MOST_CLAUSES:
            tokens.wrong(f"it has more than {MOST_CLAUSES} comparisons")
    return tuple(clauses)


def read_order(texts: tuple[str, ...], language: Language = RUNS) -> tuple[Order, ...]:
    """The keys of an order, each ``metrics.loss DESC``; ascending if nothing is said.

    Raises:
        InvalidInput: a key cannot be read, cannot be ordered by, or stands twice.
    """
    if len(texts) > MOST_ORDERS:
        raise InvalidInput(f"An order has {len(texts)} keys.", hint=f"Use {MOST_ORDERS} at most.")
    orders: list[Order] = []
    for text in texts:
        tokens = _Tokens(text, "order_by")
        kind, key = _subject(tokens, language)
        if kind is Kind.DATASET:
            tokens.wrong("datasets give no order")
        ascending = not tokens.took("DESC")
        if ascending:
            tokens.took("ASC")
        if tokens.peek() != _END:
            tokens.wrong(f"nothing may stand behind the key, but {tokens.peek()[1][:50]!r} does")
        if any((kind, key) == (known.kind, known.key) for known in orders):
            tokens.wrong("the key stands twice")
        orders.append(Order(kind, key, ascending))
    return tuple(orders)


def _comparison(tokens: _Tokens, language: Language) -> Clause:
    kind, key = _subject(tokens, language)
    operator = _operator(tokens)
    number = kind is Kind.METRIC or (kind is Kind.ATTRIBUTE and key in language.numbers)
    allowed = ORDERED if number else TEXTUAL
    if kind in (Kind.TAG, Kind.PARAM):
        allowed = TEXTUAL | PRESENCE
    if operator not in allowed:
        tokens.wrong(f"{kind} {key!r} cannot be compared by {operator}")
    if operator in PRESENCE:
        return Clause(kind, key, operator, None)
    if operator in ("IN", "NOT IN"):
        return Clause(kind, key, operator, _texts(tokens))
    form, written = tokens.take()
    if number:
        if form != "number":
            tokens.wrong(f"{kind} {key!r} is compared with a number, not with {written[:50]!r}")
        whole = kind is Kind.ATTRIBUTE and re.fullmatch(r"[+-]?\d{1,18}", written)
        return Clause(kind, key, operator, int(written) if whole else float(written))
    if form not in ("text", "quoted"):
        tokens.wrong(f"{kind} {key!r} is compared with a text in quotes, not {written[:50]!r}")
    return Clause(kind, key, operator, _unquoted(written))


def _subject(tokens: _Tokens, language: Language) -> tuple[Kind, str]:
    form, written = tokens.take()
    if form in ("quoted", "ticked"):
        return Kind.ATTRIBUTE, _attribute(tokens, _unquoted(written), language)
    if form != "word":
        tokens.wrong(f"a name is missing at {written[:50]!r}" if written else "it ends too early")
    name, dot, key = written.partition(".")
    if not dot and tokens.peek() == ("mark", "."):
        tokens.take()
        form, quoted = tokens.take()
        if form not in ("quoted", "ticked"):
            tokens.wrong(f"a name is missing behind {written[:50]!r}")
        dot, key = ".", _unquoted(quoted)
    if not dot:
        return Kind.ATTRIBUTE, _attribute(tokens, name, language)
    kind = _KINDS.get(name)
    if kind is None or kind not in language.kinds:
        known = ", ".join(sorted(one for one, of in _KINDS.items() if of in language.kinds))
        tokens.wrong(f"there is no {name[:50]!r}, but {known}")
    if kind is Kind.ATTRIBUTE:
        key = _attribute(tokens, key, language)
    if kind is Kind.DATASET and key not in _DATASET_KEYS:
        tokens.wrong(f"datasets have {', '.join(sorted(_DATASET_KEYS))}, not {key[:50]!r}")
    if not key:
        tokens.wrong(f"a name is missing behind {name!r}")
    return kind, key


def _attribute(tokens: _Tokens, key: str, language: Language) -> str:
    key = language.aliases.get(key, key)
    if key not in language.texts | language.numbers:
        known = ", ".join(sorted(language.texts | language.numbers))
        tokens.wrong(f"there is no attribute {key[:50]!r}, but {known}")
    return key


def _operator(tokens: _Tokens) -> str:
    for words in (("IS", "NOT", "NULL"), ("IS", "NULL"), ("NOT", "IN"), ("IN",), ("LIKE",),
                  ("ILIKE",)):  # fmt: skip
        if tokens.took(*words):
            return " ".join(words)
    form, written = tokens.take()
    if form != "operator":
        tokens.wrong(f"{written[:50]!r} is no comparison" if written else "it ends too early")
    return written


def _texts(tokens: _Tokens) -> tuple[str, ...]:
    texts: list[str] = []
    if tokens.take() != ("mark", "("):
        tokens.wrong("a list is missing behind IN")
    while True:
        form, written = tokens.take()
        if texts and (form, written) == ("mark", ")"):  # ('a', 'b',)
            return tuple(texts)
        if form not in ("text", "quoted"):
            tokens.wrong("a list holds texts in quotes, at least one")
        texts.append(_unquoted(written))
        if len(texts) > MOST_LISTED:
            tokens.wrong(f"a list has more than {MOST_LISTED} texts")
        token = tokens.take()
        if token == ("mark", ")"):
            return tuple(texts)
        if token != ("mark", ","):
            tokens.wrong("a list is not closed")


def _unquoted(written: str) -> str:
    quote, inside = written[0], written[1:-1]
    return inside if quote == "`" else inside.replace(quote * 2, quote)
