"""Signing in through an identity provider: ``/login/with/…``, and there and back for a factor.

The way back comes from another site, to which browsers give no ``SameSite=Strict`` cookie. So
one cookie of the way is Lax and opens nothing, and the answer is a page of our own that leads
on: what it leads to is asked by us, and gets the session's cookie.
"""

from __future__ import annotations

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.auth import agent, checked, client_address
from falaj.interfaces.cookies import (
    FORM,
    PASSING,
    SESSION,
    cookie,
    drop_cookie,
    own_page,
    put_cookie,
    put_passing_cookie,
)
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import People, add_page_route, form_of, json_of, text_of
from falaj.kernel.errors import FalajError, StepUpRequired, Unauthenticated
from falaj.kernel.problems import public, status_of
from falaj.trust.model import Account, PasskeyRequest
from falaj.trust.oidc_model import Arrival, Errand
from falaj.trust.websessions import Visitor

_LONGEST_KEPT = 3_000
_LONGEST_PAGE = 200
_STAYS_SECONDS = 900
_BASE = "/login/with/{provider}"


def add_federation(app: Application, people: People) -> None:
    """Add signing in, presenting a factor and linking through providers, and their logout."""
    _add_departures(app, people)
    _add_arrivals(app, people)
    _add_own_factor(app, people)
    _add_own_passkey(app, people)
    _add_logout(app, people)


def _add_departures(app: Application, people: People) -> None:
    async def sign_in(request: Request) -> Response:
        told = await form_of(request)
        people.check_token(request, told.get("token", ""), None)
        return await _left(people, request, Errand.SIGN_IN, told.get("next", ""))

    async def asked_by_visitor(request: Request) -> tuple[dict[str, str], Visitor]:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            raise Unauthenticated("You are not signed in any more.", hint="Open /login.")
        people.check_token(request, told.get("token", ""), visitor)
        return told, visitor

    async def step_up(request: Request) -> Response:
        told, visitor = await asked_by_visitor(request)
        return await _left(people, request, Errand.STEP_UP, told.get("next", ""), visitor)

    async def link(request: Request) -> Response:
        _, visitor = await asked_by_visitor(request)
        if not visitor.caller.stepped_up(people.backend.clock.now()):
            raise StepUpRequired(
                "Adding a way to sign in needs a fresh second factor.", hint="Open /step-up."
            )
        return await _left(people, request, Errand.LINK, "/account", visitor)

    pages = people.pages
    add_page_route(app, pages, "POST", _BASE, sign_in)
    add_page_route(app, pages, "POST", "/step-up/with/{provider}", step_up)
    add_page_route(app, pages, "POST", "/account/with/{provider}", link)


def _add_arrivals(app: Application, people: People) -> None:
    async def back(request: Request) -> Response:
        items = request.query_params.multi_items()
        told = dict(items)
        arrival = await run_in_threadpool(
            people.federation.arrive,
            request.path_params["provider"],
            told if len(told) == len(items) else {},  # a name that stands twice means nothing
            _kept(request),
            client=agent(request),
            address=client_address(request),
        )
        if arrival.account is not None:
            return _factor_page(people, request, arrival.ticket, arrival.account, arrival.kept)
        return await _arrived(people, arrival)

    add_page_route(app, people.pages, "GET", f"{_BASE}/callback", back)


def _add_own_factor(app: Application, people: People) -> None:
    """A factor of this platform, for whom the provider has shown one factor only."""

    async def code(request: Request) -> Response:
        told = await form_of(request)
        name, ticket, kept = request.path_params["provider"], told.get("ticket", ""), _kept(request)
        address = client_address(request)
        caller = await run_in_threadpool(
            people.federation.waiting, name, ticket, kept, address=address
        )
        try:
            arrival = await run_in_threadpool(
                people.federation.own_factor,
                name,
                ticket,
                kept,
                SecretStr(told.get("code", "")),
                client=agent(request),
                address=address,
            )
        except FalajError as error:
            account = await run_in_threadpool(people.account, caller)
            return _factor_page(people, request, ticket, account, kept, error)
        return await _arrived(people, arrival)

    add_page_route(app, people.pages, "POST", f"{_BASE}/factor", code)


