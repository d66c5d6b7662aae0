"""Under which names the control plane answers, and from which pages it takes requests.

A browser that was led here under a foreign name (DNS rebinding), or by a foreign page, is
refused before anything looks at the request. Names come from settings; none is read from
the request and used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse

from falaj.interfaces.turnedaway import tell
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput
from falaj.kernel.problems import MEDIA_TYPE, problem, status_of
from falaj.kernel.settings import Settings
from falaj.kernel.settings_people import is_domain
from falaj.kernel.telemetry import logger

PROBES = frozenset({"/healthz"})
"""Answered under any name: probes of load balancers ask by address."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Addresses:
    """Where browsers and programs find the control plane, by the settings."""

    origins: tuple[str, ...]
    """``https://name:port``, the best to show first; never empty."""
    hosts: frozenset[str]
    """Names and addresses that a request may be for, without ports; ``*.name`` as certificates
    mean it: with one label in place of the star."""
    rp_id: str
    """The domain that passkeys belong to; empty if no name is one."""

    @classmethod
    def of(cls, settings: Settings, port: int | None = None) -> Self:
        """The addresses of a platform that listens on ``port`` (default: ``http.port``)."""
        http, named = settings.http, settings.sign_in.origins
        plain = [name.lower().removesuffix(".") for name in http.names if "*" not in name]
        at = port or http.port
        suffix = "" if at == 443 else f":{at}"
        origins = named or tuple(
            f"https://[{name}]{suffix}" if ":" in name else f"https://{name}{suffix}"
            for name in plain or [http.host]
        )
        names = [urlsplit(origin).hostname or "" for origin in origins]
        hosts = {name.lower().removesuffix(".") for name in (*http.names, http.host, *names)}
        hosts -= {"0.0.0.0", "::"}  # noqa: S104 - they are no names
        rp_id = settings.sign_in.rp_id or next((name for name in names if is_domain(name)), "")
        return cls(origins, frozenset(hosts), rp_id)

    def is_for_us(self, name: str) -> bool:
        """True if a request may be for this name or address."""
        return name in self.hosts or f"*.{name.partition('.')[2]}" in self.hosts


class HostCheck:
    """Lets a request on to ``app`` if its Host is ours and its Origin, if it has one, too.

    A request that changes nothing may come from anywhere; another one that a browser marks
    as sent by another site's page (Origin, Sec-Fetch-Site) is refused.
    """

    def __init__(self, app: App, *, addresses: Addresses) -> None:
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or hand the request on."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                _log.warning(
                    "request refused", reason=refusal.code, client=(scope.get("client") or [""])[0]
                )
                tell(Request(scope), refusal)
                await _answer(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> FalajError | None:
        if scope["path"] in PROBES:
            return None
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._addresses.is_for_us(_name_of(hosts[0])):
            return WrongHost(
                "The request is for another host name than this platform's.",
                hint="Use one of its names; settings http.names and sign_in.origins list them.",
            )
        if scope["method"] in _SAFE:
            return None
        own = (*self._addresses.origins, f"https://{hosts[0].lower()}")
        if _foreign(headers.getlist("origin"), headers.getlist("sec-fetch-site"), own):
            return ForeignOrigin(
                "The request was sent by a page of another site.",
                hint="Open the platform's own page, and list its address in sign_in.origins.",
            )
        return None


class WrongHost(InvalidInput):
    """The request names a host that is not this platform."""

    code = "wrong-host"


class ForeignOrigin(Forbidden):
    """The request was sent by a page that is not this platform's."""

    code = "foreign-origin"


def _foreign(origins: list[str], fetched: list[str], own: Iterable[str]) -> bool:
    if origins:
        return any(origin.lower() not in own for origin in origins)
    return any(site.lower() not in ("same-origin", "none") for site in fetched)


def _name_of(host: str) -> str:
    """The name of a Host header without its port; empty if it is malformed."""
    host = host.lower()
    if host.startswith("["):
        name, closed, rest = host[1:].partition("]")
        ported = rest == "" or (rest[0] == ":" and rest[1:].isdigit())
        return name if closed and ported else ""
    name, colon, port = host.partition(":")
    return name if not colon or port.isdigit() else ""


def _answer(error: FalajError) -> JSONResponse:
    status = 421 if isinstance(error, WrongHost) else status_of(error.kind)
    return JSONResponse(
        problem(error) | {"status": status},
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"},
    )
