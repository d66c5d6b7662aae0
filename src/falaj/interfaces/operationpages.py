"""The pages of service management: alerts, incidents, problems, silences, service levels, changes.

Each list is a table, each thing a page with its facts, its links and its timeline. What they
show and do are actions through the door, as anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.operationlinks import of_alert, of_change, of_incident
from falaj.interfaces.routing import Application
from falaj.interfaces.sheets import Cell as Link
from falaj.interfaces.sheets import linked, page_of
from falaj.interfaces.visitors import People, add_page_route, form_of, to, to_login
from falaj.kernel.call import AssetRef
from falaj.trust.websessions import Visitor

Cell = str | tuple[str, str]
"""A text, or a text and the page that it leads to."""


@dataclass(frozen=True)
class Room:
    """One kind of thing with its pages."""

    title: str
    listing: str
    """The action that lists them."""
    columns: tuple[str, ...]
    row: Callable[[Any], Sequence[Cell]]
    one: str = ""
    """The action that gets one by its id; empty if there is no page for one."""
    facts: Callable[[Any], Sequence[tuple[str, Cell]]] = lambda _one: ()
    deed: tuple[str, str] = ("", "")
    """An action that its page offers, and what the button says."""
    links: Callable[[People, Visitor, Any], Awaitable[list[tuple[str, Link]]]] | None = None
    """What else it hangs together with, as far as the visitor may see it."""


def _at(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M} UTC"


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f} minutes"


def _links(kind: str, ids: Sequence[str]) -> list[tuple[str, Cell]]:
    return [(kind.capitalize(), (one, page_of(kind, one))) for one in ids]


def _about(subject: AssetRef) -> Cell:
    told = linked(subject)
    return (told.text, told.page)


def _alert(one: Any) -> Sequence[tuple[str, Cell]]:
    return [
        ("About", _about(one.subject)),
        ("Severity", str(one.severity)),
        ("State", str(one.state)),
        ("Raised", _at(one.raised_at)),
        ("Last seen", f"{_at(one.last_seen_at)}, {one.n_seen} times"),
        ("Acknowledged", f"{one.acknowledged_by} {_at(one.acknowledged_at)}"
         if one.acknowledged_by else ""),
        ("Resolved", f"{one.resolved_by} {_at(one.resolved_at)}" if one.resolved_by else ""),
        ("Resolution", one.resolution),
        *((f"Evidence: {name}", str(value)) for name, value in one.evidence.items()),
    ]  # fmt: skip


def _incident(one: Any) -> Sequence[tuple[str, Cell]]:
    return [
        ("Configuration item", _about(one.subject)),
        ("Priority", f"{one.priority} (impact {one.impact}, urgency {one.urgency})"),
        ("State", str(one.state)),
        ("Assigned to", one.assigned_to or ""),
        ("Opened", f"{one.opened_by} {_at(one.opened_at)}"),
        ("Time to detect", _took(one.seconds_to_detect)),
        ("Time to acknowledge", _took(one.seconds_to_acknowledge)),
        ("Time to resolve", _took(one.seconds_to_resolve)),
        ("Resolution", one.resolution),
        *_links("alert", one.alerts),
        *_links("problem", [one.problem] if one.problem else []),
        *_links("change", one.changes),
    ]


def _problem(one: Any) -> Sequence[tuple[str, Cell]]:
    return [
        ("About", _about(one.subject)),
        ("State", str(one.state).replace("_", " ")),
        ("Root cause", one.root_cause),
        ("Workaround", one.workaround),
        ("Opened", f"{one.opened_by} {_at(one.opened_at)}"),
        ("Resolution", one.resolution),
        *_links("incident", one.incidents),
        *_links("change", [one.change] if one.change else []),
    ]


def _change(one: Any) -> Sequence[tuple[str, Cell]]:
    return [
        ("About", _about(one.subject)),
        ("Type", str(one.type)),
        ("Kind", one.kind),
        ("State", str(one.state).replace("_", " ")),
        ("Reason", one.reason),
        ("Asked for by", f"{one.requested_by} {_at(one.requested_at)}"),
        ("Decided by", f"{one.decided_by} {_at(one.decided_at)}" if one.decided_by else ""),
        ("Decision", one.decision),
        ("Review due", _at(one.review_due_at)),
        ("Verdict", str(one.verdict or "")),
        *((f"Evidence: {name}", str(value)) for name, value in one.evidence.items()),
    ]


def _level(one: Any) -> Sequence[Cell]:
    attained = "no requests" if one.attained is None else f"{one.attained:.4%}"
    burning = [f"{burn.hours:g} h: {burn.long_rate:.1f}" for burn in one.burns if burn.burning]
    endpoint = (one.endpoint, page_of("endpoint", one.endpoint))
    return [one.name, endpoint, f"{one.indicator} {one.objective:.4%}", attained,
            f"{one.budget_left:.0%}", ", ".join(burning) or "calm"]  # fmt: skip


ROOMS: Mapping[str, Room] = {
    "alerts": Room(
        "Alerts", "alerts.list", ("Alert", "About", "Severity", "State", "Since"),
        lambda one: [(one.name, f"/alerts/{one.id}"), _about(one.subject), str(one.severity),
                     str(one.state), _at(one.raised_at)],
        "alerts.get", _alert, ("alerts.acknowledge", "Acknowledge"), of_alert,
    ),
    "incidents": Room(
        "Incidents", "incidents.list", ("Incident", "About", "Priority", "State", "Opened"),
        lambda one: [(one.title, f"/incidents/{one.id}"), _about(one.subject), str(one.priority),
                     str(one.state), _at(one.opened_at)],
        "incidents.get", _incident, ("incidents.acknowledge", "Acknowledge"), of_incident,
    ),
    "problems": Room(
        "Problems", "problems.list", ("Problem", "About", "State", "Opened"),
        lambda one: [(one.title, f"/problems/{one.id}"), str(one.subject),
                     str(one.state).replace("_", " "), _at(one.opened_at)],
        "problems.get", _problem,
    ),
    "changes": Room(
        "Changes", "changes.list", ("Change", "About", "Type", "State", "Asked for"),
        lambda one: [(one.title, f"/changes/{one.id}"), _about(one.subject), str(one.type),
                     str(one.state).replace("_", " "), _at(one.requested_at)],
        "changes.get", _change, links=of_change,
    ),
    "silences": Room(
        "Silences", "silences.list", ("Alerts", "Reason", "By", "From", "Until"),
        lambda one: [", ".join(f"{m.label}{m.op}{m.value}" for m in one.matchers), one.reason,
                     one.created_by, _at(one.starts_at), _at(one.ends_at)],
    ),
    "service-levels": Room(
        "Service levels", "service_levels.list",
        ("Name", "Endpoint", "Promise", "Attained", "Budget left", "Burning"), _level,
    ),
}  # fmt: skip
"""By the address of their list."""


def add_operation_pages(app: Application, people: People) -> None:
    """Add the pages of service management to the control plane."""
    for name, room in ROOMS.items():
        add_page_route(app, people.pages, "GET", f"/{name}", _list(people, room))
        if room.one:
            add_page_route(app, people.pages, "GET", f"/{name}/{{id}}", _page(people, name, room))
        if room.deed[0]:
            add_page_route(
                app, people.pages, "POST", f"/{name}/{{id}}/deed", _deed(people, name, room)
            )


def _list(people: People, room: Room) -> Any:
    async def listed(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        found = await people.call(visitor, room.listing)
        return people.form_page(
            request,
            "records.html",
            visitor=visitor,
            title=room.title,
            rooms=[(other, one.title) for other, one in ROOMS.items()],
            columns=room.columns,
            rows=[_shown(room.row(one)) for one in found],
        )

    return listed


def _page(people: People, name: str, room: Room) -> Any:
    async def one(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        found = await people.call(visitor, room.one, id=request.path_params["id"])
        told = list(room.facts(found))
        if room.links is not None:
            more = await room.links(people, visitor, found)
            told += [(label, (one.text, one.page)) for label, one in more]
        offered = room.deed[0] and found.acknowledged_at is None and str(found.state) == "open"
        return people.form_page(
            request,
            "record.html",
            visitor=visitor,
            title=getattr(found, "title", "") or found.message,
            back=(f"/{name}", room.title),
            facts=[(label, _shown([cell])[0]) for label, cell in told if cell],
            entries=getattr(found, "timeline", None) or getattr(found, "history", []),
            deed=(f"/{name}/{found.id}/deed", room.deed[1]) if offered else None,
        )

    return one


def _deed(people: People, name: str, room: Room) -> Any:
    async def done(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        found = await people.call(visitor, room.deed[0], id=request.path_params["id"])
        return to(f"/{name}/{found.id}")

    return done


def _shown(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Each cell as a text and where it leads; empty for nowhere."""
    return [(cell, "") if isinstance(cell, str) else cell for cell in cells]
