"""The HTTP API of the control plane: one route for each action, made from its declaration.

A route authenticates, hands the arguments to the door as they came, and translates the
answer. The door checks, decides and records; nothing here does.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.hiding import Hiding
from falaj.interfaces.openapi import document
from falaj.interfaces.routing import Application
from falaj.interfaces.safeheaders import SafeHeaders
from falaj.interfaces.texts import from_text
from falaj.interfaces.turnedaway import Recorder, known, tell
from falaj.kernel.actions import Action, is_writable
from falaj.kernel.call import Caller
from falaj.kernel.door import Backend, LocalDoor
from falaj.kernel.errors import FalajError, InvalidInput, LimitExceeded, NotFound, Unauthenticated
from falaj.kernel.problems import INTERNAL, MEDIA_TYPE, problem, public, status_of
from falaj.kernel.telemetry import logger
from falaj.trust.bindings import NOTHING, Presented, thumbprint
from falaj.trust.proofs import StaleNonce, UnprovenKey

API = "/api"
BODY_SECONDS = 300.0
"""The longest that a body may be on its way, of a caller who is known."""
REVEALED = {"reveal_once": True}
"""Serialisation context that shows one-time secrets (trust.model.OneTimeSecret)."""
DEEPEST = 64
"""So many brackets may stand inside each other in a JSON body."""
CERTIFICATE = "falaj.certificate"
"""In a request's scope: the client certificate (DER) that the connection has shown."""
PURPOSE_HEADER = "falaj-purpose"
"""What the caller asks for, percent-encoded."""
_SCHEMES = ("bearer", "dpop")
_LONGEST_HEADER = 200
SOON_SECONDS = 0.2
"""A token is looked at again behind a body that took longer."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_log = logger(__name__)


class Verifier(Protocol):
    """Turns an access token into a caller; raises Unauthenticated."""

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller: ...

    def at_hand(self, token: str) -> Caller | None:
        """The caller of a token that was verified before, if nothing has to be read; else None.

        Only for tokens that need no proof beside them. Takes microseconds, so that it may be
        asked in the event loop.
        """
        ...

    def still_good(self, token: str) -> None:
        """Return unless a token that was verified is over or revoked by now."""
        ...


def create_app(
    backend: Backend,
    verifier: Verifier,
    *,
    version: str,
    max_body_bytes: int,
    hiding: Hiding | None = None,
    recorder: Recorder | None = None,
    nonce: Callable[[], str] | None = None,
) -> Application:
    """The control plane's ASGI application.

    Args:
        backend: what the local door stands on.
        verifier: checks access tokens.
        version: Falaj's version, for the OpenAPI document.
        max_body_bytes: a larger request body is refused with 413.
        hiding: takes words of the inside out of errors; none are known without it.
        recorder: told of requests that are refused before they reach the door.
        nonce: gives the nonce for the next signed request (DPoP); None: they are not taken.
    """
    app = Application()
    actions = list(backend.services.actions.values())
    for action in actions:
        app.answer(
            action.method,
            API + action.path,
            _endpoint(action, backend, verifier, max_body_bytes),
            name=action.name,
        )

    @cache  # made when it is first asked for: it takes half a second
    def described() -> bytes:
        return json.dumps(document(actions, title="Falaj", version=version)).encode()

    async def openapi(request: Request) -> Response:
        await run_in_threadpool(authenticated, request, verifier)
        return Response(await run_in_threadpool(described), media_type="application/json")

    async def healthy(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})  # the version is told to those with a token

    async def metrics(request: Request) -> Response:
        await run_in_threadpool(authenticated, request, verifier)
        return Response(backend.telemetry.exposition(), media_type="text/plain; version=0.0.4")

    app.answer("GET", API + "/openapi.json", openapi)
    app.answer("GET", "/healthz", healthy)
    app.answer("GET", "/metrics", metrics)
    told = _teller(hiding or Hiding(()))
    for kind in (FalajError, HTTPException, Exception):
        app.add_exception_handler(kind, told)
    app.add_middleware(SafeHeaders)
    app.state.recorder = recorder
    app.state.nonce = nonce
    return app


def bearer(request: Request) -> str:
    """The access token that a request carries; raises Unauthenticated if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() not in _SCHEMES or not token:
        raise Unauthenticated(
            "This request carries no access token.",
            hint="Log in (`falaj login`) and send `Authorization: Bearer <token>`.",
        )
    return token.strip()


