"""The token exchange over HTTP (RFC 8693): ``/auth/exchange``, for jobs of CI systems."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.auth import MAX_BODY_BYTES, MAX_BODY_SECONDS, checked, client_address
from falaj.interfaces.http import REVEALED, json_object, read_body
from falaj.interfaces.routing import Application
from falaj.kernel.errors import InvalidInput
from falaj.trust.ci_exchange import CiExchange, ExchangeRequest

EXCHANGE = "/auth/exchange"
_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20
_TAKEN = frozenset(ExchangeRequest.model_fields)


def add_exchange(app: Application, exchange: CiExchange) -> None:
    """Add ``/auth/exchange`` to the control plane."""

    async def route(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES, max_seconds=MAX_BODY_SECONDS)
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        given = _form(body) if media == _FORM else json_object(body) if body.strip() else {}
        # What the standard has besides (scope, resource) asks for less than what is given.
        wanted = checked(ExchangeRequest, {k: v for k, v in given.items() if k in _TAKEN})
        answer = await run_in_threadpool(exchange.exchange, wanted, address=client_address(request))
        return JSONResponse(answer.model_dump(mode="json", context=REVEALED))

    app.answer("POST", EXCHANGE, route)


def _form(body: bytes) -> dict[str, Any]:
    """The fields of a form, each once; raises InvalidInput for anything else."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=_MOST_FIELDS,
            errors="strict",
        )
    except ValueError as error:
        raise InvalidInput("The request body is no form.") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInput("A field of the form is given twice.")
    return fields
