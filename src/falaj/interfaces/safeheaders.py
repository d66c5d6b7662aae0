"""Headers that every answer of the control plane carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ALWAYS = (
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
)
_UNLESS_SAID = (
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class SafeHeaders:
    """Adds them to what ``app`` answers; plain ASGI, for it stands before every request."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and its answer back with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _completed(scope, message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, sending)


def _completed(scope: Scope, given: Any) -> list[tuple[bytes, bytes]]:
    fixed = {name for name, _ in _ALWAYS}
    headers = [(name, value) for name, value in given if name.lower() not in fixed]
    said = {name.lower() for name, _ in headers}
    headers += _ALWAYS
    headers += [(name, value) for name, value in _UNLESS_SAID if name not in said]
    nonce = scope["app"].state.nonce if any(one[0] == b"dpop" for one in scope["headers"]) else None
    if nonce is not None:
        headers = [one for one in headers if one[0].lower() != b"dpop-nonce"]
        headers.append((b"dpop-nonce", nonce().encode()))
    return headers