def presented(request: Request) -> Presented:
    """What proves, beside an access token, that its sender may use it."""
    proofs = request.headers.getlist("dpop")
    scheme = request.headers.get("authorization", "").partition(" ")[0].lower()
    certificate: bytes | None = request.scope.get(CERTIFICATE)
    url = ""
    if proofs:
        path = request.scope.get("raw_path") or request.url.path.encode()
        url = f"{request.url.scheme}://{request.url.netloc}{path.decode('latin-1')}"
    return Presented(
        certificate=thumbprint(certificate) if certificate is not None else None,
        proof=(proofs[0] if len(proofs) == 1 else "") if proofs else None,
        method=request.method,
        url=url.partition("?")[0],
        scheme=scheme,
    )


def authenticated(request: Request, verifier: Verifier) -> Caller:
    """The caller whose access token the request carries.

    Raises:
        Unauthenticated: no bearer token, or one that does not verify.
    """
    return _known_here(request, verifier.verify(bearer(request), presented(request)))


async def who_asks(request: Request, verifier: Verifier) -> Caller:
    """As ``authenticated``; goes to a thread only for a token that is new here.

    Raises:
        Unauthenticated: no bearer token, or one that does not verify.
    """
    caller = verifier.at_hand(bearer(request))
    if caller is None:
        return await run_in_threadpool(authenticated, request, verifier)
    return _known_here(request, caller)


def _known_here(request: Request, caller: Caller) -> Caller:
    """The caller with what its request says of it."""
    known(request, caller.principal.id)
    address = request.client.host if request.client else None
    return replace(
        caller,
        # A token that was given for one purpose is good for no other.
        purpose=caller.purpose or short_header(request, PURPOSE_HEADER, quoted=True),
        via="http",
        address=address,
    )


def short_header(request: Request, name: str, *, quoted: bool = False) -> str | None:
    """A header's text without blanks around it, or None if it says nothing.

    Args:
        quoted: True if it is percent-encoded, so that it may hold any letters.

    Raises:
        InvalidInput: it is too long to be kept, or not plain printable text.
    """
    written = request.headers.get(name, "")
    text = (unquote(written) if quoted else written).strip()
    if len(text) > _LONGEST_HEADER or not text.isprintable():
        raise InvalidInput(
            f"The header {name} is not a text of at most {_LONGEST_HEADER} characters.",
            refused="header-unreadable",
        )
    return text or None


