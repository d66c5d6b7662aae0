"""Web pages, made on the server; they work without JavaScript, but for passkeys.

Here the first two: where things are, and the enrolment that a one-time link leads to. Those of
people who are signed in stand in ``signin``, ``accountpage`` and ``devicepage``.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from falaj.interfaces.auth import agent, checked, client_address
from falaj.interfaces.routing import Application
from falaj.interfaces.visitors import HERE, Pages, add_page_route, form_of
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.kernel.problems import public, status_of
from falaj.trust.authentication import Authentication
from falaj.trust.model import Confirmed, ConfirmRequest, EnrolRequest, FactorOffer


def add_pages(
    app: Application, pages: Pages, authentication: Authentication, *, address: str
) -> None:
    """Add ``/``, ``/enrol`` and what pages load to the control plane.

    ``address`` is where the platform is reached, as its pages tell it.
    """

    async def home(_request: Request) -> Response:
        return pages.page("home.html", address=address)

    async def enrol_form(request: Request) -> Response:
        secret = request.query_params.get("secret", "")
        return pages.page("enrol.html", script=True, secret=secret, error=None)

    async def enrol(request: Request) -> Response:
        form = await form_of(request)
        try:
            if form.get("password") != form.get("again"):
                raise InvalidInput("The two passwords differ.", hint="Type them again.")
            wanted = {name: form.get(name, "") for name in ("secret", "name", "password")}
            offer: FactorOffer = await run_in_threadpool(
                authentication.enrol, checked(EnrolRequest, wanted), address=client_address(request)
            )
        except FalajError as error:
            return pages.page(
                "enrol.html",
                script=True,
                secret=form.get("secret", ""),
                error=public(error),
                status=status_of(error.kind),
            )
        return pages.page("factor.html", error=None, offer=shown_offer(offer))

    async def confirm(request: Request) -> Response:
        form = await form_of(request)
        wanted = {name: form.get(name, "") for name in ("ticket", "code")}
        try:
            confirmed: Confirmed = await run_in_threadpool(
                authentication.confirm,
                checked(ConfirmRequest, wanted),
                address=client_address(request),
                client=agent(request),
            )
        except FalajError as error:
            shown = {name: form.get(name, "") for name in ("ticket", "totp_secret", "uri")}
            if not shown["uri"].startswith("otpauth://"):
                shown["uri"] = ""  # the page makes a link of it
            status = status_of(error.kind)
            return pages.page("factor.html", error=public(error), status=status, offer=shown)
        codes = [code.get_secret_value() for code in confirmed.recovery.codes]
        return pages.page("enrolled.html", name=confirmed.recovery.account, codes=codes)

    add_page_route(app, pages, "GET", "/", home)
    add_page_route(app, pages, "GET", "/enrol", enrol_form)
    add_page_route(app, pages, "POST", "/enrol", enrol)
    add_page_route(app, pages, "POST", "/enrol/factor", confirm)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


def shown_offer(offer: FactorOffer) -> Mapping[str, str]:
    """The secrets of an offered authenticator, for the page ``factor.html``."""
    return {
        "ticket": offer.ticket.get_secret_value(),
        "totp_secret": offer.totp_secret.get_secret_value(),
        "uri": offer.otpauth_uri.get_secret_value(),
    }
