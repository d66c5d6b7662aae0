"""How a request finds its route: ``/mlflow/…`` and ``/t/{workspace}/mlflow/…``.

The web framework knows two patterns; below them a table finds the route by method and path,
so that no request pays for a hundred patterns that it does not match. The client says
``/api/2.0`` or ``/api/3.0``, pages of MLflow ``/ajax-api``; all are one here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from falaj.interfaces.hiding import Hiding
from falaj.interfaces.http import (
    SOON_SECONDS,
    Verifier,
    bearer,
    json_object,
    read_body,
    who_asks,
)
from falaj.interfaces.mlflow.asked import DEFAULT_WORKSPACE, Asked
from falaj.interfaces.mlflow.errors import told
from falaj.interfaces.routing import Application
from falaj.interfaces.safeheaders import App, Receive, SafeHeaders, Scope, Send
from falaj.interfaces.transfers import flowing
from falaj.interfaces.turnedaway import tell
from falaj.kernel.door import Backend
from falaj.kernel.errors import FalajError, InvalidInput, NotFound

ROOTS = ("/mlflow", "/t/{workspace}/mlflow")
_ROOT = re.compile(r"^(?:/t/([^/]+))?/mlflow/(.*)$", re.DOTALL)
_VERSION = re.compile(r"^(?:ajax-)?api/[23]\.0/")
_BEFORE = re.compile(r"^(?:/t/[^/]+)?/mlflow/(?:(?:ajax-)?api/[23]\.0/)?")
_PART = re.compile(r"{(\w+)(:path)?}")
_WORKSPACE = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

Serve = Callable[[Asked], Mapping[str, Any] | bytes | Iterator[bytes]]
"""Answers a request with a JSON document, its text, or pieces of that; runs in a thread."""


@dataclass(frozen=True)
class Route:
    """One route: ``path`` is what stands behind ``/api/2.0/``.

    ``{name}`` takes one part of it, ``{name:path}`` any number of them, also none.
    """

    method: str
    path: str
    serve: Serve
    reads_body: bool = False
    """True if it reads the JSON of the body itself (``Asked.body``)."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the path must match."""

        def group(found: re.Match[str]) -> str:
            return f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})"

        return re.compile(_PART.sub(group, self.path), re.DOTALL)


@dataclass(frozen=True)
class Raw:
    """A route that reads the body, or writes the answer, piece by piece: files.

    ``path`` as for ``Route``, but for a ``{name}`` at its end, which takes all that is left.
    ``serve`` is called in the event loop with the request, its caller's verifier and what the
    path said; it authenticates before it reads the body.
    """

    method: str
    path: str
    serve: Callable[[Request, str, str], Any]
    """Called with the request, the workspace and the rest of the path; gives a ``Response``."""


