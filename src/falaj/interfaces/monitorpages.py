"""The pages ``/monitors``, ``/monitors/{name}`` and ``/monitors/{name}/performance``.

What they show are answers of actions through the door, to whoever looks; parts that the visitor
may not see are told to be so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from falaj.interfaces import driftviews, performanceviews
from falaj.interfaces.operationlinks import about
from falaj.interfaces.routing import Application
from falaj.interfaces.sheets import (
    Cell,
    Section,
    Sheet,
    Table,
    add_sheet,
    at,
    lasting,
    page_of,
    seen,
)
from falaj.interfaces.visitors import People
from falaj.trust.websessions import Visitor

if TYPE_CHECKING:
    from falaj.monitoring.coursewords import MonitorCourse, MonitorStatus, MonitorSummary

_COURSE = 60
"""Reports of drift that a page tells of."""
_PERFORMANCE = 30
_MOST_CHECKS = 10


def add_monitor_pages(app: Application, people: People) -> None:
    """Add the pages of monitors to the control plane."""
    add_sheet(app, people, "/monitors", _listed)
    add_sheet(app, people, "/monitors/{name}", _one)
    add_sheet(app, people, "/monitors/{name}/performance", _performance)


def monitor_table(monitors: Sequence[MonitorSummary]) -> Table:
    """Monitors with what they watch and what their last checks came to."""
    return Table(
        "Monitors and their last checks",
        ("Monitor", "Endpoint", "Model", "Last verdict", "Checked"),
        [
            (
                Cell(one.name, page_of("monitor", one.name)),
                Cell(one.endpoint, page_of("endpoint", one.endpoint)),
                "serves nothing" if one.model is None else f"{one.model} {one.version}",
                Cell(_verdict(one), strong=one.n_alerts > 0),
                at(one.checked_at) or "never",
            )
            for one in monitors
        ],
    )


def _verdict(one: MonitorSummary) -> str:
    counted = "1 alert" if one.n_alerts == 1 else f"{one.n_alerts} alerts"
    return f"alerting: {counted}" if one.n_alerts else str(one.verdict)


async def _listed(people: People, visitor: Visitor, _request: Request) -> Sheet:
    monitors: Sequence[MonitorSummary] = await people.call(visitor, "monitors.overview")
    section = Section("", words=("None is declared, or none that you may see.",))
    if monitors:
        section = Section("", tables=(monitor_table(monitors),))
    return Sheet(
        "Monitors",
        words=(
            "What is watched of endpoints. “Waiting” means that the last check found something,"
            " but not yet in as many windows as the monitor wants.",
        ),
        sections=(section,),
    )


async def _one(people: People, visitor: Visitor, request: Request) -> Sheet:
    name = request.path_params["name"]
    status: MonitorStatus = await people.call(visitor, "monitors.show", name=name)
    course: MonitorCourse = await people.call(
        visitor, "monitors.course", name=name, kind="drift", limit=_COURSE
    )
    sections = [
        Section("", facts=_facts(status)),
        *await run_in_threadpool(driftviews.sections, status, course),
        *await _schedule(people, visitor, name),
        *await about(people, visitor, status.endpoint, named=f"{name}:"),
    ]
    return Sheet(
        name,
        back=(
            ("/monitors", "Monitors"),
            (page_of("endpoint", status.endpoint), f"Endpoint {status.endpoint}"),
            (f"{page_of('monitor', name)}/performance", "Performance and fairness"),
        ),
        words=(f"A monitor of the endpoint {status.endpoint}. {status.monitor.description}",),
        sections=sections,
    )


def _facts(status: MonitorStatus) -> list[tuple[str, Sequence[Cell]]]:
    served = f"{status.model} {status.version}"
    return [
        ("Endpoint", [Cell(status.endpoint, page_of("endpoint", status.endpoint))]),
        ("Model that serves", [Cell("nothing" if status.model is None else served)]),
        ("Last verdict", [Cell(_verdict(status), strong=status.n_alerts > 0)]),
        ("Checked", [Cell(at(status.checked_at) or "never")]),
        ("Window", [Cell(lasting(status.monitor.window))]),
        ("Severity of its alerts", [Cell(str(status.monitor.severity))]),
    ]


async def _schedule(people: People, visitor: Visitor, name: str) -> list[Section]:
    """What the monitor's schedule has checked; nothing if it has none."""
    checks = await seen(people, visitor, "monitors.checks", name=name, limit=_MOST_CHECKS)
    if not checks:
        return []
    rows = [(at(one.tick), str(one.state), one.principal, _came_to(one)) for one in checks]
    table = Table("The newest checks of its schedule", ("Time", "State", "As", "Found"), rows)
    return [Section("Checks by itself", tables=(table,))]


def _came_to(check: Any) -> str:
    if check.error is not None:
        return str(check.error.get("message", "it failed"))
    result = check.result or {}
    told = [*result.get("findings", ()), *(f"{one} (waiting)" for one in result.get("waiting", ()))]
    return " ".join(map(str, told or result.get("nothing", ()))) or "nothing"


async def _performance(people: People, visitor: Visitor, request: Request) -> Sheet:
    name = request.path_params["name"]
    status: MonitorStatus = await people.call(visitor, "monitors.show", name=name)
    courses: dict[str, MonitorCourse] = {
        kind: await people.call(
            visitor, "monitors.course", name=name, kind=kind, limit=_PERFORMANCE
        )
        for kind in ("performance", "estimate", "losses", "calibration", "fairness")
    }
    told = await run_in_threadpool(performanceviews.sections, status.monitor, courses)
    return Sheet(
        f"Performance: {name}",
        back=(
            ("/monitors", "Monitors"),
            (page_of("monitor", name), f"Monitor {name}"),
            (page_of("endpoint", status.endpoint), f"Endpoint {status.endpoint}"),
        ),
        words=performanceviews.WORDS,
        sections=told,
    )
