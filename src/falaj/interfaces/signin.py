"""Signing in with a browser, and presenting a second factor again: ``/login``, ``/step-up``.

Passwords and codes go through plain forms. A passkey needs the browser's own script interface;
its two steps are asked by ``static/passkey.js``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.auth import agent, checked, client_address
from falaj.interfaces.cookies import FORM, SESSION, drop_cookie, own_page, put_cookie
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import (
    People,
    add_page_route,
    form_of,
    json_of,
    text_of,
    to,
    to_login,
)
from falaj.kernel.errors import FalajError, Unauthenticated
from falaj.kernel.problems import public, status_of
from falaj.trust.model import (
    LinkRequest,
    LoginRequest,
    PasskeyEnrolRequest,
    PasskeyLoginRequest,
    PasskeyRequest,
    TokenPair,
)
from falaj.trust.websessions import Visitor


def add_sign_in(app: Application, people: People) -> None:
    """Add ``/login``, ``/step-up`` and the passkey steps of ``/enrol`` to the control plane."""
    _add_login(app, people)
    _add_step_up(app, people)
    _add_enrolment(app, people)


def _add_login(app: Application, people: People) -> None:
    def shown(
        request: Request, then: str, error: FalajError | None, name: str = "", through: str = ""
    ) -> Response:
        offered = people.federation.offered()
        return people.form_page(
            request,
            "login.html",
            status=status_of(error.kind) if error else 200,
            then=then,
            name=name,
            providers=[one for one in offered if through in ("", one[0])],
            through=through,
            error=error and public(error),
        )

    async def form(request: Request) -> Response:
        then = own_page(request.query_params.get("next", ""))
        return shown(request, then, None, through=_through(people, then))

    async def login(request: Request) -> Response:
        told = await form_of(request)
        then = own_page(told.get("next", ""))
        people.check_token(request, told.get("token", ""), None)
        wanted = {name: told.get(name, "") for name in ("name", "password", "code")}
        try:
            asked = checked(LoginRequest, {**wanted, "client": agent(request)})
            pair = await run_in_threadpool(
                people.authentication.login, asked, address=client_address(request)
            )
        except FalajError as error:
            return shown(request, then, error, told.get("name", ""))
        return await _signed_in(people, pair, to(then))

    async def options(request: Request) -> Response:
        told = await json_of(request)
        people.check_token(request, text_of(told, "token"), None)
        make = people.passkeys.sign_in_options
        return JSONResponse(await run_in_threadpool(make, address=client_address(request)))

    async def passkey(request: Request) -> Response:
        told = await json_of(request)
        people.check_token(request, text_of(told, "token"), None)
        wanted: dict[str, Any] = {"credential": told.get("credential"), "client": agent(request)}
        if text_of(told, "password"):
            wanted |= {"name": text_of(told, "name"), "password": text_of(told, "password")}
        pair = await run_in_threadpool(
            people.passkeys.sign_in,
            checked(PasskeyLoginRequest, wanted),
            address=client_address(request),
        )
        answer = JSONResponse({"next": own_page(text_of(told, "next"))})
        return await _signed_in(people, pair, answer)

    pages = people.pages
    add_page_route(app, pages, "GET", "/login", form)
    add_page_route(app, pages, "POST", "/login", login)
    add_page_route(app, pages, "POST", "/login/passkey/options", options, script=True)
    add_page_route(app, pages, "POST", "/login/passkey", passkey, script=True)


def _add_step_up(app: Application, people: People) -> None:
    def shown(
        request: Request, visitor: Visitor, then: str, error: FalajError | None = None
    ) -> Response:
        return people.step_up_page(
            request, visitor, action="/step-up", fields={"next": then}, after=then, error=error
        )

    async def form(request: Request) -> Response:
        visitor = await people.visitor(request)
        if visitor is None:
            return to_login(request)
        return shown(request, visitor, own_page(request.query_params.get("next", "")))

    async def step_up(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        then = own_page(told.get("next", ""))
        try:
            await people.step_up(visitor, told.get("code", ""))
        except FalajError as error:
            return shown(request, visitor, then, error)
        return to(then)

    async def options(request: Request) -> Response:
        _, visitor = await asked_by_script(request, people)
        make = people.passkeys.step_up_options
        return JSONResponse(await run_in_threadpool(make, visitor.caller))

    async def passkey(request: Request) -> Response:
        told, visitor = await asked_by_script(request, people)
        wanted = checked(PasskeyRequest, {"credential": told.get("credential")})
        await run_in_threadpool(
            people.passkeys.step_up, visitor.caller, wanted, address=client_address(request)
        )
        await run_in_threadpool(people.sessions.stepped_up, visitor)
        return JSONResponse({"next": own_page(text_of(told, "next"))})

    pages = people.pages
    add_page_route(app, pages, "GET", "/step-up", form)
    add_page_route(app, pages, "POST", "/step-up", step_up)
    add_page_route(app, pages, "POST", "/step-up/passkey/options", options, script=True)
    add_page_route(app, pages, "POST", "/step-up/passkey", passkey, script=True)


def _add_enrolment(app: Application, people: People) -> None:
    """A passkey in place of password and code. The link's secret is what makes the form ours."""

    async def options(request: Request) -> Response:
        told = await json_of(request)
        wanted = checked(LinkRequest, {one: told.get(one) for one in ("secret", "name")})
        make = people.passkeys.enrolment_options
        return JSONResponse(await run_in_threadpool(make, wanted, address=client_address(request)))

    async def passkey(request: Request) -> Response:
        told = await json_of(request)
        wanted = {one: told.get(one) for one in ("secret", "name", "credential")}
        pair = await run_in_threadpool(
            people.passkeys.enrol,
            checked(PasskeyEnrolRequest, {**wanted, "client": agent(request)}),
            address=client_address(request),
        )
        return await _signed_in(people, pair, JSONResponse({"next": "/account"}))

    pages = people.pages
    add_page_route(app, pages, "POST", "/enrol/passkey/options", options, script=True)
    add_page_route(app, pages, "POST", "/enrol/passkey", passkey, script=True)


def _through(people: People, then: str) -> str:
    """The provider that the page to go on with asks for (a program's code may); or none."""
    wanted = parse_qs(urlsplit(then).query).get("provider", [""])[0]
    return wanted if wanted in people.federation.parties else ""


async def asked_by_script(request: Request, people: People) -> tuple[dict[str, Any], Visitor]:
    """What our script says, and for whom.

    Raises:
        Unauthenticated: nobody is signed in.
        ForgedForm: it was not asked from this visitor's page.
    """
    told = await json_of(request)
    visitor = await people.visitor(request)
    if visitor is None:
        raise Unauthenticated("You are not signed in any more.", hint="Open /login.")
    people.check_token(request, text_of(told, "token"), visitor)
    return told, visitor


async def _signed_in(people: People, pair: TokenPair, answer: Response) -> Response:
    """The answer, with a cookie for a session that is new: no value of before is kept."""
    secret = await run_in_threadpool(people.sessions.begin, pair)
    put_cookie(answer, SESSION, secret)
    drop_cookie(answer, FORM)
    return answer
