"""Letting a program in that has no browser: ``/auth/device`` for it, ``/device`` for its person."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.auth import client_address, exchange_route
from falaj.interfaces.http import bearer, presented
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import People, add_page_route, form_of, to, to_login
from falaj.kernel.errors import FalajError, StepUpRequired
from falaj.kernel.problems import public, status_of
from falaj.trust.devices import DeviceCodes, DeviceRequest, DeviceTokenRequest, Waiting
from falaj.trust.websessions import Visitor


def add_device_routes(app: Application, devices: DeviceCodes, people: People) -> None:
    """Add ``/auth/device``, ``/auth/device/step-up`` and ``/auth/device/token``."""
    tokens = people.authentication.tokens

    def begin(request: Request, body: DeviceRequest) -> Any:
        return devices.begin(body, address=client_address(request))

    def step_up(request: Request, body: DeviceRequest) -> Any:
        now = people.backend.clock.now()
        verified = tokens.read(bearer(request), now, presented(request))
        return devices.begin(body, address=client_address(request), steps_up=verified)

    def token(request: Request, body: DeviceTokenRequest) -> Any:
        return devices.tokens(body, address=client_address(request), presented=presented(request))

    steps: dict[str, tuple[type[Any], Any]] = {
        "/auth/device": (DeviceRequest, begin),
        "/auth/device/step-up": (DeviceRequest, step_up),
        "/auth/device/token": (DeviceTokenRequest, token),
    }
    for path, (model, exchange) in steps.items():
        route = exchange_route(model, exchange)
        app.answer("POST", path, route)


def add_device_page(app: Application, devices: DeviceCodes, people: People) -> None:
    """Add ``/device`` to the control plane."""

    def asked(
        request: Request, visitor: Visitor, user_code: str, error: FalajError | None = None
    ) -> Response:
        return people.form_page(
            request,
            "device.html",
            visitor=visitor,
            status=status_of(error.kind) if error else 200,
            user_code=user_code,
            waiting=None,
            error=error and public(error),
        )

    async def form(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        return asked(request, visitor, request.query_params.get("user_code", "")[:20])

    async def look(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login?next=/device")
        people.check_token(request, told.get("token", ""), visitor)
        user_code = told.get("user_code", "")[:20]
        try:
            waiting: Waiting = await run_in_threadpool(
                devices.waiting, visitor.caller, user_code, address=client_address(request)
            )
        except FalajError as error:
            return asked(request, visitor, user_code, error)
        return people.form_page(
            request,
            "device.html",
            visitor=visitor,
            user_code=user_code,
            waiting=waiting,
            error=None,
        )

    async def decide(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login?next=/device")
        people.check_token(request, told.get("token", ""), visitor)
        return await _decided(people, devices, request, visitor, told)

    pages = people.pages
    add_page_route(app, pages, "GET", "/device", form)
    add_page_route(app, pages, "POST", "/device", look)
    add_page_route(app, pages, "POST", "/device/decision", decide)


async def _decided(
    people: People,
    devices: DeviceCodes,
    request: Request,
    visitor: Visitor,
    told: dict[str, str],
) -> Response:
    """Let the program in or refuse it, asking for a fresh factor in place if it needs one."""
    approve = told.get("decision") == "approve"
    user_code = told.get("user_code", "")[:20]
    refused: FalajError | None = None
    try:
        if told.get("code"):
            visitor = await people.step_up(visitor, told["code"])
        await run_in_threadpool(
            devices.decide,
            visitor.caller,
            user_code,
            approve=approve,
            session=visitor.session.id,
            address=client_address(request),
        )
        return people.pages.page("decided.html", approved=approve)
    except StepUpRequired:
        pass
    except FalajError as error:
        refused = error
        if not told.get("code") or visitor.caller.stepped_up(people.backend.clock.now()):
            return people.pages.problem(error)
    return people.step_up_page(
        request,
        visitor,
        action="/device/decision",
        fields={"user_code": user_code, "decision": told.get("decision", "")},
        after=f"/device?user_code={quote(user_code)}",
        what="Letting a program in",
        error=refused,
    )
