"""MLflow's artifact routes: list, upload, download and remove the files of runs and models.

Where files lie, ``mlflow-artifacts:/<experiment>/<run>/artifacts/…`` says for a run and
``mlflow-artifacts:/<experiment>/models/<model>/artifacts/…`` for a logged model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from falaj.interfaces.http import SOON_SECONDS, Verifier, authenticated, bearer
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Raw, Route
from falaj.interfaces.transfers import Transfers, sent
from falaj.kernel.door import Backend, LocalDoor
from falaj.kernel.errors import FalajError, InvalidInput, NotFound
from falaj.lake.streams import Kept
from falaj.training.artifactpaths import artifact_path
from falaj.training.model import ArtifactEntry

SCHEME = "mlflow-artifacts:/"
FILES = "mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class Place:
    """Whose artifact a path of MLflow's names, and which.

    ``service`` is that whose actions are asked, ``named`` the argument for the owner.
    """

    service: str
    named: str
    owner: str
    path: str

    def arguments(self, **more: Any) -> dict[str, Any]:
        """The arguments of an action on this artifact."""
        return {self.named: self.owner, "path": self.path, **more}


def run_location(experiment: str, run: str) -> str:
    """The address of a run's artifacts, as MLflow's client keeps it."""
    return f"{SCHEME}{experiment}/{run}/artifacts"


def model_location(experiment: str, model: str) -> str:
    """The address of a logged model's artifacts, as MLflow's client keeps it."""
    return f"{SCHEME}{experiment}/models/{model}/artifacts"


def place_of(text: str, *, folder: bool = False) -> Place:
    """What a path behind ``mlflow-artifacts/artifacts/`` names.

    Args:
        folder: True if a folder may be meant, and so all artifacts of the owner.

    Raises:
        InvalidInput: the path climbs, or is none. NotFound: it is not inside an owner's folder.
    """
    path = artifact_path(text.rstrip("/") if folder else text, empty=folder)
    parts = path.split("/")
    if len(parts) >= 4 and parts[1] == "models" and parts[3] == "artifacts":
        found = Place("loggedmodels", "model", parts[2], "/".join(parts[4:]))
    elif len(parts) >= 3 and parts[2] == "artifacts":
        found = Place("runs", "run", parts[1], "/".join(parts[3:]))
    else:
        raise NotFound(
            f"{text[:200]!r} is not inside the artifacts of a run or a logged model.",
            hint="Use the artifact_uri that the run or model has.",
        )
    if not found.path and not folder:
        raise InvalidInput(f"{text[:200]!r} names a folder, not a file.", hint="Name a file in it.")
    return found


class ArtifactRoutes:
    """The routes that carry files.

    Args:
        backend: what the door stands on.
        verifier: checks access tokens.
        transfers: takes bodies in.
    """

    def __init__(self, backend: Backend, verifier: Verifier, transfers: Transfers) -> None:
        self._backend = backend
        self._verifier = verifier
        self._transfers = transfers

    def raw(self) -> tuple[Raw, ...]:
        """The routes that read a body, or write an answer, piece by piece."""
        return (
            Raw("PUT", FILES + "/", self.upload),
            Raw("GET", FILES + "/", self.download),
        )

    async def upload(self, request: Request, workspace: str, rest: str) -> Response:
        """Keep the body as an artifact."""
        begun = time.monotonic()
        asked = await self.asked(request, workspace)
        place = place_of(rest)
        await self.allowed(asked, place)
        kept = await self.received(request)
        late = time.monotonic() - begun > SOON_SECONDS
        await self.named(request, asked, place, kept, again=late)
        return Response("{}", media_type="application/json")

    async def asked(self, request: Request, workspace: str) -> Asked:
        """Who asks, before anything of the body is read."""
        caller = await run_in_threadpool(authenticated, request, self._verifier)
        return Asked(self._backend, caller, workspace, {})

    async def allowed(self, asked: Asked, place: Place) -> None:
        """Return if the caller may keep an artifact there, as things stand."""
        await run_in_threadpool(
            LocalDoor(self._backend, asked.caller).ask,
            self._backend.services.actions[_keeping(place)],
            place.arguments(content=b"", workspace=asked.workspace),
        )

    async def takes(self, asked: Asked, place: Place) -> None:
        """Return if a file that the caller sends would be kept there, as things stand.

        For what takes long before it is known to be refused: a run that has ended, say.
        """
        await self.allowed(asked, place)
        await run_in_threadpool(
            asked.call_here, f"{place.service}.check_artifact", **place.arguments()
        )

    async def received(self, request: Request) -> Kept:
        """The body as a stream that has no name yet."""
        return await self._transfers.received(request, lambda: self._still_good(request))

    async def named(
        self, request: Request, asked: Asked, place: Place, kept: Kept, *, again: bool
    ) -> None:
        """Keep a stream as an artifact; if that is refused, it is dropped.

        Args:
            again: True if its arrival took so long that the caller may have been put out.
        """
        if again:
            await self._or_dropped(kept.stream, lambda: self._still_good(request))
        await self._or_dropped(
            kept.stream,
            lambda: asked.call_here(_keeping(place), **place.arguments(content=kept)),
        )

    def _still_good(self, request: Request) -> None:
        self._verifier.still_good(bearer(request))

    async def _or_dropped(self, stream: str, work: Any) -> None:
        """Do what gives a stream its name; if it is refused, the stream goes at once.

        After another failure it may be that the name was given, so that the sweep decides.
        """
        try:
            await run_in_threadpool(work)
        except FalajError as error:
            if not error.retryable:
                await run_in_threadpool(self._transfers.drop, stream)
            raise

    async def download(self, request: Request, workspace: str, rest: str) -> Response:
        """The bytes of an artifact, or a range of them."""
        asked = await self.asked(request, workspace)
        place = place_of(rest)

        def found() -> Any:
            return asked.call_here(f"{place.service}.fetch_artifact", **place.arguments())

        return await sent(await run_in_threadpool(found), request)


def _keeping(place: Place) -> str:
    return f"{place.service}.keep_artifact"


def _listed(asked: Asked) -> Mapping[str, Any]:
    place = place_of(asked.text("path", ""), folder=True)
    entries = asked.call_here(f"{place.service}.artifacts", **place.arguments())
    skipped = len(place.path) + 1 if place.path else 0
    return {"files": [file_document(entry, entry.path[skipped:]) for entry in entries]}


def _listed_of_run(asked: Asked) -> Mapping[str, Any]:
    run = asked.text("run_id", "") or asked.text("run_uuid")
    path = artifact_path(asked.text("path", "").rstrip("/"), empty=True)
    entries = asked.call_here("runs.artifacts", run=run, path=path)
    return {"files": [file_document(entry, entry.path) for entry in entries]}


def file_document(entry: ArtifactEntry, path: str) -> dict[str, Any]:
    """A file or folder as MLflow's client reads it, under a path."""
    if entry.is_folder:
        return {"path": path, "is_dir": True}
    return {"path": path, "is_dir": False, "file_size": entry.size}


def _removed(asked: Asked) -> Mapping[str, Any]:
    place = place_of(asked.path["path"], folder=True)
    asked.call_here(f"{place.service}.remove_artifact", **place.arguments())
    return {}


ROUTES = (
    Route("GET", FILES, _listed),
    Route("DELETE", FILES + "/{path:path}", _removed),
    Route("GET", "mlflow/artifacts/list", _listed_of_run),
)
