"""The pages of sources and contracts: how fresh and how much data is, and whether it is sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from falaj.interfaces.plots import Series, course_plot
from falaj.interfaces.routing import Application
from falaj.interfaces.sheets import (
    Cell,
    Figure,
    Section,
    Sheet,
    Table,
    add_sheet,
    at,
    figure,
    linked,
    page_of,
    seen,
    share,
)
from falaj.interfaces.visitors import People
from falaj.kernel.call import AssetRef
from falaj.trust.websessions import Visitor

if TYPE_CHECKING:
    from falaj.catalog.planning import VersionedDefinition
    from falaj.ingest.model import CheckResult, LoadReport, TrendPoint
    from falaj.operations.model import Alert

_LOADS = 60
_POINTS = 1000
_MOST_ROWS = 15
_MOST_PLOTS = 8


def add_source_pages(app: Application, people: People) -> None:
    """Add the pages of sources and contracts to the control plane."""
    add_sheet(app, people, "/sources", _sources)
    add_sheet(app, people, "/sources/{name}", _source)
    add_sheet(app, people, "/contracts/{name}", _contract)


async def _sources(people: People, visitor: Visitor, _request: Request) -> Sheet:
    sources = await people.call(visitor, "definitions.list", kind="source")
    contracts = await people.call(visitor, "definitions.list", kind="contract")
    sections = [
        _declared("Sources", "source", sources),
        _declared("Contracts", "contract", contracts),
    ]
    return Sheet("Sources and contracts", sections=sections)


def _declared(title: str, kind: str, found: Sequence[VersionedDefinition]) -> Section:
    if not found:
        return Section(title, words=("None is declared, or none that you may see.",))
    rows = [
        (
            Cell(one.name, page_of(kind, one.name)),
            str(one.document.get("table", "")),
            str(one.version),
            f"{at(one.at)} by {one.by}",
        )
        for one in found
    ]
    table = Table(title, (kind.capitalize(), "Table", "Version", "Applied"), rows)
    return Section(title, tables=(table,))


async def _source(people: People, visitor: Visitor, request: Request) -> Sheet:
    name = request.path_params["name"]
    loads: Sequence[LoadReport] = await people.call(
        visitor, "sources.loads", source=name, limit=_LOADS
    )
    results = await seen(people, visitor, "sources.results", source=name, limit=200)
    declared = await seen(people, visitor, "definitions.get", kind="source", name=name)
    contracts = await seen(people, visitor, "definitions.list", kind="contract")
    table = loads[0].table if loads else declared.document["table"] if declared else ""
    held = [one for one in contracts or () if one.document.get("table") == table]
    subjects = [AssetRef("source", name), *([AssetRef("table", table)] if table else [])]
    subjects += [AssetRef("contract", one.name) for one in held]
    return Sheet(
        name,
        back=(("/sources", "Sources and contracts"),),
        words=(f"A source of the table {table}.",) if table else (),
        sections=[
            _freshness(loads, held, people.backend.clock.now()),
            _volume(loads),
            _failures(results),
            *await alerts_of(people, visitor, subjects),
        ],
    )


def _freshness(loads: Sequence[LoadReport], held: Sequence[Any], now: Any) -> Section:
    written = next((one for one in loads if str(one.state) == "done"), None)
    facts: list[tuple[str, Sequence[Cell]]] = []
    if loads:
        facts.append(("Last load", [Cell(f"{at(loads[0].at)}: {loads[0].state}")]))
    if written is not None:
        hours = (now - written.at).total_seconds() / 3600
        facts.append(("Rows last written", [Cell(f"{at(written.at)}, {hours:.1f} hours ago")]))
    if held:
        cells = [Cell(one.name, page_of("contract", one.name)) for one in held]
        facts.append(("Contracts of its table", cells))
    words = () if loads else ("It was never loaded.",)
    return Section("Freshness", words=words, facts=facts)


def _volume(loads: Sequence[LoadReport]) -> Section:
    if not loads:
        return Section("Volume", words=("No load has told its rows.",))
    rows = [
        (
            at(one.at),
            Cell(str(one.state), strong=str(one.state) == "refused"),
            str(one.n_read),
            str(one.n_written),
            Cell(str(one.n_quarantined), strong=one.n_quarantined > 0),
        )
        for one in loads[:_MOST_ROWS]
    ]
    table = Table(
        "Loads, the newest first", ("At", "State", "Read", "Written", "Quarantined"), rows
    )
    told = [one for one in reversed(loads) if str(one.state) != "unchanged"]
    times = [one.at for one in told]
    plot = course_plot(
        [
            Series("written", times, [float(one.n_written) for one in told]),
            Series("quarantined", times, [float(one.n_quarantined) for one in told]),
        ],
        form=",.0f",
    )
    caption = "Rows of each load: written (whole line) and quarantined (dashed)"
    return Section("Volume", figures=[Figure(caption, plot)] if plot else (), tables=(table,))


def _failures(results: Sequence[CheckResult] | None) -> Section:
    """The newest results of which checks failed; examples by the numbers of their rows alone."""
    if results is None:
        return Section("Last failures", words=("You may not see what checks found.",))
    failed = [one for one in results if not one.passed][:_MOST_ROWS]
    if not failed:
        told = "None of the newest checks failed." if results else "Nothing was checked yet."
        return Section("Last failures", words=(told,))
    rows = [
        (
            one.check,
            Cell(one.contract, page_of("contract", one.contract)),
            str(one.severity),
            one.measured or f"{one.n_violations} of {one.n_rows} rows",
            ", ".join(str(each.row) for each in one.examples) or "–",
        )
        for one in failed
    ]
    columns = ("Check", "Contract", "Severity", "Found", "Rows, for example")
    return Section("Last failures", tables=(Table("Checks that failed", columns, rows),))


async def _contract(people: People, visitor: Visitor, request: Request) -> Sheet:
    name = request.path_params["name"]
    points: Sequence[TrendPoint] = await people.call(
        visitor, "contracts.history", contract=name, limit=_POINTS
    )
    declared = await seen(people, visitor, "definitions.get", kind="contract", name=name)
    table = declared.document["table"] if declared else ""
    checks: dict[tuple[str, str], list[TrendPoint]] = {}
    for point in points:
        checks.setdefault((point.check, point.via), []).append(point)
    trends = [plot for (check, via), found in checks.items() if (plot := _trend(check, via, found))]
    return Sheet(
        name,
        back=(("/sources", "Sources and contracts"),),
        words=(f"A contract of the table {table}.",) if table else (),
        sections=[
            _state(checks),
            Section(
                "Trend of the checks",
                words=() if trends else ("There are not yet two figures of any check.",),
                figures=trends[:_MOST_PLOTS],
            ),
            _broken(points),
            *await alerts_of(people, visitor, [AssetRef("contract", name)]),
        ],
    )


_VIA = {"load": "rows of a load", "check": "whole table"}


def _state(checks: dict[tuple[str, str], list[TrendPoint]]) -> Section:
    if not checks:
        return Section("Checks now", words=("Nothing was checked yet.",))
    rows = []
    for (check, via), found in checks.items():
        last, failed = found[0], [one for one in found if not one.passed]
        rows.append(
            (
                check,
                _VIA.get(via, via),
                at(last.at),
                Cell("passed" if last.passed else "failed", strong=not last.passed),
                _value(last),
                f"{len(failed)} of {len(found)}",
                at(failed[0].at) if failed else "never",
            )
        )
    columns = ("Check", "Of", "Last", "Result", "Figure", "Failed", "Last failure")
    return Section("Checks now", tables=(Table("Checks and their last results", columns, rows),))


def _value(point: TrendPoint) -> str:
    """What was measured, and the bounds that it was held to."""
    bounds = [f"at least {figure(point.low, '.4g')}"] if point.low is not None else []
    bounds += [f"at most {figure(point.high, '.4g')}"] if point.high is not None else []
    told = point.measured or (
        f"{share(point.share)} of rows" if point.value is None else figure(point.value, ".4g")
    )
    return f"{told} ({' and '.join(bounds)})" if bounds else told


def _trend(check: str, via: str, points: Sequence[TrendPoint]) -> Figure | None:
    course = list(reversed(points))
    times = [one.at for one in course]
    series = Series(
        check,
        times,
        [one.value for one in course],
        [one.low for one in course],
        [one.high for one in course],
    )
    limits: list[float] = []
    if not (
        any(one.low is not None for one in course) and any(one.high is not None for one in course)
    ):
        last = points[0]
        limits = [one for one in (last.low, last.high) if one is not None]
    plot = course_plot([series], limits)
    return None if plot is None else Figure(f"{check}, {_VIA.get(via, via)}", plot)


def _broken(points: Sequence[TrendPoint]) -> Section:
    failed = [one for one in points if not one.passed][:_MOST_ROWS]
    if not failed:
        return Section("Last failures", words=("None of the kept checks failed.",))
    rows = [
        (
            at(one.at),
            one.check,
            str(one.severity),
            f"{one.n_violations} of {one.n_rows}",
            _value(one),
        )
        for one in failed
    ]
    columns = ("At", "Check", "Severity", "Rows that break it", "Figure")
    return Section("Last failures", tables=(Table("Checks that failed", columns, rows),))


async def alerts_of(
    people: People, visitor: Visitor, subjects: Sequence[AssetRef]
) -> list[Section]:
    """The newest alerts about some assets; nothing if there are none."""
    asked = [str(one) for one in subjects]
    alerts: Sequence[Alert] = await seen(people, visitor, "alerts.list", subjects=asked) or ()
    rows = [
        (
            Cell(one.name, page_of("alert", one.id)),
            linked(one.subject),
            Cell(str(one.state), strong=str(one.state) == "open"),
            at(one.raised_at),
            one.message,
        )
        for one in alerts
    ][:_MOST_ROWS]
    if not rows:
        return []
    columns = ("Alert", "About", "State", "Raised", "Message")
    return [Section("Alerts", tables=(Table("Alerts", columns, rows),))]
