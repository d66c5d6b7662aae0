"""Results and errors for people at a terminal: tables, key-value lists, one-line errors."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from falaj.kernel.binary import base64_of
from falaj.kernel.errors import FalajError, InvalidInput

_MOST_COLUMNS = 6
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REVEALED = {"reveal_once": True}


@runtime_checkable
class _ForPeople(Protocol):
    """A result whose fields are not in the order in which a person wants to know them."""

    def for_people(self) -> Mapping[str, Any]: ...


def show(console: Console, result: Any, *, as_json: bool) -> None:
    """Print a result: JSON for programs, or a table or list for people.

    A result that has a method ``for_people`` is shown to them as that tells it.
    """
    if as_json:
        console.print_json(json.dumps(_rendered(result)))
        return
    if isinstance(result, _ForPeople):
        result = result.for_people()
    if result is None:
        console.print("done")
    elif isinstance(result, BaseModel):
        _one(console, result.model_dump(context=_REVEALED))
    elif isinstance(result, Mapping):
        _one(console, result)
    elif isinstance(result, Sequence) and not isinstance(result, str):
        _many(console, result)
    else:
        console.print(escape(tame(str(result))))


def tame(text: str) -> str:
    """A text that cannot command the terminal or turn the reading direction.

    Names and messages come from other people: control characters (but line breaks and tabs)
    and directional overrides are shown as U+FFFD.
    """
    return "".join(
        "\ufffd"
        if letter in _OVERRIDES or (unicodedata.category(letter) == "Cc" and letter not in "\n\t")
        else letter
        for letter in text
    )


def show_only(console: Console, result: Any, field: str) -> None:
    """Print one field of a result, or of each item of a list, plain, a line each.

    Raises:
        InvalidInput: there is no such field; names those that there are.
    """
    rendered = _rendered(result)
    for item in rendered if isinstance(rendered, list) else [rendered]:
        found: Any = item
        for part in field.split("."):
            if not isinstance(found, Mapping) or part not in found:
                known = ", ".join(found) if isinstance(found, Mapping) else "none"
                raise InvalidInput(
                    f"The answer has no field {field!r}.", hint=f"Its fields here: {known}."
                )
            found = found[part]
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        shown = tame(text) if console.is_terminal else text
        console.print(shown, markup=False, highlight=False, soft_wrap=True)


def _rendered(result: Any) -> Any:
    """The result as strict JSON: NaN and infinities as the answer's model writes them."""
    if isinstance(result, bytes):
        return base64_of(result)
    return json.loads(TypeAdapter(type(result)).dump_json(result, context=_REVEALED))


def _one(console: Console, record: Mapping[str, Any]) -> None:
    console.print(_fields(record))


def _fields(record: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            table.add_row(name, _fields(value))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            table.add_row(name, _records(value))
        else:
            table.add_row(name, _text(value))
    return table


def _many(console: Console, records: Sequence[Any]) -> None:
    if not records:
        console.print("none")
        return
    rows = [item.model_dump() if isinstance(item, BaseModel) else item for item in records]
    if not isinstance(rows[0], Mapping):
        for item in rows:
            console.print(escape(tame(_plain(item))))
        return
    console.print(_records(rows))


def _records(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of the columns that hold plain values somewhere; the first is never cut."""
    columns = [name for name in rows[0] if any(_is_plain(row.get(name)) for row in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(columns[:_MOST_COLUMNS]):
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        shown = (row.get(name) for name in columns[:_MOST_COLUMNS])
        table.add_row(*(_text(value, longest=60) for value in shown))
    return table


def _is_plain(value: Any) -> bool:
    return value not in (None, "") and not isinstance(value, Mapping | list | tuple)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _text(value: Any, *, longest: int = 2_000) -> str:
    text = tame(_plain(value))
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def show_error(console: Console, error: FalajError) -> None:
    """Print what is wrong and what to do, without a traceback."""
    console.print(f"[bold red]error[/] {escape(tame(error.message))}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]→[/] {escape(tame(error.hint))}", soft_wrap=True)