def _endpoint(
    action: Action, backend: Backend, verifier: Verifier, max_body_bytes: int
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        begun = time.monotonic()
        caller = await who_asks(request, verifier)
        arguments = await _arguments(action, request, max_body_bytes)
        if time.monotonic() - begun > SOON_SECONDS:
            # Who was put out while the body was on its way must not be let through by it.
            await run_in_threadpool(verifier.still_good, bearer(request))
        key = short_header(request, "idempotency-key")

        def served() -> bytes:
            with backend.telemetry.within(request.headers.get("traceparent")):
                result = LocalDoor(backend, caller).call(action, arguments, idempotency_key=key)
            if action.binary_answer is not None:
                return bytes(result)
            # The one place where a one-time secret leaves in clear: in the answer to its asker.
            return action.result.dump_json(result, context=REVEALED)

        media_type = action.binary_answer or "application/json"
        return Response(await run_in_threadpool(served), media_type=media_type)

    return endpoint


async def _arguments(action: Action, request: Request, max_body_bytes: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if action.binary_argument is not None and not _is_json(request):
        arguments[action.binary_argument] = await read_body(request, max_body_bytes)
        arguments.update(_from_query(action, request))
    elif action.method == "POST":
        body = await read_body(request, max_body_bytes)
        arguments.update(json_object(body) if body.strip() else {})
        doubled = set(arguments) & set(request.path_params)
        if doubled:
            raise InvalidInput(
                f"The argument {sorted(doubled)[0]!r} stands in the path and in the body.",
                hint="Leave it out of the body.",
            )
    else:
        arguments.update(_from_query(action, request))
    for name, text in request.path_params.items():
        arguments[name] = from_text(action, name, text)
    return arguments


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/json")


def _from_query(action: Action, request: Request) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if len(values) > 1:
            raise InvalidInput(f"The argument {name!r} is given {len(values)} times.")
        if name == action.binary_argument:
            raise InvalidInput(f"The argument {name!r} is the body; it stands in no address.")
        arguments[name] = from_text(action, name, values[0])
    return arguments


async def read_body(
    request: Request, max_bytes: int, *, max_seconds: float = BODY_SECONDS
) -> bytes:
    """The whole body.

    Raises:
        LimitExceeded: it is larger than ``max_bytes``, or takes longer than ``max_seconds``.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(max_seconds):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise LimitExceeded(
                        f"The request body is larger than {max_bytes} bytes.",
                        hint="Send it in parts, or raise the setting http.max_body_bytes.",
                        refused="body-too-large",
                    )
                parts.append(part)
    except TimeoutError:
        raise LimitExceeded(
            f"The request body did not arrive within {max_seconds:g} seconds.",
            hint="Send it faster, or in parts.",
            refused="body-too-slow",
        ) from None
    return b"".join(parts)


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object; raises InvalidInput for anything else (NaN, depth and size included)."""
    if nested_deeper(body, DEEPEST):
        raise InvalidInput(
            f"The request body is nested deeper than {DEEPEST} levels, or not closed.",
            hint="Send flatter JSON.",
            refused="body-too-deep",
        )

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        parsed = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"The request body is not valid JSON: {error}.",
            hint="Send a JSON object.",
            refused="body-unreadable",
        ) from None
    if not isinstance(parsed, dict):
        raise InvalidInput(
            "The request body is not a JSON object.", hint="Send {…}.", refused="body-unreadable"
        )
    # Both can only be written with an escape, so most bodies need not be looked through.
    if b"\\u" in body and not _all_writable(parsed):
        raise InvalidInput(
            "The request body holds a text with a NUL or half a surrogate pair.",
            hint="Send text that is valid Unicode.",
            refused="body-unreadable",
        )
    return parsed


def nested_deeper(body: bytes, levels: int) -> bool:
    """True if brackets of a JSON text are nested deeper, or do not close each other.

    Looked at before the text is parsed, in time that grows with its length alone: texts are
    taken out, then innermost pairs, one level in each round. Which kind of bracket closes
    which is left to the parser.
    """
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", body).translate(_ONE_KIND, _NO_BRACKET)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _all_writable(root: Any) -> bool:
    """True if every text in a JSON value can be kept in a database."""
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not is_writable(item):
                return False
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return True


def _teller(hiding: Hiding) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def told(request: Request, error: Exception) -> Response:
        return _told(request, error, hiding)

    return told


def _told(request: Request, error: Exception, hiding: Hiding) -> Response:
    if isinstance(error, HTTPException):
        error = _of_http(request, error)
    if not isinstance(error, FalajError):
        _log.error("unexpected error", path=request.url.path, exc_info=error)
        error = InternalError(
            "The platform met an error that it did not expect.",
            hint="It is in the server's log; nothing was changed by this call.",
        )
    headers = {}
    if status_of(error.kind) == 401:
        headers["WWW-Authenticate"] = _challenge(error)
    tell(request, error)
    if error.retryable:
        headers["Retry-After"] = "1"
    return JSONResponse(
        hiding.document(problem(public(error), instance=request.url.path)),
        status_code=status_of(error.kind) if not isinstance(error, InternalError) else 500,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def _challenge(error: FalajError) -> str:
    """What the answer 401 asks for; an own word for signed requests (RFC 9449, 7.1 and 8)."""
    if error.code == StaleNonce.code:
        return 'DPoP error="use_dpop_nonce", algs="Ed25519 ES256"'
    if error.code == UnprovenKey.code:
        return 'DPoP error="invalid_dpop_proof", algs="Ed25519 ES256"'
    return "Bearer"


class InternalError(FalajError):
    """The platform met an error that it did not expect."""

    code = INTERNAL


class MethodNotAllowed(FalajError):
    """The route exists, but not for this method."""

    code = "method-not-allowed"


def _of_http(request: Request, error: HTTPException) -> FalajError:
    if error.status_code == 404:
        return NotFound(
            f"There is no route {request.url.path}.", hint=f"See {API}/openapi.json for all."
        )
    if error.status_code == 405:
        return MethodNotAllowed(f"The route {request.url.path} does not take {request.method}.")
    return InvalidInput(str(error.detail))
