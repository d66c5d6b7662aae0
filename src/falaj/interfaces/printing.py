"""Results and errors for people at a terminal: tables, key-value lists, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from falaj.kernel.errors import FalajError

_MOST_COLUMNS = 8
_REVEALED = {"reveal_once": True}


def show(console: Console, result: Any, *, as_json: bool) -> None:
    """Print a result: JSON for programs, or a table or list for people."""
    if as_json:
        rendered = TypeAdapter(type(result)).dump_python(result, mode="json", context=_REVEALED)
        console.print_json(json.dumps(rendered))
        return
    if result is None:
        console.print("done")
    elif isinstance(result, BaseModel):
        _one(console, result.model_dump(context=_REVEALED))
    elif isinstance(result, Mapping):
        _one(console, result)
    elif isinstance(result, Sequence) and not isinstance(result, str):
        _many(console, result)
    else:
        console.print(escape(str(result)))


def _one(console: Console, record: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(name, _text(value))
    console.print(table)


def _many(console: Console, records: Sequence[Any]) -> None:
    if not records:
        console.print("none")
        return
    rows = [item.model_dump() if isinstance(item, BaseModel) else item for item in records]
    if not isinstance(rows[0], Mapping):
        for item in rows:
            console.print(escape(_plain(item)))
        return
    columns = list(rows[0])[:_MOST_COLUMNS]
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(_text(row.get(column), longest=60) for column in columns))
    console.print(table)


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
    text = _plain(value)
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def show_error(console: Console, error: FalajError) -> None:
    """Print what is wrong and what to do, without a traceback."""
    console.print(f"[bold red]error[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]→[/] {escape(error.hint)}", soft_wrap=True)
