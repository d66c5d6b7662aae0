"""The pages ``/endpoints`` and ``/endpoints/{name}``: what serves, and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request

from falaj.interfaces.monitorpages import monitor_table
from falaj.interfaces.operationlinks import about
from falaj.interfaces.routing import Application
from falaj.interfaces.sheets import Cell, Section, Sheet, Table, add_sheet, at, page_of, seen, share
from falaj.interfaces.visitors import People
from falaj.trust.websessions import Visitor

if TYPE_CHECKING:
    from falaj.serving.model import EndpointStatus, EndpointSummary


def add_endpoint_pages(app: Application, people: People) -> None:
    """Add the pages of endpoints to the control plane."""
    add_sheet(app, people, "/endpoints", _listed)
    add_sheet(app, people, "/endpoints/{name}", _one)


async def _listed(people: People, visitor: Visitor, _request: Request) -> Sheet:
    endpoints: Sequence[EndpointSummary] = await people.call(visitor, "endpoints.list")
    if not endpoints:
        words = "None is declared, or none that you may see."
        return Sheet("Endpoints", sections=(Section("", words=(words,)),))
    rows = [
        (
            Cell(one.name, page_of("endpoint", one.name)),
            one.model,
            "serves nothing" if one.version is None else str(one.version),
        )
        for one in endpoints
    ]
    table = Table("Endpoints and what they serve", ("Endpoint", "Model", "Version"), rows)
    return Sheet("Endpoints", sections=(Section("", tables=(table,)),))


async def _one(people: People, visitor: Visitor, request: Request) -> Sheet:
    name = request.path_params["name"]
    status: EndpointStatus = await people.call(visitor, "endpoints.status", name=name)
    change = status.active.change if status.active else None
    return Sheet(
        name,
        back=(("/endpoints", "Endpoints"),),
        words=(f"The endpoint {name}: what serves now, and what is known about it.",),
        sections=[
            _serving(status),
            await _monitors(people, visitor, name),
            *await about(people, visitor, name, approved=[change] if change else ()),
        ],
    )


def _serving(status: EndpointStatus) -> Section:
    active = status.active
    if active is None:
        return Section("What serves", words=("Nothing serves now.",))
    facts: list[tuple[str, Sequence[Cell]]] = [
        ("Release", [Cell(active.id)]),
        ("Made", [Cell(f"{at(active.created_at)} by {active.created_by}")]),
        ("Requests answered", [Cell(str(status.traffic.requests))]),
    ]
    if active.change:
        facts.append(("Change", [Cell(active.change, page_of("change", active.change))]))
    rows = [
        (
            one.name,
            ", ".join(f"{each.model} {each.version}" for each in one.pinned),
            "in the shadow" if one.shadow else share(status.shares[one.name]),
        )
        for one in active.variants
    ]
    tables = (Table("Variants", ("Variant", "Model", "Share"), rows),)
    return Section("What serves", facts=facts, tables=tables)


async def _monitors(people: People, visitor: Visitor, name: str) -> Section:
    found = await seen(people, visitor, "monitors.overview")
    mine = [one for one in found or () if one.endpoint == name]
    if not mine:
        words = "You may not list them." if found is None else "No monitor watches it."
        return Section("Monitors", words=(words,))
    return Section("Monitors", tables=(monitor_table(mine),))
