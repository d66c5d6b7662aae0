"""The connection to an OpenBao or Vault server: TLS, the platform's own login, its errors."""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import ComponentRefused, InvalidInput, Unavailable

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PATH = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_SILENT_SECONDS = 1.0
"""So long is nothing asked after the server did not answer, so that callers fail at once."""
_ATTEMPTS = 2


@dataclass(frozen=True)
class BaoPlace:
    """Where the transit engine is, and what opens it."""

    address: str
    mount: str
    prefix: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    role_id: str = ""
    secret_id: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    private_key_file: Path | None = None
    timeout_seconds: float = 5.0

    @classmethod
    def of(cls, url: str, **more: Any) -> BaoPlace:
        """The place that ``openbao://host:8200/transit?prefix=falaj&namespace=…`` names.

        Raises:
            InvalidInput: it is no such URL, or nothing is given that opens it.
        """
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        prefix, mount = options.get("prefix", "falaj"), parts.path.strip("/") or "transit"
        try:
            port = parts.port or 8200
        except ValueError:
            port = 0
        if (
            parts.scheme not in ("openbao", "vault")
            or not parts.hostname
            or not port
            or "@" in parts.netloc
            or not options.keys() <= {"prefix", "namespace"}
            or not _PREFIX.fullmatch(prefix)
            or not _PATH.fullmatch(mount)
        ):
            raise InvalidInput(
                f"The setting keys = {url!r} names no key service.",
                hint="Use `openbao://host:8200/transit?prefix=falaj`; the prefix has small "
                "letters, digits and underscores, and secrets stand elsewhere.",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        namespace = options.get("namespace", "")
        found = cls(f"https://{host}:{port}", mount, prefix, namespace, **more)
        if not (found.token or found.token_file or (found.role_id and found.secret_id)):
            raise InvalidInput(
                "Nothing is set that lets the platform in at the key service.",
                hint="Set FALAJ_KEY_SERVICE__TOKEN, or key_service.token_file, or "
                "key_service.role_id and FALAJ_KEY_SERVICE__SECRET_ID.",
            )
        return found


class Refused(Exception):
    """The server says no to one question; not yet an error of the platform's callers."""

    def __init__(self, status: int, errors: str) -> None:
        super().__init__(f"{status}: {errors}")
        self.status = status
        self.errors = errors


class BaoConnection:
    """Asks a server, over TLS 1.3, logged in. Safe from many threads and after a fork.

    A token that can be renewed is renewed when half of its time is over; one that is
    refused is read or asked for again, once.
    """

    def __init__(self, place: BaoPlace, *, now: Callable[[], float] = monotonic) -> None:
        self.place = place
        self._now = now
        self._lock = threading.RLock()
        self._pid = 0
        self._client: httpx.Client | None = None
        self._token = ""
        self._renew_at: float | None = None
        self._silent_until = 0.0

    def __repr__(self) -> str:
        return f"BaoConnection({self.place.address})"

    def ask(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The ``data`` of an answer.

        Args:
            method: GET, POST, LIST.
            path: below the transit engine.
            document: the body.

        Raises:
            Refused: the server says 400 or 404, for the caller to tell what it means.
            Unavailable: it does not answer, or is sealed.
            ComponentRefused: it does not let the platform in.
        """
        where = f"{self.place.mount}/{path}"
        token = self._ready()
        try:
            return self._asked(method, where, document, token)
        except Refused as refused:
            if refused.status != 403:
                raise
        try:
            return self._asked(method, where, document, self._login(token))
        except Refused as refused:
            if refused.status != 403:
                raise
            raise ComponentRefused(
                f"The key service {self.place.address} refuses the platform's token.",
                hint="It was revoked, has expired, or its policy lacks a path: see docs/guide/"
                "keys.md, give the platform a new one and check with `falaj doctor`.",
            ) from None

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None

    # The login.

    def _ready(self) -> str:
        with self._lock:
            if not self._token:
                return self._login("")
            if self._renew_at is not None and self._now() >= self._renew_at:
                self._renewed()
            return self._token

    def _login(self, refused: str) -> str:
        """A token that was not the refused one, if there is any."""
        with self._lock:
            if self._token and self._token != refused:
                return self._token  # another thread has just logged in
            place = self.place
            if place.role_id:
                body = {"role_id": place.role_id, "secret_id": place.secret_id}
                try:
                    answer = self._whole("POST", "auth/approle/login", body, "")
                except Refused as error:
                    raise ComponentRefused(
                        f"The key service {place.address} refuses the platform's AppRole.",
                        hint="Check key_service.role_id and FALAJ_KEY_SERVICE__SECRET_ID.",
                    ) from error
                self._took(answer["auth"])
                return self._token
            self._token = place.token or _token_in(place.token_file)
            self._renew_at = self._now()  # what is left of its time is told when it is renewed
            return self._token

    def _renewed(self) -> None:
        try:
            held = self._whole("GET", "auth/token/lookup-self", None, self._token)["data"]
            if not held.get("renewable") or not held.get("ttl"):
                left = float(held.get("ttl") or 0)
                self._renew_at = self._now() + left / 2 if left else None
                return
            self._took(self._whole("POST", "auth/token/renew-self", {}, self._token)["auth"])
        except Refused:
            # It may not renew itself: it serves as long as it serves, and then says so.
            self._renew_at = None

    def _took(self, auth: Mapping[str, Any]) -> None:
        self._token = str(auth["client_token"])
        seconds = float(auth.get("lease_duration") or 0)
        self._renew_at = self._now() + seconds / 2 if seconds else None

    # The wire.

    def _asked(
        self, method: str, path: str, document: Mapping[str, Any] | None, token: str
    ) -> dict[str, Any]:
        return dict(self._whole(method, path, document, token).get("data") or {})

    def _whole(
        self, method: str, path: str, document: Mapping[str, Any] | None, token: str
    ) -> dict[str, Any]:
        answer = self._answer(method, path, document, token)
        if answer.status_code in (200, 204):
            found: dict[str, Any] = answer.json() if answer.content else {}
            return found
        errors = _errors(answer)
        if answer.status_code in (400, 403, 404, 405):
            raise Refused(answer.status_code, errors)
        sealed = answer.status_code == 503 and "sealed" in errors
        raise Unavailable(
            f"The key service {self.place.address} is sealed."
            if sealed
            else f"The key service {self.place.address} answers {answer.status_code}.",
            hint="Unseal it (`bao operator unseal`)." if sealed else "See its log; try again.",
        )

    def _answer(
        self, method: str, path: str, document: Mapping[str, Any] | None, token: str
    ) -> httpx.Response:
        if self._now() < self._silent_until:
            raise self._silent("it did not a moment ago")
        headers = {"X-Vault-Token": token} if token else {}
        if self.place.namespace:
            headers["X-Vault-Namespace"] = self.place.namespace
        for attempt in range(_ATTEMPTS):
            try:
                return self._connected().request(
                    method, f"/v1/{path}", json=document, headers=headers
                )
            except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                # A kept connection that the server has closed meanwhile; every question
                # may be asked twice.
                if attempt + 1 == _ATTEMPTS:
                    self._silent_until = self._now() + _SILENT_SECONDS
                    raise self._silent(type(error).__name__) from None
            except httpx.HTTPError as error:
                self._silent_until = self._now() + _SILENT_SECONDS
                raise self._silent(str(error) or type(error).__name__) from None
        raise AssertionError("unreachable")

    def _silent(self, why: str) -> Unavailable:
        return Unavailable(
            f"The key service {self.place.address} does not answer: {why[:200]}.",
            hint="Check the setting keys, key_service.ca_file and the network; it is asked again.",
        )

    def _connected(self) -> httpx.Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():  # never across a fork
                self._client = httpx.Client(
                    base_url=self.place.address,
                    verify=self._tls(),
                    timeout=self.place.timeout_seconds,
                    trust_env=False,
                    follow_redirects=False,
                )
                self._pid = os.getpid()
            return self._client

    def _tls(self) -> ssl.SSLContext:
        place = self.place
        try:
            context = ssl.create_default_context(cafile=place.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            if place.certificate_file is not None:
                context.load_cert_chain(place.certificate_file, place.private_key_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"The certificates for the key service cannot be read: {error}.",
                hint="Check key_service.ca_file, certificate_file and private_key_file.",
            ) from None
        return context


def _token_in(path: Path | None) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip() if path is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ComponentRefused(
            f"The token for the key service cannot be read: {error}.",
            hint="Check key_service.token_file, its owner and mode.",
        ) from None
    if not text:
        raise ComponentRefused(
            "The file with the token for the key service is empty.",
            hint="Write a token into key_service.token_file.",
        )
    return text


def _errors(answer: httpx.Response) -> str:
    try:
        found = answer.json()["errors"]
        return "; ".join(str(error) for error in found)
    except (ValueError, KeyError, TypeError):
        return ""
