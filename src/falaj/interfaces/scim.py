"""SCIM 2.0 over HTTP (RFC 7644): ``/scim/v2``. Translates; the actions of ``provisioning`` decide.

A route authenticates, turns a request into the arguments of one action, calls it through the
door, and writes the answer or the error in the words of the standard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falaj.interfaces.auth import client_address
from falaj.interfaces.hiding import Hiding
from falaj.interfaces.http import (
    SOON_SECONDS,
    Verifier,
    authenticated,
    bearer,
    json_object,
    read_body,
)
from falaj.interfaces.routing import Application
from falaj.interfaces.scim_documents import (
    Shape,
    error_document,
    listed,
    resource_types,
    schemas,
    service_provider,
)
from falaj.interfaces.turnedaway import tell
from falaj.kernel.call import Caller
from falaj.kernel.door import Backend, LocalDoor
from falaj.kernel.errors import AlreadyExists, ErrorKind, FalajError, InvalidInput, NotFound
from falaj.kernel.problems import public, status_of
from falaj.trust.provisioners import SECRET_BEGINS, Provisioners
from falaj.trust.provisioning import checked_group, checked_user, invalid, personal
from falaj.trust.provisioning_filters import found_in
from falaj.trust.provisioning_model import (
    NotProvisionable,
    ProvisionedGroup,
    ProvisionedUser,
    VersionMoved,
)
from falaj.trust.provisioning_resources import entity_tag, group_resource, user_resource

SCIM = "/scim/v2"
MEDIA = "application/scim+json"
MAX_BODY_BYTES = 8 * 1024 * 1024
"""A group's members are sent at once."""
_TAG = re.compile(r'^(?:W/)?"(\d{1,9})"$')
_NOT_DONE = 501


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of resource: its words in addresses and in names of actions."""

    plural: str
    one: str
    """In the names of actions: ``put_user``; and of the argument that takes the id."""
    resource: Callable[[Any], dict[str, Any]]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    """From a body to the arguments of create and put."""


def _user_arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    document = checked_user(body)
    known = personal(document)
    return {
        "user_name": document["userName"],
        "external_id": document.get("externalId"),
        "active": document.get("active"),
        "personal": [known] if known else [],
    }


def _group_arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    document = checked_group(body)
    return {
        "display_name": document["displayName"],
        "external_id": document.get("externalId"),
        "members": [one["value"] for one in document["members"]],
    }


USERS = Kind("Users", "user", user_resource, _user_arguments)
GROUPS = Kind("Groups", "group", group_resource, _group_arguments)


class Scim:
    """The routes of SCIM.

    Args:
        backend: what the door stands on.
        verifier: checks access tokens.
        provisioners: checks secrets of provisioners.
        origin: where the control plane is reached, for the addresses in answers.
        hiding: takes words of the inside out of errors.
    """

    def __init__(
        self,
        backend: Backend,
        verifier: Verifier,
        provisioners: Provisioners,
        *,
        origin: str,
        hiding: Hiding,
    ) -> None:
        self._hiding = hiding
        self._backend = backend
        self._verifier = verifier
        self._provisioners = provisioners
        self._base = origin + SCIM

    def add_to(self, app: Application) -> None:
        """Add ``/scim/v2`` to the control plane."""
        for kind in (USERS, GROUPS):
            whole, one = f"{SCIM}/{kind.plural}", f"{SCIM}/{kind.plural}/{{id}}"
            self._add(app, "GET", whole, self._listing(kind))
            self._add(app, "POST", whole, self._creation(kind))
            self._add(app, "GET", one, self._reading(kind))
            self._add(app, "PUT", one, self._replacement(kind))
            self._add(app, "PATCH", one, self._patching(kind))
            self._add(app, "DELETE", one, self._removal(kind))
        base = self._base
        self._add(
            app, "GET", f"{SCIM}/ServiceProviderConfig", _told(lambda: service_provider(base))
        )
        for name, documents in (("ResourceTypes", resource_types), ("Schemas", schemas)):
            self._add(app, "GET", f"{SCIM}/{name}", _all(documents, base))
            self._add(app, "GET", f"{SCIM}/{name}/{{id}}", _named(documents, base))
        for method, name in (("POST", "Bulk"), ("GET", "Me")):
            self._add(app, method, f"{SCIM}/{name}", _not_done)

    def _add(self, app: Application, method: str, path: str, serve: _Serve) -> None:
        async def route(request: Request) -> Response:
            try:
                begun = time.monotonic()
                caller = await run_in_threadpool(self._caller, request)
                body = await _body(request) if method in ("POST", "PUT", "PATCH") else {}
                if time.monotonic() - begun > SOON_SECONDS:
                    await run_in_threadpool(self._still, request)
                asked = _Asked(self._backend, caller, request, body)
                return await run_in_threadpool(serve, asked)
            except FalajError as error:
                return _refused(request, error, self._hiding)

        app.answer(method, path, route)

    def _still(self, request: Request) -> None:
        """Return unless who sends a slow body was put out meanwhile."""
        token = bearer(request)
        if token.startswith(SECRET_BEGINS):
            self._provisioners.caller(token, address=client_address(request))
        else:
            self._verifier.still_good(token)

    def _caller(self, request: Request) -> Caller:
        token = bearer(request)
        if token.startswith(SECRET_BEGINS):
            return self._provisioners.caller(token, address=client_address(request))
        return authenticated(request, self._verifier)

    def _listing(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            arguments: dict[str, Any] = {
                "filter": asked.query("filter"),
                "start": asked.number("startIndex", 1),
                "count": asked.number("count", 100),
            }
            shape = asked.shape
            if kind is GROUPS:
                arguments["members"] = shape.holds("members")
            page = asked.call(f"list_{kind.one}s", arguments)
            resources = [self._shown(kind, one, shape) for one in page.items]
            return _answer(listed(resources, total=page.total, start=page.start))

        return serve

    def _creation(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            shape = asked.shape
            made = asked.call(f"create_{kind.one}", kind.arguments(asked.body))
            return self._one(kind, made, shape, status=201)

        return serve

    def _reading(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            arguments: dict[str, Any] = {kind.one: asked.id}
            if kind is GROUPS:
                arguments["members"] = asked.shape.holds("members")
            found = asked.call(f"get_{kind.one}", arguments)
            if asked.header("if-none-match") == entity_tag(found.version):
                return Response(status_code=304, headers={"ETag": entity_tag(found.version)})
            return self._one(kind, found, asked.shape)

        return serve

    def _replacement(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            shape = asked.shape
            arguments = {
                kind.one: asked.id,
                **kind.arguments(asked.body),
                "version": asked.version,
            }
            return self._one(kind, asked.call(f"put_{kind.one}", arguments), shape)

        return serve

    def _patching(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            operations = found_in(asked.body, "Operations")
            if not isinstance(operations, list) or not all(
                isinstance(one, dict) for one in operations
            ):
                raise invalid("A PATCH has a list of Operations.", scim_type="invalidSyntax")
            shape = asked.shape
            arguments = {kind.one: asked.id, "operations": operations, "version": asked.version}
            changed = asked.call(f"patch_{kind.one}", arguments)
            if kind is GROUPS and shape.is_whole:
                # Its members may be thousands, and whoever adds one does not want them back.
                return Response(status_code=204, headers={"ETag": entity_tag(changed.version)})
            return self._one(kind, changed, shape)

        return serve

    def _removal(self, kind: Kind) -> _Serve:
        def serve(asked: _Asked) -> Response:
            asked.call(f"remove_{kind.one}", {kind.one: asked.id, "version": asked.version})
            return Response(status_code=204)

        return serve

    def _one(
        self, kind: Kind, found: ProvisionedUser | ProvisionedGroup, shape: Shape, status: int = 200
    ) -> Response:
        answer = _answer(self._shown(kind, found, shape), status=status)
        answer.headers["ETag"] = entity_tag(found.version)
        answer.headers["Location"] = self._place(kind, found.id)
        return answer

    def _shown(self, kind: Kind, found: Any, shape: Shape) -> dict[str, Any]:
        resource = kind.resource(found)
        resource["meta"]["location"] = self._place(kind, found.id)
        other = GROUPS if kind is USERS else USERS
        for one in resource.get("groups" if kind is USERS else "members", []):
            one["$ref"] = self._place(other, one["value"])
        return shape.of(resource)

    def _place(self, kind: Kind, key: str) -> str:
        return f"{self._base}/{kind.plural}/{key}"


class _Asked:
    """One request: its caller, its body, what its address and headers say."""

    def __init__(
        self, backend: Backend, caller: Caller, request: Request, body: Mapping[str, Any]
    ) -> None:
        self._backend = backend
        self._caller = caller
        self._request = request
        self.body = body

    def call(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Call an action of ``provisioning`` through the door."""
        action = self._backend.services.actions[f"provisioning.{verb}"]
        return LocalDoor(self._backend, self._caller).call(action, arguments)

    @property
    def id(self) -> str:
        """The id in the address."""
        return str(self._request.path_params["id"])

    @property
    def shape(self) -> Shape:
        """Which attributes the answer holds."""
        return Shape(self.query("attributes"), self.query("excludedAttributes"))

    @property
    def version(self) -> int | None:
        """The version that If-Match demands, or None; raises VersionMoved for a strange one."""
        text = self.header("if-match")
        if text in ("", "*"):
            return None
        found = _TAG.match(text)
        if found is None:
            raise VersionMoved("If-Match names no version.", hint='Give the ETag: W/"3".')
        return int(found.group(1))

    def header(self, name: str) -> str:
        """A header's text; empty if there is none."""
        return self._request.headers.get(name, "").strip()

    def query(self, name: str) -> str:
        """A parameter of the address; raises NotProvisionable if it is given twice."""
        values = self._request.query_params.getlist(name)
        if len(values) > 1:
            raise invalid(f"{name} is given {len(values)} times.")
        return values[0] if values else ""

    def number(self, name: str, otherwise: int) -> int:
        """A number of the address; raises NotProvisionable for another text."""
        text = self.query(name)
        if not text:
            return otherwise
        if not re.fullmatch(r"-?\d{1,9}", text):
            raise invalid(f"{name} is a whole number.")
        return int(text)


