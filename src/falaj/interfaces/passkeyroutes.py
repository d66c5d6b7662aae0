"""Exchanges with passkeys over HTTP: ``/auth/passkeys/*``.

Each comes in two steps: what to ask the authenticator, and its answer.
"""

from __future__ import annotations

from typing import Any

from pydantic import RootModel
from starlette.requests import Request

from falaj.interfaces.auth import Nothing, agent, client_address, exchange_route
from falaj.interfaces.http import Verifier, authenticated, bearer, presented
from falaj.interfaces.routing import Application
from falaj.trust.model import (
    LinkRequest,
    NewPasskeyRequest,
    PasskeyEnrolRequest,
    PasskeyLoginRequest,
    PasskeyRequest,
)
from falaj.trust.passkeysignin import PasskeySignIn

PASSKEYS = "/auth/passkeys"


class Options(RootModel[dict[str, Any]]):
    """What a browser hands to ``navigator.credentials``."""


def add_passkey_routes(app: Application, passkeys: PasskeySignIn, verifier: Verifier) -> None:
    """Add ``/auth/passkeys/*`` to the control plane."""

    def sign_in_options(request: Request, _body: Nothing) -> Any:
        return Options(passkeys.sign_in_options(address=client_address(request)))

    def sign_in(request: Request, body: PasskeyLoginRequest) -> Any:
        named = body if body.client else body.model_copy(update={"client": agent(request)})
        return passkeys.sign_in(
            named, address=client_address(request), presented=presented(request)
        )

    def step_up_options(request: Request, _body: Nothing) -> Any:
        return Options(passkeys.step_up_options(authenticated(request, verifier)))

    def step_up(request: Request, body: PasskeyRequest) -> Any:
        return passkeys.step_up_session(
            bearer(request), body, address=client_address(request), presented=presented(request)
        )

    def registration_options(request: Request, _body: Nothing) -> Any:
        return Options(passkeys.registration_options(authenticated(request, verifier)))

    def registration(request: Request, body: NewPasskeyRequest) -> Any:
        caller = authenticated(request, verifier)
        return passkeys.register(caller, body, address=client_address(request))

    def enrolment_options(request: Request, body: LinkRequest) -> Any:
        return Options(passkeys.enrolment_options(body, address=client_address(request)))

    def enrolment(request: Request, body: PasskeyEnrolRequest) -> Any:
        named = body if body.client else body.model_copy(update={"client": agent(request)})
        return passkeys.enrol(named, address=client_address(request))

    steps: dict[str, tuple[type[Any], Any]] = {
        "/sign-in-options": (Nothing, sign_in_options),
        "/sign-in": (PasskeyLoginRequest, sign_in),
        "/step-up-options": (Nothing, step_up_options),
        "/step-up": (PasskeyRequest, step_up),
        "/registration-options": (Nothing, registration_options),
        "/registration": (NewPasskeyRequest, registration),
        "/enrolment-options": (LinkRequest, enrolment_options),
        "/enrolment": (PasskeyEnrolRequest, enrolment),
    }
    for path, (model, exchange) in steps.items():
        route = exchange_route(model, exchange)
        app.answer("POST", PASSKEYS + path, route)