class Mlflow:
    """The routes of MLflow's API on the control plane.

    Args:
        backend: what the door stands on.
        verifier: checks access tokens.
        hiding: takes words of the inside out of errors.
        max_body_bytes: a larger body is refused, but of routes that take files.
        routes, raw: what is answered.
        exchange: puts a token in the place of a name and a secret that a request carries.
    """

    def __init__(
        self,
        backend: Backend,
        verifier: Verifier,
        *,
        hiding: Hiding,
        max_body_bytes: int,
        routes: Sequence[Route],
        raw: Sequence[Raw] = (),
        exchange: Callable[[Request], None] = lambda _request: None,
    ) -> None:
        self._backend = backend
        self._verifier = verifier
        self._hiding = hiding
        self._max_body_bytes = max_body_bytes
        self._plain = {(one.method, one.path): one for one in routes if "{" not in one.path}
        self._patterns = [one for one in routes if "{" in one.path]
        self._raw = list(raw)
        self._exchange = exchange

    def add_to(self, app: Application) -> None:
        """Answer the two patterns.

        Ahead of the framework's own routes: to look through some hundreds of them takes longer
        than to log a metric. They stand among these as well, for whoever lists what there is.
        """
        for root in ROOTS:
            for method in _METHODS:
                app.answer(method, root + "/{rest:path}", self.answered)
        app.add_middleware(_Ahead, mlflow=self)

    async def answered(self, request: Request) -> Response:
        """Answer one request; an error is told in the client's words."""
        try:
            if request.headers.get("authorization", "")[:6].lower() == "basic ":
                await run_in_threadpool(self._exchange, request)
                request = Request(request.scope, request.receive)
            workspace = request.path_params.get("workspace", DEFAULT_WORKSPACE)
            rest = _VERSION.sub("", request.path_params["rest"], count=1)
            if not _WORKSPACE.fullmatch(workspace):
                await who_asks(request, self._verifier)  # a stranger is told nothing else
                raise InvalidInput(
                    f"{workspace[:63]!r} cannot be the name of a workspace.",
                    hint="Use small letters, digits and '-', beginning with a letter or digit.",
                )
            for one in self._raw:
                if request.method == one.method and rest.startswith(one.path):
                    answer: Response = await one.serve(request, workspace, rest[len(one.path) :])
                    return answer
            return await self._served(request, workspace, rest)
        except FalajError as error:
            return self._refused(request, error)

    async def _served(self, request: Request, workspace: str, rest: str) -> Response:
        begun = time.monotonic()
        caller = await who_asks(request, self._verifier)
        route, path = self._found(request.method, rest)
        in_address = request.method == "GET"
        body = b"" if in_address else await read_body(request, self._max_body_bytes)
        if in_address:
            fields: Mapping[str, Any] = _queried(request)
        else:
            fields = {} if route.reads_body or not body.strip() else json_object(body)
        if time.monotonic() - begun > SOON_SECONDS:
            # Who was put out while the body was on its way must not be let through by it.
            await run_in_threadpool(self._verifier.still_good, bearer(request))
        asked = Asked(self._backend, caller, workspace, fields, path, in_address, body)

        def served() -> tuple[bytes, Iterator[bytes] | None]:
            found = route.serve(asked)
            if isinstance(found, Iterator):
                return next(found), found
            return found if isinstance(found, bytes) else json.dumps(found).encode(), None

        first, others = await run_in_threadpool(served)
        if others is not None:
            return StreamingResponse(flowing(first, others), media_type="application/json")
        return Response(first, media_type="application/json")

    def _found(self, method: str, rest: str) -> tuple[Route, Mapping[str, str]]:
        plain = self._plain.get((method, rest))
        if plain is not None:
            return plain, {}
        for one in self._patterns:
            match = one.pattern.fullmatch(rest) if one.method == method else None
            if match is not None:
                return one, match.groupdict()
        raise NotFound(
            f"MLflow's API has no {method} {rest[:200]!r} here.",
            hint="The guide lists the routes that Falaj answers.",
        )

    def _refused(self, request: Request, error: FalajError) -> Response:
        document, status = told(error)
        tell(request, error)
        headers = {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if error.retryable:
            headers["Retry-After"] = "1"
        text = json.dumps(self._hiding.document(document))
        return Response(text, status, headers=headers, media_type="application/json")


class _Ahead:
    """Lets MLflow's requests past ``app``."""

    def __init__(self, app: App, *, mlflow: Mlflow) -> None:
        self._app = app
        self._mlflow = mlflow
        self._answer = SafeHeaders(self._answered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of MLflow's client, or hand it on."""
        found = _ROOT.match(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] not in _METHODS:
            await self._app(scope, receive, send)
            return
        workspace, rest = found.groups()
        scope["path_params"] = {"rest": rest} | ({"workspace": workspace} if workspace else {})
        await self._answer(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._mlflow.answered(Request(scope, receive, send))
        await answer(scope, receive, send)


def root_of(path: str) -> str:
    """What stands before the route in the path of a request: ``/t/risk/mlflow/api/2.0/``."""
    found = _BEFORE.match(path)
    return found[0] if found else "/mlflow/"


def _queried(request: Request) -> dict[str, Any]:
    return {name: request.query_params.getlist(name) for name in request.query_params}
