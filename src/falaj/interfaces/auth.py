"""The credential exchanges over HTTP: ``/auth/*``. Not actions: they make the caller.

Each route hands a small checked document to ``trust.authentication``, which counts
attempts and writes the audit record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.http import REVEALED, bearer, json_object, presented, read_body
from falaj.interfaces.routing import Application
from falaj.kernel.errors import InvalidInput
from falaj.trust.authentication import Authentication
from falaj.trust.model import (
    ConfirmRequest,
    EnrolRequest,
    LoginRequest,
    RefreshRequest,
    ServiceLoginRequest,
)

MAX_BODY_BYTES = 16 * 1024
MAX_BODY_SECONDS = 10.0
"""Nobody knows yet who sends these bodies."""
M = TypeVar("M", bound=BaseModel)


class StepUpRequest(BaseModel):
    """A one-time code for the session of the presented access token."""

    code: SecretStr = Field(max_length=64)


def add_auth_routes(app: Application, authentication: Authentication) -> None:
    """Add ``/auth/*`` to the control plane."""

    def enrol(request: Request, body: EnrolRequest) -> Any:
        return authentication.enrol(body, address=client_address(request))

    def confirm(request: Request, body: ConfirmRequest) -> Any:
        return authentication.confirm(
            body,
            address=client_address(request),
            client=agent(request),
            presented=presented(request),
        )

    def login(request: Request, body: LoginRequest) -> Any:
        return authentication.login(
            body, address=client_address(request), presented=presented(request)
        )

    def service_login(request: Request, body: ServiceLoginRequest) -> Any:
        return authentication.service_login(
            body, address=client_address(request), presented=presented(request)
        )

    def refresh(request: Request, body: RefreshRequest) -> Any:
        return authentication.refresh(
            body, address=client_address(request), presented=presented(request)
        )

    def step_up(request: Request, body: StepUpRequest) -> Any:
        return authentication.step_up_session(
            bearer(request),
            body.code,
            address=client_address(request),
            presented=presented(request),
        )

    def logout(request: Request, _body: Nothing) -> Any:
        authentication.logout(bearer(request), presented=presented(request))
        return Nothing()

    exchanges: dict[str, tuple[type[BaseModel], Callable[[Request, Any], Any]]] = {
        "/auth/enrol": (EnrolRequest, enrol),
        "/auth/confirm": (ConfirmRequest, confirm),
        "/auth/login": (LoginRequest, login),
        "/auth/service-login": (ServiceLoginRequest, service_login),
        "/auth/refresh": (RefreshRequest, refresh),
        "/auth/step-up": (StepUpRequest, step_up),
        "/auth/logout": (Nothing, logout),
    }
    for path, (model, exchange) in exchanges.items():
        route = exchange_route(model, exchange)
        app.answer("POST", path, route)


class Nothing(BaseModel):
    """An empty document."""


def exchange_route(
    model: type[BaseModel], exchange: Callable[[Request, Any], Any]
) -> Callable[[Request], Awaitable[Response]]:
    """A route that takes a small JSON document and answers with another one.

    Args:
        model: what the document must be.
        exchange: takes the request and the document to a pydantic model, on a thread.
    """

    async def route(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES, max_seconds=MAX_BODY_SECONDS)
        given = checked(model, json_object(body) if body.strip() else {})
        result: BaseModel = await run_in_threadpool(exchange, request, given)
        return JSONResponse(result.model_dump(mode="json", context=REVEALED))

    return route


def checked(model: type[M], given: dict[str, Any]) -> M:
    """The document as its model; raises InvalidInput that names fields, never their values."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)[:5]
        )
        raise InvalidInput(f"The request is not complete: {told}.") from None


def client_address(request: Request) -> str | None:
    """The network address that a request comes from."""
    return request.client.host if request.client else None


def agent(request: Request) -> str:
    """What the client calls itself, cut to size."""
    return request.headers.get("user-agent", "")[:100]
