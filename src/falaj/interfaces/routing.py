"""The control plane's web application: handlers of requests, found without trying each route.

Starlette tries one route after the other. Some hundreds of routes make that dearer than what many
of them do, so routes are looked up here: by method and whole path, else among those whose path
begins with the same parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import Receive, Scope, Send

Serve = Callable[[Request], Awaitable[Response]]
Place = tuple[int, Route]
"""A route, and how many were added before it."""


class Application(Starlette):
    """An ASGI application; it answers the very paths and methods that it was given.

    No slash is added or taken away, and HEAD is answered only where it is asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.router = _Looked()

    def answer(self, method: str, path: str, serve: Serve, *, name: str | None = None) -> None:
        """Have requests with this method and path (``{part}``, ``{rest:path}``) served."""
        self.router.add_route(path, serve, methods=[method], name=name)


class _Looked(Router):
    def __init__(self) -> None:
        super().__init__(redirect_slashes=False)
        self._whole: dict[tuple[str, str], Route] = {}
        self._below: dict[tuple[str, str], list[Place]] = defaultdict(list)

    def add_route(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response] | Response],
        methods: Collection[str] | None = None,
        name: str | None = None,
        include_in_schema: bool = True,
    ) -> None:
        """As the router of Starlette, but that GET alone does not bring HEAD with it."""
        route = Route(
            path, endpoint, methods=methods, name=name, include_in_schema=include_in_schema
        )
        route.methods = set(methods or ("GET",))
        for method in sorted(route.methods):
            if "{" in path:
                begins = path[: path.index("{")].rpartition("/")[0]
                self._below[method, begins].append((len(self.routes), route))
            else:
                self._whole.setdefault((method, path), route)
        self.routes.append(route)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by its route; what has none is told so by Starlette."""
        if scope["type"] == "http":
            for route in self._candidates(scope["method"], scope["path"]):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    self._enter(scope, route, found)
                    await route.handle(scope, receive, send)
                    return
        await super().app(scope, receive, send)

    def _candidates(self, method: str, path: str) -> Iterator[Route]:
        if (route := self._whole.get((method, path))) is not None:
            yield route
        places: list[Place] = []
        begins = path
        while begins:
            begins = begins.rpartition("/")[0]
            places += self._below.get((method, begins), ())
        yield from (route for _, route in sorted(places, key=lambda place: place[0]))

    def _enter(self, scope: Scope, route: Route, found: Any) -> None:
        scope.setdefault("router", self)
        scope["route"] = route
        scope.update(found)
