"""The Open Inference Protocol (V2) over HTTP: health, metadata and inference.

A model of the protocol is an endpoint. Health is told to everybody; metadata and inference
are for who may ask the endpoint. Errors have the protocol's own shape, ``{"error": "…"}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from falaj.kernel.errors import NotFound, Unavailable
from falaj.serving.errors import MethodNotAllowed
from falaj.serving.front import Request, Told
from falaj.serving.inferencebodies import HEADER_LENGTH, checked_media, request_of
from falaj.serving.question import Question
from falaj.serving.tensors import TOLD, checked_version, versions_of

if TYPE_CHECKING:
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Parsed
    from falaj.serving.question import Predictions

V2 = b"/v2"
PLATFORM = "falaj"
EXTENSIONS = ("binary_tensor_data",)
_MODELS = "/v2/models/"
_OTHER_BYTES, _OTHER_SECONDS = 64 * 1024, 10.0
_encode = msgspec.json.Encoder().encode
_HINT = "Ask POST /v2/models/NAME/infer or GET /v2/models/NAME."


class OpenInference:
    """Answers what stands below ``/v2``; a ``Plane``.

    Args:
        predictions: answers what is asked.
    """

    prefix = V2

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    def __call__(self, request: Request) -> Told | Awaitable[Told]:
        """Answer a request; see the module."""
        path = request.path.decode("latin-1")
        if path.startswith(_MODELS):
            name, version, verb = _parts(path)
            if verb == "infer":
                return self._infer(request, name, version)
            _only_get(request)
            return self._told(request, name, version, verb)
        if path not in _PLACES:
            raise NotFound(f"There is nothing at {path[:200]!r}.", hint=_HINT)
        _only_get(request)
        if path == "/v2/health/live":
            return b'{"live":true}'
        if path == "/v2/health/ready":
            why = self._predictions.why_not_ready
            if why is not None:
                raise Unavailable(f"The worker is not ready: {why}.", hint="See its log.")
            return b'{"ready":true}'
        return self._server(request)

    def reception(self, path: bytes) -> tuple[int, float]:
        """The longest body, and the seconds in which it must arrive."""
        name = asked_model(path)
        if not name:
            return _OTHER_BYTES, _OTHER_SECONDS
        limits = self._predictions.limits_of(name)
        return limits.body_bytes, limits.deadline_seconds

    def _infer(self, request: Request, name: str, version: str) -> Awaitable[Told]:
        if request.method != b"POST":
            raise MethodNotAllowed(f"Inference of {name!r} is asked by POST.", hint="Use POST.")
        headers = request.headers

        def parse(plan: RequestPlan, caller: str) -> Parsed:
            checked_media(headers.get(b"content-type", b""), headers.get(b"content-encoding", b""))
            return request_of(
                plan,
                request.body,
                headers.get(HEADER_LENGTH),
                version=version,
                caller=caller,
                started=request.started,
            )

        return self._predictions.ask(Question.of(request, name, parse))

    async def _told(self, request: Request, name: str, version: str, verb: str) -> Told:
        plan = await self._predictions.plan_for(name, request.credentials)
        checked_version(plan, version)
        if verb == "ready":
            return _encode({"name": name, "ready": True})
        return _encode(metadata(plan))

    async def _server(self, request: Request) -> Told:
        await self._predictions.known(request.credentials)
        return _encode(server_metadata())

    async def start(self) -> None:
        """Nothing is to be begun."""

    async def stop(self) -> None:
        """Nothing is to be ended."""


_PLACES = frozenset({"/v2", "/v2/", "/v2/health/live", "/v2/health/ready"})


def server_metadata() -> dict[str, Any]:
    """What the server is and speaks."""
    return {"name": PLATFORM, "version": version_of("falaj"), "extensions": list(EXTENSIONS)}


def metadata(plan: RequestPlan) -> dict[str, Any]:
    """The tensors that an endpoint takes and gives; sides of -1 are as long as the request."""
    release = plan.release
    return {
        "name": release.endpoint,
        "versions": versions_of(plan),
        "platform": PLATFORM,
        "inputs": [
            {"name": item.name, "datatype": TOLD[item.type], "shape": [-1]}
            for item in release.fields
        ],
        "outputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in release.outputs],
    }


def error_body(document: Mapping[str, Any]) -> bytes:
    """A problem document in the protocol's shape."""
    return _encode({"error": error_text(document)})


def error_text(document: Mapping[str, Any]) -> str:
    """A problem document as one text: what is wrong, and what to do."""
    return " ".join(str(document[key]) for key in ("detail", "hint") if document.get(key))


def asked_model(path: bytes) -> str:
    """The endpoint whose inference a path asks for; empty if it asks for none."""
    text = path.decode("latin-1")
    if not text.startswith(_MODELS) or not text.endswith("/infer"):
        return ""
    try:
        return _parts(text)[0]
    except NotFound:
        return ""


def _parts(path: str) -> tuple[str, str, str]:
    """Name, version and verb of ``/v2/models/NAME[/versions/V][/VERB]``; raises NotFound."""
    parts = path[len(_MODELS) :].split("/")
    version = ""
    if len(parts) > 2 and parts[1] == "versions":
        version = unquote(parts[2])
        del parts[1:3]
    if not parts[0] or len(parts) > 2 or (len(parts) == 2 and parts[1] not in ("ready", "infer")):
        raise NotFound(f"There is nothing at {path[:200]!r}.", hint=_HINT)
    return unquote(parts[0]), version, parts[1] if len(parts) == 2 else ""


def _only_get(request: Request) -> None:
    if request.method not in (b"GET", b"HEAD"):
        raise MethodNotAllowed("This is asked by GET.", hint="Use GET.")
