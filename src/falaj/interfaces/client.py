"""The far door: the same calls, sent to a server over HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx

from falaj.interfaces.texts import jsonable, to_text
from falaj.kernel.actions import Action
from falaj.kernel.binary import ARROW
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.kernel.problems import MEDIA_TYPE, RemoteError, rebuilt


class RemoteDoor:
    """Sends the calls of one caller to a server.

    Args:
        client: an HTTP client with the server's base URL and trusted certificates.
        token: gives a valid access token (and renews it when it must).
        purpose: why data is asked for, sent with every call.

    Raises the error class that the server raised; ``Unavailable`` if it does not answer.
    """

    def __init__(
        self, client: httpx.Client, token: Callable[[], str], *, purpose: str | None = None
    ) -> None:
        self._client = client
        self._token = token
        self._purpose = purpose

    def call(
        self, action: Action, arguments: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Send one call and rebuild its result or its error."""
        request = self._request(action, arguments, idempotency_key)
        response = sent(self._client, request)
        if action.binary_answer is not None:
            return response.content
        return action.result.validate_json(response.content)

    def _request(
        self, action: Action, arguments: Mapping[str, Any], idempotency_key: str | None
    ) -> httpx.Request:
        body = self._body(action, arguments)
        wire = {name: jsonable(value) for name, value in arguments.items()
                if body is None or name != action.binary_argument}  # fmt: skip
        path = action.path
        for name in action.path_arguments:
            if name not in wire:
                raise InvalidInput(f"{action.name} needs the argument {name!r}.")
            text = action.segment(name, to_text(action, name, wire.pop(name)))
            keep = "/" if f"{{{name}:path}}" in path else ""
            path = path.replace(f"{{{name}:path}}", f"{{{name}}}")
            path = path.replace(f"{{{name}}}", quote(text, safe=keep))
        headers = {"Authorization": f"Bearer {self._token()}"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        if self._purpose:
            headers["Falaj-Purpose"] = quote(self._purpose, safe=" ")  # headers are ASCII
        if body is None and action.method == "POST":
            return self._client.build_request("POST", "/api" + path, json=wire, headers=headers)
        query = {
            name: to_text(action, name, value) for name, value in wire.items() if value is not None
        }
        if body is not None:
            headers["Content-Type"] = ARROW
        return self._client.build_request(
            action.method, "/api" + path, params=query, headers=headers, content=body
        )

    @staticmethod
    def _body(action: Action, arguments: Mapping[str, Any]) -> bytes | None:
        """What is sent as it is; None if all goes as JSON."""
        given = arguments.get(action.binary_argument or "")
        return bytes(given) if isinstance(given, bytes | memoryview | bytearray) else None

    def with_purpose(self, purpose: str | None) -> RemoteDoor:
        """A door for the same caller, who states a purpose."""
        return RemoteDoor(self._client, self._token, purpose=purpose or self._purpose)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def sent(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send a request; raises the FalajError that the answer describes."""
    try:
        response = client.send(request)
    except httpx.ConnectError as error:
        raise Unavailable(
            f"The server {client.base_url} cannot be reached: {error}.",
            hint="Check the address and the certificate (ca=), and that `falaj up` runs there.",
        ) from None
    except httpx.TransportError as error:
        raise Unavailable(
            f"The connection to {client.base_url} broke: {error or type(error).__name__}.",
            hint="The call may be repeated with the same idempotency key.",
        ) from None
    if response.is_success:
        return response
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        raise rebuilt(response.json())
    raise RemoteError(f"The server answered {response.status_code}.")
