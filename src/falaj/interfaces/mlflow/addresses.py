"""Addresses that a client goes to by itself, with the headers that it is to send there.

Where a store holds clear bytes such addresses are the store's own, signed; here bytes pass
through encryption, so they are this server's, and what lets a request in stands in the headers.
No address holds a secret.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.http import PURPOSE_HEADER, json_object, read_body
from falaj.interfaces.mlflow.artifacts import (
    FILES,
    SCHEME,
    ArtifactRoutes,
    Place,
    model_location,
    place_of,
    run_location,
)
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.basicauth import GIVEN
from falaj.interfaces.mlflow.routes import Raw, root_of
from falaj.kernel.errors import InvalidInput, NotFound

_OF_A_FILE = "mlflow-artifacts/presigned/"
_FOR_DOWNLOAD = "mlflow/artifacts/presigned-download-url"
_FOR_UPLOAD = "mlflow/artifacts/presigned-upload-url"
_MOST_BODY_BYTES = 2**16
_MOST_SECONDS = 604_800
"""As the client's own server has it: no store signs for longer than a week."""


class AddressRoutes:
    """The routes that tell where a file is read by ranges, or sent in one piece.

    Args:
        files: lets callers in.
    """

    def __init__(self, files: ArtifactRoutes) -> None:
        self._files = files

    def raw(self) -> tuple[Raw, ...]:
        """The routes; their answers need the address that was asked."""
        return (
            Raw("GET", _OF_A_FILE, self.of_a_file),
            Raw("POST", _FOR_DOWNLOAD, self.for_download),
            Raw("POST", _FOR_UPLOAD, self.for_upload),
        )

    async def of_a_file(self, request: Request, workspace: str, rest: str) -> Response:
        """Tell where a file is read by ranges, and how long it is."""
        asked = await self._files.asked(request, workspace)
        size = await _size(asked, place_of(rest))
        url = address(request, f"{FILES}/{rest}")
        return told({"url": url, "headers": signed_in(request), "file_size": size})

    async def for_download(self, request: Request, workspace: str, rest: str) -> Response:
        """The same, for a file of a run or logged model that the body names."""
        asked, whole = await self._named(request, workspace, rest)
        size = await _size(asked, place_of(whole))
        return told({**_at(request, whole), "file_size": size})

    async def for_upload(self, request: Request, workspace: str, rest: str) -> Response:
        """Tell where a file that the body names is sent; nothing is kept of it."""
        asked, whole = await self._named(request, workspace, rest)
        await self._files.takes(asked, place_of(whole))
        return told(_at(request, whole))

    async def _named(self, request: Request, workspace: str, rest: str) -> tuple[Asked, str]:
        """Who asks, and the path behind ``mlflow-artifacts/artifacts/`` that the body names."""
        asked = await self._files.asked(request, workspace)
        if rest:
            raise NotFound(
                "MLflow's API has no such route here.",
                hint="The guide lists the routes that Falaj answers.",
            )
        asked = await read(request, asked, _MOST_BODY_BYTES)
        seconds = asked.number("expiration", 1)
        if not 1 <= seconds <= _MOST_SECONDS:
            raise InvalidInput(
                f"An address is good for 1 to {_MOST_SECONDS} seconds, not {seconds}.",
                hint="Leave `expiration` out: it is good while the caller is signed in.",
            )
        return asked, await run_in_threadpool(_whole, asked)


def _whole(asked: Asked) -> str:
    run, model = asked.text("run_id", ""), asked.text("model_id", "")
    if bool(run) == bool(model):
        raise InvalidInput(
            "The request names a run and a logged model, or neither.",
            hint="Give one of run_id and model_id.",
        )
    if run:
        location = run_location(asked.call_here("runs.get", run=run).experiment_id, run)
    else:
        found = asked.call_here("loggedmodels.get", model=model)
        location = model_location(found.experiment_id, model)
    return f"{location.removeprefix(SCHEME)}/{asked.text('path')}"


async def _size(asked: Asked, place: Place) -> int:
    def found() -> int:
        return len(asked.call_here(f"{place.service}.fetch_artifact", **place.arguments()))

    return await run_in_threadpool(found)


def _at(request: Request, whole: str) -> dict[str, Any]:
    return {"presigned_url": address(request, f"{FILES}/{whole}"), "headers": signed_in(request)}


async def read(request: Request, asked: Asked, most_bytes: int) -> Asked:
    """The same caller asking with the JSON of the request's body."""
    body = await read_body(request, most_bytes)
    fields = await run_in_threadpool(json_object, body)
    return Asked(asked.backend, asked.caller, asked.workspace, fields)


def signed_in(request: Request) -> dict[str, str]:
    """The headers by which the caller has signed in, and said what for: given back."""
    headers = {"Authorization": request.scope.get(GIVEN) or request.headers["authorization"]}
    purpose = request.headers.get(PURPOSE_HEADER)
    return headers if purpose is None else {**headers, PURPOSE_HEADER: purpose}


def address(request: Request, route: str) -> str:
    """The whole address of a route of MLflow's API beside the one that is asked.

    The host is the one that was asked, which ``HostCheck`` has let through as one of this
    server's own.
    """
    path = quote(root_of(request.scope["path"]) + route)
    return f"{request.url.scheme}://{request.url.netloc}{path}"


def told(document: dict[str, Any]) -> Response:
    """An answer that no cache keeps."""
    return JSONResponse(document, headers={"Cache-Control": "no-store"})