def _add_own_passkey(app: Application, people: People) -> None:
    """The same with a passkey, asked by our script."""

    async def options(request: Request) -> Response:
        told = await json_of(request)
        caller = await run_in_threadpool(
            people.federation.waiting,
            request.path_params["provider"],
            text_of(told, "ticket"),
            _kept(request),
            address=client_address(request),
        )
        return JSONResponse(await run_in_threadpool(people.passkeys.step_up_options, caller))

    async def passkey(request: Request) -> Response:
        told, kept = await json_of(request), _kept(request)
        name, ticket = request.path_params["provider"], text_of(told, "ticket")
        wanted = checked(PasskeyRequest, {"credential": told.get("credential")})
        address = client_address(request)
        caller = await run_in_threadpool(
            people.federation.waiting, name, ticket, kept, address=address
        )
        await run_in_threadpool(people.passkeys.step_up, caller, wanted, address=address)
        arrival = await run_in_threadpool(
            people.federation.own_factor,
            name,
            ticket,
            kept,
            None,
            client=agent(request),
            address=address,
        )
        answer = JSONResponse({"next": arrival.then})
        return await _with_session(people, arrival, answer)

    pages, base = people.pages, f"{_BASE}/passkey"
    add_page_route(app, pages, "POST", f"{base}/options", options, script=True)
    add_page_route(app, pages, "POST", base, passkey, script=True)


def _add_logout(app: Application, people: People) -> None:
    async def told_by_provider(request: Request) -> Response:
        try:
            form = await form_of(request)
            await run_in_threadpool(
                people.logout.told,
                request.path_params["provider"],
                form.get("logout_token", ""),
                address=client_address(request),
            )
        except FalajError as error:
            shown, status = public(error), status_of(error.kind)
            return JSONResponse(
                {"error": "invalid_request", "error_description": shown.message},
                status_code=400 if status == 422 else status,
                headers={"Cache-Control": "no-store"},
            )
        return Response(status_code=200, headers={"Cache-Control": "no-store"})

    app.answer("POST", f"{_BASE}/logout", told_by_provider)


async def _left(
    people: People, request: Request, errand: Errand, then: str, visitor: Visitor | None = None
) -> Response:
    name = request.path_params["provider"]
    page = own_page(then)
    departure = await run_in_threadpool(
        people.federation.begin,
        name,
        errand,
        then=page if len(page) <= _LONGEST_PAGE else "/account",
        redirect_uri=f"{people.origin_for(request)}/login/with/{name}/callback",
        session=visitor.session.id if visitor else "",
        address=client_address(request),
    )
    # A redirect would be held back: a form of our pages may lead to our own pages alone.
    answer = people.pages.page("onward.html", url=departure.url)
    put_passing_cookie(answer, PASSING, departure.kept, seconds=_STAYS_SECONDS)
    return answer


async def _arrived(people: People, arrival: Arrival) -> Response:
    answer = people.pages.page("onward.html", url=arrival.then)
    return await _with_session(people, arrival, answer)


async def _with_session(people: People, arrival: Arrival, answer: Response) -> Response:
    if arrival.pair is not None:
        secret = await run_in_threadpool(people.sessions.begin, arrival.pair)
        put_cookie(answer, SESSION, secret)
        drop_cookie(answer, FORM)
    drop_cookie(answer, PASSING)
    return answer


def _factor_page(
    people: People,
    request: Request,
    ticket: str,
    account: Account,
    kept: str,
    error: FalajError | None = None,
) -> Response:
    name = request.path_params["provider"]
    answer = people.pages.page(
        "provider-factor.html",
        script=True,
        status=status_of(error.kind) if error else 200,
        provider=name,
        label=people.federation.party(name).provider.label,
        ticket=ticket,
        passkey=account.n_passkeys > 0,
        error=error and public(error),
    )
    put_passing_cookie(answer, PASSING, kept, seconds=_STAYS_SECONDS)
    return answer


def _kept(request: Request) -> str:
    return cookie(request, PASSING, longest=_LONGEST_KEPT)
