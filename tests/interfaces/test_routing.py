"""Which handler a request reaches: the same one as with Starlette's own search."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from falaj.interfaces.routing import Application, Serve

PATHS = (
    "/", "/a", "/a/b", "/a/{one}", "/a/{one}/b", "/{one}/b", "/a/{rest:path}", "/c/{one}/{two}",
    "/{rest:path}",
)  # fmt: skip
ASKED = (
    "/", "/a", "/a/", "/a/b", "/a/x", "/a/x/b", "/z/b", "/a/x/y/z", "/c/1/2", "/c/1", "/c//2",
    "//a", "/none/at/all",
)  # fmt: skip
METHODS = ("GET", "POST", "DELETE", "HEAD")


def serving(path: str, method: str) -> Serve:
    async def serve(request: Request) -> Response:
        return JSONResponse({"route": [method, path], "parts": request.path_params})

    return serve


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(METHODS[:3]), st.sampled_from(PATHS)), unique=True))
def test_a_request_reaches_the_route_that_is_written_out_or_was_added_first(added) -> None:
    app = Application()
    for method, path in added:
        app.answer(method, path, serving(path, method))
    whole = sorted(added, key=lambda one: "{" in one[1])
    routes = [Route(path, serving(path, method), methods=[method]) for method, path in whole]
    for route, (method, _) in zip(routes, whole, strict=True):
        route.methods = {method}
    plain = Starlette(routes=routes)
    plain.router.redirect_slashes = False
    ours, theirs = TestClient(app), TestClient(plain)
    for method in METHODS:
        for path in ASKED:
            one, other = (client.request(method, "http://x" + path) for client in (ours, theirs))
            assert (one.status_code, one.content) == (other.status_code, other.content)


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = Application()
    app.answer("GET", "/a", serving("/a", "GET"))
    with TestClient(app) as made:
        yield made


def test_a_method_that_a_path_has_not_is_refused_with_those_it_has(client: TestClient) -> None:
    answer = client.post("/a")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert client.head("/a").status_code == 405


def test_no_slash_is_added_or_taken_away(client: TestClient) -> None:
    assert client.get("/a/", follow_redirects=False).status_code == 404
