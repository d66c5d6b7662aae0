"""Web pages, made on the server; they work without JavaScript.

The first two: where things are, and the enrolment that a one-time link leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from falaj.interfaces.auth import MAX_BODY_BYTES, MAX_BODY_SECONDS, agent, checked, client_address
from falaj.interfaces.http import read_body
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.kernel.problems import status_of
from falaj.trust.authentication import Authentication
from falaj.trust.model import Confirmed, ConfirmRequest, EnrolRequest, FactorOffer

_HERE = Path(__file__).parent
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


def add_pages(app: FastAPI, authentication: Authentication, *, version: str, address: str) -> None:
    """Add ``/``, ``/enrol`` and the style sheet to the control plane.

    ``address`` is where the platform is reached, as its pages tell it.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined
    )

    def page(template: str, *, status: int = 200, **values: Any) -> Response:
        text = environment.get_template(template).render(version=version, **values)
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return HTMLResponse(text, status_code=status, headers=headers)

    async def home(_request: Request) -> Response:
        return page("home.html", address=address)

    async def enrol_form(request: Request) -> Response:
        return page("enrol.html", secret=request.query_params.get("secret", ""), error=None)

    async def enrol(request: Request) -> Response:
        form = await _form(request)
        try:
            if form.get("password") != form.get("again"):
                raise InvalidInput("The two passwords differ.", hint="Type them again.")
            wanted = {name: form.get(name, "") for name in ("secret", "name", "password")}
            offer: FactorOffer = await run_in_threadpool(
                authentication.enrol, checked(EnrolRequest, wanted), address=client_address(request)
            )
        except FalajError as error:
            return page(
                "enrol.html",
                secret=form.get("secret", ""),
                error=error,
                status=status_of(error.kind),
            )
        return page("factor.html", error=None, offer=_offered(offer))

    async def confirm(request: Request) -> Response:
        form = await _form(request)
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
            return page("factor.html", error=error, status=status_of(error.kind), offer=shown)
        codes = [code.get_secret_value() for code in confirmed.recovery.codes]
        return page("enrolled.html", name=confirmed.recovery.account, codes=codes)

    app.add_api_route("/", home, methods=["GET"], include_in_schema=False)
    app.add_api_route("/enrol", enrol_form, methods=["GET"], include_in_schema=False)
    app.add_api_route("/enrol", enrol, methods=["POST"], include_in_schema=False)
    app.add_api_route("/enrol/factor", confirm, methods=["POST"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


def _offered(offer: FactorOffer) -> Mapping[str, str]:
    return {
        "ticket": offer.ticket.get_secret_value(),
        "totp_secret": offer.totp_secret.get_secret_value(),
        "uri": offer.otpauth_uri.get_secret_value(),
    }


async def _form(request: Request) -> dict[str, str]:
    body = await read_body(request, MAX_BODY_BYTES, max_seconds=MAX_BODY_SECONDS)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise InvalidInput("The form cannot be read.", hint="Send it again.") from None
