"""A client's connections that show a program's certificate, with tokens bound to it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from falaj.interfaces.certificatesource import CertificateSource, Held
from falaj.interfaces.client import sent

_RENEW_BEFORE = timedelta(seconds=30)


class _Way:
    """Connections that show one certificate, and the token that is good on them."""

    def __init__(self, source: CertificateSource, control: str) -> None:
        self.held, context = source.context()
        self.transport = httpx.HTTPTransport(verify=context)
        self._client = httpx.Client(base_url=control, transport=httpx.HTTPTransport(verify=context))
        self._tokens: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """A valid access token, bound to the certificate."""
        with self._lock:
            tokens = self._tokens
            if tokens is None or _ends(tokens) - _RENEW_BEFORE < datetime.now(UTC):
                request = self._client.build_request("POST", "/auth/certificate-login", json={})
                tokens = self._tokens = sent(self._client, request).json()
            return str(tokens["access_token"])

    def close(self) -> None:
        self.transport.close()
        self._client.close()


class CertifiedTransport(httpx.BaseTransport):
    """Sends requests over connections that show the present certificate of a source.

    Each request gets the token that is bound to the certificate of its connection: after a
    renewal the old pair serves the requests that are under way, the new one those that come.

    Args:
        source: gives the certificate; it is stopped with this.
        control: the control plane's address, where tokens are got.
    """

    def __init__(self, source: CertificateSource, control: str) -> None:
        self._source = source
        self._control = control
        self._lock = threading.Lock()
        self._present: _Way | None = None
        self._before: _Way | None = None

    def token(self) -> str:
        """A valid access token; good with the present certificate alone."""
        return self._way().token()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, with the token that belongs to the connection."""
        way = self._way()
        request.headers["Authorization"] = f"Bearer {way.token()}"
        return way.transport.handle_request(request)

    def close(self) -> None:
        """Close all connections and renew no more."""
        self._source.stop()
        for way in (self._present, self._before):
            if way is not None:
                way.close()

    def _way(self) -> _Way:
        held: Held = self._source.held()
        with self._lock:
            if self._present is None or self._present.held.serial != held.serial:
                if self._before is not None:
                    self._before.close()  # it has served nobody for half of a certificate's time
                self._before, self._present = self._present, _Way(self._source, self._control)
            return self._present


def _ends(tokens: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(tokens["expires_at"])