_Serve = Callable[[_Asked], Response]


async def _body(request: Request) -> dict[str, Any]:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in (MEDIA, "application/json"):
        raise invalid(f"The body is sent as {MEDIA}.", scim_type="invalidSyntax")
    try:
        return json_object(await read_body(request, MAX_BODY_BYTES))
    except InvalidInput as error:
        raise invalid(error.message, scim_type="invalidSyntax") from error


def _told(document: Callable[[], dict[str, Any]]) -> _Serve:
    return lambda _asked: _answer(document())


def _all(documents: Callable[[str], list[dict[str, Any]]], base: str) -> _Serve:
    def serve(_asked: _Asked) -> Response:
        found = documents(base)
        return _answer(listed(found, total=len(found)))

    return serve


def _named(documents: Callable[[str], list[dict[str, Any]]], base: str) -> _Serve:
    def serve(asked: _Asked) -> Response:
        for document in documents(base):
            if document["id"] == asked.id:
                return _answer(document)
        raise NotFound(f"There is no {asked.id[:100]!r}.")

    return serve


def _not_done(_asked: _Asked) -> Response:
    return _answer(error_document(_NOT_DONE, "Falaj does not do this."), status=_NOT_DONE)


def _answer(document: Mapping[str, Any], *, status: int = 200) -> Response:
    return JSONResponse(document, status_code=status, media_type=MEDIA)


def _refused(request: Request, error: FalajError, hiding: Hiding) -> Response:
    """The error in the words of the standard; one without a good token is recorded as well."""
    status = status_of(error.kind)
    if error.kind is ErrorKind.INVALID:
        status = 400
    elif isinstance(error, VersionMoved):
        status = 412
    document = error_document(status, str(public(error)), _scim_type(error))
    answer = _answer(hiding.document(document), status=status)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    tell(request, error)
    if error.retryable:
        answer.headers["Retry-After"] = "1"
    return answer


def _scim_type(error: FalajError) -> str | None:
    if isinstance(error, NotProvisionable):
        return error.scim_type
    if isinstance(error, AlreadyExists):
        return "uniqueness"
    return "invalidValue" if error.kind is ErrorKind.INVALID else None
