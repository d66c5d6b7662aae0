"""Credentials of a client: kept in a file of its owner's, renewed when they run out."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from falaj.interfaces.client import sent
from falaj.interfaces.devicelogin import Show, tokens_through_browser
from falaj.kernel.errors import InvalidInput, Unauthenticated

_RENEW_BEFORE = timedelta(seconds=30)


def default_file() -> Path:
    """Where ``falaj login`` keeps credentials (``FALAJ_CREDENTIALS`` chooses another file)."""
    named = os.environ.get("FALAJ_CREDENTIALS")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "falaj" / "credentials.json"


class CredentialFile:
    """The tokens of servers by address, in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, url: str) -> dict[str, Any] | None:
        """What is kept for a server, or None."""
        found = self._read().get(url)
        return found if isinstance(found, dict) else None

    def put(self, url: str, tokens: Mapping[str, Any] | None) -> None:
        """Keep (or with None, forget) the tokens of a server; the file is replaced whole."""
        known = self._read()
        if tokens is None:
            known.pop(url, None)
        else:
            known[url] = dict(tokens)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(known, out)
        Path(temporary).replace(self.path)

    def key_file(self, url: str) -> Path:
        """Where the key of a bound session with a server is kept, beside the tokens."""
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        return self.path.with_name(f"{self.path.stem}-{name}.key")

    def signing(self, url: str) -> httpx.Auth | None:
        """What signs requests to a server; None if its session is bound to no key.

        Raises:
            InvalidInput: the session is bound to a key that is not there.
        """
        kept = self.get(url)
        if kept is None or kept.get("token_type") != "DPoP":
            return None
        from falaj.interfaces.signedrequests import SignedRequests, SigningKey

        key = SigningKey.load(self.key_file(url))
        if key is None:
            raise InvalidInput(
                f"The key {self.key_file(url)} of this session is missing.",
                hint="Log in again.",
            )
        return SignedRequests(key)

    def _read(self) -> dict[str, Any]:
        try:
            parsed = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"The credentials file {self.path} cannot be read: {error}.",
                hint="Remove it and log in again.",
            ) from None
        return parsed if isinstance(parsed, dict) else {}


class RenewedTokens:
    """Gives a valid access token; renews it with the refresh token shortly before it ends.

    Args:
        client: an HTTP client of the server.
        tokens: a token pair as the server gave it.
        keep: called with each new pair, so that it can be stored.
    """

    def __init__(
        self,
        client: httpx.Client,
        tokens: Mapping[str, Any],
        keep: Callable[[Mapping[str, Any]], None] = lambda _tokens: None,
    ) -> None:
        self._client = client
        self._tokens = dict(tokens)
        self._keep = keep
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            if datetime.fromisoformat(self._tokens["expires_at"]) - _RENEW_BEFORE < _now():
                self._renew()
            return str(self._tokens["access_token"])

    def step_up(self, code: str) -> None:
        """Present a one-time code; later calls count as stepped up for five minutes."""
        token = self()
        request = self._client.build_request(
            "POST",
            "/auth/step-up",
            json={"code": code},
            headers={"Authorization": f"Bearer {token}"},
        )
        self._take(sent(self._client, request).json())

    def step_up_through_browser(self, show: Show) -> None:
        """Have the session's owner present a factor in a browser; see ``devicelogin``."""
        self._take(
            tokens_through_browser(
                self._client, show, named="a session that is there", token=self()
            )
        )

    def _renew(self) -> None:
        refresh = self._tokens.get("refresh_token")
        if not refresh:
            raise Unauthenticated(
                "The access token has expired.", hint="Log in again (`falaj login`)."
            )
        request = self._client.build_request(
            "POST", "/auth/refresh", json={"refresh_token": refresh}
        )
        self._take(sent(self._client, request).json())

    def _take(self, tokens: Mapping[str, Any]) -> None:
        self._tokens |= {name: value for name, value in tokens.items() if value is not None}
        self._keep(self._tokens)


class ServiceTokens:
    """Gives access tokens of a service account, which has no refresh tokens."""

    def __init__(self, client: httpx.Client, name: str, secret: str) -> None:
        self._client = client
        self._login = {"name": name, "secret": secret}
        self._tokens: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            tokens = self._tokens
            if tokens is None or datetime.fromisoformat(tokens["expires_at"]) - _RENEW_BEFORE < (
                _now()
            ):
                request = self._client.build_request(
                    "POST", "/auth/service-login", json=self._login
                )
                tokens = self._tokens = sent(self._client, request).json()
            return str(tokens["access_token"])


def _now() -> datetime:
    return datetime.now(UTC)
