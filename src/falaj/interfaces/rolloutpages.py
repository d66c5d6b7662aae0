"""The pages ``/rollouts`` and ``/rollouts/{name}``: how rollouts stand, and pausing or ending them.

What they show and do are actions through the door, as anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.plots import BandPlot, band_plot
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import People, add_page_route, form_of, to, to_login
from falaj.kernel.errors import FalajError, NotFound, StepUpRequired
from falaj.kernel.problems import public, status_of
from falaj.trust.websessions import Visitor

if TYPE_CHECKING:
    from falaj.rollouts.records import PlotPoint, RolloutHistory, RolloutStatus

_DEEDS: Mapping[str, tuple[str, str]] = {
    "pause": ("rollouts.pause", "Pause"),
    "resume": ("rollouts.resume", "Resume"),
    "stop": ("rollouts.stop", "Stop"),
}
"""By the form's address: the action, and what its button says."""


def add_rollout_pages(app: Application, people: People) -> None:
    """Add the pages of rollouts and their forms to the control plane."""

    async def listed(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        rollouts = await people.call(visitor, "rollouts.list")
        return people.form_page(request, "rollouts.html", visitor=visitor, rollouts=rollouts)

    async def one(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        return await _rollout(people, request, visitor)

    async def deed(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        name = request.path_params["deed"]
        if name not in _DEEDS:
            raise NotFound("There is no such form.", hint="Open /rollouts.")
        return await _done(people, request, visitor, name, told)

    add_page_route(app, people.pages, "GET", "/rollouts", listed)
    add_page_route(app, people.pages, "GET", "/rollouts/{name}", one)
    add_page_route(app, people.pages, "POST", "/rollouts/{name}/deeds/{deed}", deed)


async def _rollout(
    people: People, request: Request, visitor: Visitor, error: FalajError | None = None
) -> Response:
    name = request.path_params["name"]
    status: RolloutStatus = await people.call(visitor, "rollouts.show", name=name)
    history: RolloutHistory = await people.call(visitor, "rollouts.history", name=name)
    run = status.run
    offered = []
    if run is not None and run.is_live:
        offered = ["resume" if run.state == "paused" else "pause", "stop"]
    elif run is not None and run.step.divides:
        offered = ["stop"]
    return people.form_page(
        request,
        "rollout.html",
        visitor=visitor,
        status=status_of(error.kind) if error else 200,
        rollout=status.rollout,
        run=run,
        latest=status.latest,
        plots=_plots(status.plot),
        agreement=status.agreement,
        entries=history.entries,
        deeds=[(one, _DEEDS[one][1]) for one in offered],
        error=error and public(error),
    )


def _plots(points: Sequence[PlotPoint]) -> list[tuple[str, str, BandPlot]]:
    """A plot for each challenger and metric with enough looks."""
    series: dict[tuple[str, str], list[PlotPoint]] = {}
    for point in points:
        series.setdefault((point.challenger, point.metric), []).append(point)
    drawn = []
    for (challenger, metric), seen in series.items():
        columns: list[list[Any]] = [
            [getattr(one, field) for one in seen] for field in ("at", "estimate", "low", "high")
        ]
        plot = band_plot(*columns)
        if plot is not None:
            drawn.append((challenger, metric, plot))
    return drawn


async def _done(
    people: People, request: Request, visitor: Visitor, name: str, told: Mapping[str, str]
) -> Response:
    """Do what a form asks, asking for a fresh factor in place if it needs one."""
    action, title = _DEEDS[name]
    rollout, reason = request.path_params["name"], told.get("reason", "")
    refused: FalajError | None = None
    try:
        if told.get("code"):
            visitor = await people.step_up(visitor, told["code"])
        await people.call(visitor, action, name=rollout, reason=reason)
        return to(f"/rollouts/{rollout}")
    except StepUpRequired:
        pass
    except FalajError as error:
        refused = error
        if not told.get("code") or visitor.caller.stepped_up(people.backend.clock.now()):
            return await _rollout(people, request, visitor, error)
    return people.step_up_page(
        request,
        visitor,
        action=f"/rollouts/{rollout}/deeds/{name}",
        fields={"reason": reason},
        after=f"/rollouts/{rollout}",
        what=f"{title} the rollout {rollout}",
        error=refused,
    )
