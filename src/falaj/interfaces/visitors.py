"""What all pages of people share: who visits, a form that is theirs, and answers as pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from falaj.interfaces.auth import MAX_BODY_BYTES, MAX_BODY_SECONDS, client_address
from falaj.interfaces.cookies import FORM, SESSION, cookie, new_form_value, put_cookie
from falaj.interfaces.http import json_object, read_body
from falaj.interfaces.routing import Application
from falaj.interfaces.turnedaway import known, tell
from falaj.kernel.call import Caller
from falaj.kernel.door import Backend, LocalDoor
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput
from falaj.kernel.problems import public, status_of
from falaj.trust.authentication import Authentication
from falaj.trust.federation import Federation
from falaj.trust.federation_logout import FederatedLogout
from falaj.trust.federation_tables import providers_of
from falaj.trust.model import Account
from falaj.trust.passkeysignin import PasskeySignIn
from falaj.trust.websessions import Visitor, WebSessions, form_token, is_form_token

HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_WITH_SCRIPT = f"{_POLICY}; script-src 'self'; connect-src 'self'"
Handler = Callable[[Request], Awaitable[Response]]


class ForgedForm(Forbidden):
    """The form was not made for this browser, or the browser has forgotten it."""

    code = "forged-form"


class Pages:
    """Makes pages of templates; they hold no script and no style of their own.

    Args:
        version: Falaj's, shown to those who are signed in.
    """

    def __init__(self, *, version: str) -> None:
        self._version = version
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )

    def page(
        self,
        template: str,
        *,
        status: int = 200,
        script: bool = False,
        signed_in: bool = False,
        **values: Any,
    ) -> Response:
        """A page; ``script`` lets it load our own script, which passkeys need."""
        text = self._environment.get_template(template).render(
            version=self._version if signed_in else "", script=script, **values
        )
        policy = _WITH_SCRIPT if script else _POLICY
        # Under "no-referrer" browsers send our own forms with `Origin: null`, which is refused.
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
        return HTMLResponse(text, status, headers=headers)

    def problem(self, error: FalajError) -> Response:
        """A page that tells an error."""
        return self.page("problem.html", status=status_of(error.kind), error=public(error))


class People:
    """The parts that pages of people need.

    Args:
        pages: makes them.
        backend: what the door stands on.
        authentication, passkeys, sessions: how people sign in and are known again.
        federation, logout: the same through identity providers.
        origins: where browsers reach the pages; the first one is the best to show.
    """

    def __init__(
        self,
        pages: Pages,
        backend: Backend,
        authentication: Authentication,
        passkeys: PasskeySignIn,
        sessions: WebSessions,
        federation: Federation,
        logout: FederatedLogout,
        origins: Sequence[str],
    ) -> None:
        self.pages = pages
        self.backend = backend
        self.authentication = authentication
        self.passkeys = passkeys
        self.sessions = sessions
        self.federation = federation
        self.logout = logout
        self._origins = origins

    async def visitor(self, request: Request) -> Visitor | None:
        """Who is signed in with this browser."""
        secret = cookie(request, SESSION)
        if not secret:
            return None
        visitor = await run_in_threadpool(
            self.sessions.visitor, secret, address=client_address(request)
        )
        if visitor is not None:
            known(request, visitor.caller.principal.id)
        return visitor

    def form_page(
        self,
        request: Request,
        template: str,
        *,
        visitor: Visitor | None = None,
        status: int = 200,
        **values: Any,
    ) -> Response:
        """A page with forms, which carry the token of this browser."""
        kept = visitor.secret if visitor else cookie(request, FORM)
        secret = kept or new_form_value()
        response = self.pages.page(
            template,
            status=status,
            script=True,
            signed_in=visitor is not None,
            token=form_token(secret),
            **values,
        )
        if not kept:
            put_cookie(response, FORM, secret)
        return response

    def step_up_page(
        self,
        request: Request,
        visitor: Visitor,
        *,
        action: str,
        fields: Mapping[str, str],
        after: str,
        what: str = "",
        error: FalajError | None = None,
    ) -> Response:
        """A page that asks for a fresh factor, and goes on with a form.

        Args:
            action, fields: of the form.
            after: our page to come back to from an identity provider.
            what: what the form does; empty if it only presents a factor.
        """
        return self.form_page(
            request,
            "step-up.html",
            visitor=visitor,
            status=status_of(error.kind) if error else 200,
            action=action,
            fields=fields,
            after=after,
            what=what,
            passkey=visitor.account.n_passkeys > 0,
            providers=self.linked(visitor.account),
            error=error and public(error),
        )

    def linked(self, account: Account) -> list[tuple[str, str]]:
        """Name and label of the providers through which an account is signed in to."""
        if not self.federation.parties:
            return []
        with self.authentication.exchanges.database.reading() as connection:
            names = providers_of(connection, account.id)
        return [one for one in self.federation.offered() if one[0] in names]

    def account(self, caller: Caller) -> Account:
        """The account of a caller."""
        with self.authentication.exchanges.database.reading() as connection:
            return self.authentication.accounts.get(connection, caller.principal.name)

    def origin_for(self, request: Request) -> str:
        """Of our own addresses the one that this browser uses; nothing else it may say."""
        used = f"https://{request.headers.get('host', '').lower()}"
        return used if used in self._origins else self._origins[0]

    def check_token(self, request: Request, told: str, visitor: Visitor | None) -> None:
        """Raise ForgedForm unless a form was made for this browser."""
        secret = visitor.secret if visitor else cookie(request, FORM)
        if not secret or not is_form_token(told, secret):
            raise ForgedForm(
                "This form is not one that this browser was given.",
                hint="Open the page again and send the form from there.",
            )

    async def step_up(self, visitor: Visitor, code: str) -> Visitor:
        """The visitor, having presented a one-time code just now.

        Raises:
            WrongCredentials, TooManyAttempts, Forbidden: as for ``Authentication.step_up``.
        """
        step_up = self.authentication.step_up
        caller = await run_in_threadpool(step_up, visitor.caller, SecretStr(code))
        await run_in_threadpool(self.sessions.stepped_up, visitor)
        return Visitor(visitor.secret, visitor.account, visitor.session, caller)

    async def call(self, visitor: Visitor, action: str, **arguments: Any) -> Any:
        """The answer of an action to the visitor, through the door."""
        door = LocalDoor(self.backend, visitor.caller)
        found = self.backend.services.actions[action]
        return await run_in_threadpool(door.call, found, arguments)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; raises InvalidInput, LimitExceeded."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise InvalidInput(
            "This is no form.", hint="Send it from the page.", refused="body-unreadable"
        )
    body = await read_body(request, MAX_BODY_BYTES, max_seconds=MAX_BODY_SECONDS)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise InvalidInput(
            "The form cannot be read.", hint="Send it again.", refused="body-unreadable"
        ) from None


async def json_of(request: Request) -> dict[str, Any]:
    """What our own script has sent; raises InvalidInput, LimitExceeded."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise InvalidInput(
            "This is no JSON.", hint="Send it from the page.", refused="body-unreadable"
        )
    body = await read_body(request, MAX_BODY_BYTES, max_seconds=MAX_BODY_SECONDS)
    return json_object(body)


def text_of(told: dict[str, Any], name: str) -> str:
    """A text of a script's document; empty if it is none."""
    value = told.get(name, "")
    return value if isinstance(value, str) else ""


def to(page: str) -> Response:
    """An answer that leads to another of our own pages."""
    return RedirectResponse(page, status_code=303)


def to_login(request: Request) -> Response:
    """An answer that leads to the sign-in, and from there back here."""
    query = f"?{request.url.query}" if request.url.query else ""
    return to("/login?next=" + quote(request.url.path + query, safe=""))


def add_page_route(
    app: Application,
    pages: Pages,
    method: str,
    path: str,
    handler: Handler,
    *,
    script: bool = False,
) -> None:
    """Add a page (or with ``script``, what a page's script asks); errors are answers too."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except FalajError as error:
            tell(request, error)
            if not script:
                return pages.problem(error)
            shown = public(error)
            told = {"message": shown.message, "hint": shown.hint, "code": shown.code}
            return JSONResponse(told, status_code=status_of(error.kind))

    app.answer(method, path, answered)
