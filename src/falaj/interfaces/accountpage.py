"""The page ``/account``: with what one signs in, where one is signed in, and putting an end to it.

What it does are actions through the door, as anywhere. One that needs a fresh factor asks for it
in place: the form comes back with a field for the code, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.auth import checked, client_address
from falaj.interfaces.cookies import SESSION, drop_cookie
from falaj.interfaces.pages import shown_offer
from falaj.interfaces.routing import Application
from falaj.interfaces.signin import asked_by_script
from falaj.interfaces.visitors import People, add_page_route, form_of, text_of, to, to_login
from falaj.kernel.errors import FalajError, NotFound, StepUpRequired
from falaj.kernel.problems import public, status_of
from falaj.trust.model import (
    FactorList,
    NewPasskeyRequest,
    PasskeyAdded,
    RecoveryCodes,
    Session,
)
from falaj.trust.websessions import Visitor

_DEEDS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "revoke-session": ("accounts.revoke_sessions", "End a session", ("session",)),
    "revoke-sessions": ("accounts.revoke_sessions", "End all sessions", ()),
    "remove-factor": ("accounts.remove_factor", "Remove a factor", ("factor",)),
}
"""By the form's address: the action, what it is called, and its fields."""


def add_account_page(app: Application, people: People) -> None:
    """Add ``/account`` and its forms to the control plane."""

    async def account(request: Request) -> Response:
        visitor = await people.visitor(request)
        return to_login(request) if visitor is None else await _account(people, request, visitor)

    async def deed(request: Request) -> Response:
        told = await form_of(request)
        name = request.path_params["deed"]
        if name not in _DEEDS:
            raise NotFound("There is no such form.", hint="Open /account.")
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        return await _done(people, request, visitor, name, told)

    async def sign_out(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        answer = to("/login")
        if visitor is not None:
            people.check_token(request, told.get("token", ""), visitor)
            await run_in_threadpool(people.sessions.end, visitor)
            there = await run_in_threadpool(
                people.logout.there, visitor.session.id, origin=people.origin_for(request)
            )
            answer = people.pages.page("onward.html", url=there) if there else answer
        drop_cookie(answer, SESSION)
        return answer

    pages = people.pages
    add_page_route(app, pages, "GET", "/account", account)
    add_page_route(app, pages, "POST", "/account/sign-out", sign_out)
    add_page_route(app, pages, "POST", "/account/deeds/{deed}", deed)
    _add_factors(app, people)


def _add_factors(app: Application, people: People) -> None:
    """Add the forms that add a factor: their answers hold secrets, so they are no actions."""

    async def authenticator(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        try:
            offer = await run_in_threadpool(people.authentication.offer_factor, visitor.caller)
        except FalajError as error:
            return await _account(people, request, visitor, error)
        return people.pages.page("factor.html", error=None, offer=shown_offer(offer))

    async def recovery_codes(request: Request) -> Response:
        told = await form_of(request)
        visitor = await people.visitor(request)
        if visitor is None:
            return to("/login")
        people.check_token(request, told.get("token", ""), visitor)
        renew = people.authentication.enrolment.new_recovery_codes
        try:
            made: RecoveryCodes = await run_in_threadpool(renew, visitor.caller)
        except FalajError as error:
            return await _account(people, request, visitor, error)
        codes = [code.get_secret_value() for code in made.codes]
        return people.pages.page("enrolled.html", name=made.account, codes=codes)

    async def passkey_options(request: Request) -> Response:
        _, visitor = await asked_by_script(request, people)
        make = people.passkeys.registration_options
        return JSONResponse(await run_in_threadpool(make, visitor.caller))

    async def passkey(request: Request) -> Response:
        told, visitor = await asked_by_script(request, people)
        label = text_of(told, "label").strip() or "passkey"
        wanted = checked(NewPasskeyRequest, {"credential": told.get("credential"), "label": label})
        added: PasskeyAdded = await run_in_threadpool(
            people.passkeys.register, visitor.caller, wanted, address=client_address(request)
        )
        codes: tuple[SecretStr, ...] = added.recovery.codes if added.recovery else ()
        shown = [code.get_secret_value() for code in codes]
        return JSONResponse({"next": "/account", "codes": shown})

    pages = people.pages
    add_page_route(app, pages, "POST", "/account/authenticator", authenticator)
    add_page_route(app, pages, "POST", "/account/recovery-codes", recovery_codes)
    add_page_route(app, pages, "POST", "/account/passkey/options", passkey_options, script=True)
    add_page_route(app, pages, "POST", "/account/passkey", passkey, script=True)


async def _account(
    people: People, request: Request, visitor: Visitor, error: FalajError | None = None
) -> Response:
    name = visitor.account.name
    sessions: tuple[Session, ...] = await people.call(visitor, "accounts.sessions", name=name)
    factors: FactorList = await people.call(visitor, "accounts.factors", name=name)
    linked = await run_in_threadpool(people.linked, visitor.account)
    fresh = visitor.caller.stepped_up(people.backend.clock.now())
    return people.form_page(
        request,
        "account.html",
        visitor=visitor,
        status=status_of(error.kind) if error else 200,
        account=visitor.account,
        here=visitor.session.id,
        sessions=sessions,
        factors=factors,
        fresh=fresh,
        again=_again(request) if fresh else None,
        linked=linked,
        linkable=[one for one in people.federation.offered() if one not in linked],
        error=error and public(error),
    )


def _again(request: Request) -> Mapping[str, Any] | None:
    """What a person who presented a factor elsewhere had begun; they press its button again."""
    name = request.query_params.get("again", "")
    if name not in _DEEDS:
        return None
    _, title, wanted = _DEEDS[name]
    fields = {field: request.query_params.get(field, "") for field in wanted}
    return {"name": name, "title": title, "fields": fields}


async def _done(
    people: People, request: Request, visitor: Visitor, name: str, told: Mapping[str, str]
) -> Response:
    """Do what a form asks, asking for a fresh factor in place if it needs one."""
    action, title, wanted = _DEEDS[name]
    fields = {field: told.get(field, "") for field in wanted}
    refused: FalajError | None = None
    try:
        if told.get("code"):
            visitor = await people.step_up(visitor, told["code"])
        arguments: dict[str, Any] = {"name": visitor.account.name, **fields}
        await people.call(visitor, action, **arguments)
        return to("/account")
    except StepUpRequired:
        pass
    except FalajError as error:
        refused = error
        if not told.get("code") or visitor.caller.stepped_up(people.backend.clock.now()):
            return await _account(people, request, visitor, error)
    return people.step_up_page(
        request,
        visitor,
        action=f"/account/deeds/{name}",
        fields=fields,
        after="/account?" + urlencode({"again": name, **fields}),
        what=title,
        error=refused,
    )
