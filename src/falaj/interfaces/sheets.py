"""Pages that only tell: sections of words, plots and tables, all written by one template.

Whatever stands in a cell is text; the template escapes it, and nothing here makes markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite, isinf, isnan
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.plots import CoursePlot
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import People, add_page_route, to_login
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Forbidden, NotFound, StepUpRequired
from falaj.trust.websessions import Visitor

_PAGES = {
    "alert": "/alerts", "change": "/changes", "contract": "/contracts", "endpoint": "/endpoints",
    "incident": "/incidents", "monitor": "/monitors", "problem": "/problems",
    "rollout": "/rollouts", "source": "/sources",
}  # fmt: skip
"""Kinds of assets that have a page of their own."""


@dataclass(frozen=True)
class Cell:
    """A text, where it leads (nowhere if empty), and whether it is to catch the eye."""

    text: str
    page: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]


@dataclass(frozen=True)
class Figure:
    """A plot and what it shows, in words."""

    caption: str
    plot: CoursePlot


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    words: Sequence[str] = ()
    facts: Sequence[tuple[str, Sequence[Cell]]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Sheet:
    """A page."""

    title: str
    back: Sequence[tuple[str, str]] = ()
    """Pages that it belongs to: address and name."""
    words: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)


Maker = Callable[[People, Visitor, Request], Any]
"""Makes the sheet of a page; a coroutine function."""


def add_sheet(app: Application, people: People, path: str, make: Maker) -> None:
    """Add a page that only tells; a stranger is led to the sign-in."""

    async def told(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        sheet: Sheet = await make(people, visitor, request)
        return people.pages.page("sheet.html", signed_in=True, sheet=sheet, cell=as_cell)

    add_page_route(app, people.pages, "GET", path, told)


async def seen(people: People, visitor: Visitor, action: str, **arguments: Any) -> Any:
    """The answer of an action; None if the visitor may not ask for it, or there is no such thing.

    For the parts of a page that stand beside what it is about.
    """
    try:
        return await people.call(visitor, action, **arguments)
    except (Forbidden, NotFound, StepUpRequired):
        return None


def as_cell(given: Cell | str) -> Cell:
    """A cell of what stands in a row."""
    return given if isinstance(given, Cell) else Cell(given)


def page_of(kind: str, key: str) -> str:
    """The address of the page of an asset; empty if there is none."""
    root = _PAGES.get(kind)
    return f"{root}/{quote(key, safe='')}" if root else ""


def linked(ref: AssetRef) -> Cell:
    """An asset, and its page."""
    return Cell(str(ref), page_of(ref.kind, ref.key))


def at(instant: datetime | None) -> str:
    """An instant in UTC, to the minute; empty if there is none."""
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M} UTC"


def figure(value: float | None, form: str = ".3g") -> str:
    """A figure; a dash if it is not known."""
    if value is None or isnan(value):
        return "–"
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:{form}}"


def lasting(length: timedelta) -> str:
    """A length of time in the largest unit that tells it in whole numbers."""
    seconds = length.total_seconds()
    for name, unit in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= unit and seconds % unit == 0:
            count = int(seconds // unit)
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return f"{seconds:g} seconds"


def share(value: float | None) -> str:
    """A share in per cent; a dash if it is not known."""
    return "–" if value is None or not isfinite(value) else f"{value:.1%}"
