"""The control plane's web application: handlers of requests, found without trying each route.

Starlette tries one route after the other. Some hundreds of routes make that dearer than what many
of them do, so routes are looked up here: by method and whole path, else among those whose path
begins with the same parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import cached_property

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

Serve = Callable[[Request], Awaitable[Response]]


class Way(BaseRoute):
    """A route whose pattern is compiled when a request may match it: of some hundreds, few are.

    ``methods`` are the very ones that it was added with.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response] | Response],
        methods: frozenset[str],
        name: str | None,
    ) -> None:
        self.path, self.methods = path, methods
        self._endpoint, self._name = endpoint, name

    @cached_property
    def route(self) -> Route:
        """The route of Starlette's."""
        route = Route(self.path, self._endpoint, name=self._name)
        route.methods = set(self.methods)
        return route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As a route of Starlette's."""
        return self.route.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As a route of Starlette's."""
        await self.route.handle(scope, receive, send)


Place = tuple[int, Way]
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
        self._whole: dict[tuple[str, str], Way] = {}
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
        way = Way(path, endpoint, frozenset(methods or ("GET",)), name)
        for method in way.methods:
            if "{" in path:
                begins = path[: path.index("{")].rpartition("/")[0]
                self._below[method, begins].append((len(self.routes), way))
            else:
                self._whole.setdefault((method, path), way)
        self.routes.append(way)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by its route; what has none is told so by Starlette."""
        if scope["type"] == "http":
            for way in self._candidates(scope["method"], scope["path"]):
                match, found = way.matches(scope)
                if match is Match.FULL:
                    scope.setdefault("router", self)
                    scope["route"] = way.route
                    scope.update(found)
                    await way.handle(scope, receive, send)
                    return
        await super().app(scope, receive, send)

    def _candidates(self, method: str, path: str) -> Iterator[Way]:
        if (way := self._whole.get((method, path))) is not None:
            yield way
        places: list[Place] = []
        begins = path
        while begins:
            begins = begins.rpartition("/")[0]
            places += self._below.get((method, begins), ())
        yield from (way for _, way in sorted(places, key=lambda place: place[0]))
