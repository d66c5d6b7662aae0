"""Speaks with an identity provider over HTTPS, through the guard of outgoing calls."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from falaj.kernel.clock import Clock
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.kernel.outgoing import Outgoing
from falaj.kernel.settings_people import OutgoingSettings
from falaj.trust.oidc import metadata_of
from falaj.trust.oidc_model import Metadata, Provider, ProviderUnavailable, Tokens, Untrusted

METADATA_FOR = timedelta(minutes=10)
KEYS_FOR = timedelta(minutes=10)
"""So long may a key be trusted that the provider has taken back meanwhile."""
ASKED_AGAIN_AFTER = timedelta(minutes=1)
"""Tokens with made-up key ids must not make us ask the provider each time."""
LEFT_ALONE = timedelta(seconds=5)
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


class HttpProvider:
    """One provider, asked over HTTPS.

    Args:
        provider: whom to ask, and as whom.
        outgoing: limits of calls, and what else inside may be called. The issuer itself, which
            the operator has named, may be called wherever it is; other hosts that its
            discovery document names may not be inside.
        clock: tells when what is kept is old.
        ca_file: the authorities of its certificate, if not public ones.

    Raises:
        InvalidInput: the file of authorities cannot be used.
    """

    def __init__(
        self,
        provider: Provider,
        outgoing: OutgoingSettings,
        *,
        clock: Clock,
        ca_file: Path | None = None,
    ) -> None:
        self._provider = provider
        self._clock = clock
        own = urlsplit(provider.issuer)
        self._own = (own.hostname, own.port or 443)
        named = outgoing.model_copy(update={"allowed": (*outgoing.allowed, own.hostname or "")})
        verify = _context(ca_file)
        self._inside = Outgoing(named, verify=verify)
        self._outside = Outgoing(outgoing, verify=verify)
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._metadata: tuple[Metadata, datetime] | None = None
        self._failure: tuple[ProviderUnavailable, datetime] | None = None
        self._keys: list[dict[str, Any]] = []
        self._keys_at: datetime | None = None
        self._keys_failure: tuple[ProviderUnavailable, datetime] | None = None

    def metadata(self) -> Metadata:
        """What the provider says of itself; asked for anew after ten minutes.

        When it does not answer it is left alone for some seconds: anybody may begin a sign-in,
        and each of them would wait for it.
        """
        if self._provider.fixed is not None:
            return self._provider.fixed
        with self._asking:
            now = self._clock.now()
            if self._failure is not None and timedelta(0) <= now - self._failure[1] < LEFT_ALONE:
                raise ProviderUnavailable(*self._failure[0].args, hint=self._failure[0].hint)
            kept = self._metadata
            if kept is not None and timedelta(0) <= now - kept[1] < METADATA_FOR:
                return kept[0]
            try:
                found = self._discovered()
            except ProviderUnavailable as error:
                self._failure = (error, self._clock.now())
                raise
            self._metadata, self._failure = (found, now), None
            return found

    def keys(self, key_id: str) -> list[dict[str, Any]]:
        """The public keys; an unknown id has them asked for anew, at most once a minute.

        When they cannot be had the provider is left alone for some seconds: anybody may send a
        token that names a key, and each of them would wait for it.
        """
        with self._lock:
            now = self._clock.now()
            age = None if self._keys_at is None else now - self._keys_at
            stale = age is None or not timedelta(0) <= age < KEYS_FOR
            unknown = bool(key_id) and all(key.get("kid") != key_id for key in self._keys)
            if stale or (unknown and age is not None and age >= ASKED_AGAIN_AFTER):
                failure = self._keys_failure
                if failure is not None and timedelta(0) <= now - failure[1] < LEFT_ALONE:
                    raise ProviderUnavailable(*failure[0].args, hint=failure[0].hint)
                try:
                    self._keys, self._keys_failure = self._fetched_keys(), None
                except ProviderUnavailable as error:
                    self._keys_failure = (error, self._clock.now())
                    raise
                self._keys_at = now
            return list(self._keys)

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for a code; raises Untrusted when the provider refuses the code."""
        metadata, provider = self.metadata(), self._provider
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = dict(_FORM)
        if provider.client_secret is None:
            form["client_id"] = provider.client_id
        elif "client_secret_basic" in metadata.auth_methods:
            pair = (provider.client_id, provider.client_secret.get_secret_value())
            login = ":".join(quote_plus(part) for part in pair)  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        else:
            form["client_id"] = provider.client_id
            form["client_secret"] = provider.client_secret.get_secret_value()
        told = self._json(
            "POST",
            metadata.token_endpoint,
            headers=headers,
            content=urlencode(form, quote_via=quote).encode(),
            refused="code-refused",
        )
        access_token, id_token = told.get("access_token"), told.get("id_token", "")
        if not isinstance(access_token, str) or str(told.get("token_type")).lower() != "bearer":
            raise Untrusted("no-access-token")
        if not isinstance(id_token, str) or (provider.signs and not id_token):
            raise Untrusted("no-id-token")
        return Tokens(access_token, id_token)

    def userinfo(self, access_token: str) -> dict[str, Any]:
        """The claims that an access token opens; raises Untrusted when it is refused."""
        address = self.metadata().userinfo_endpoint
        if not address:
            raise Untrusted("no-userinfo")
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        return self._json("GET", address, headers=headers, refused="userinfo-refused")

    def _discovered(self) -> Metadata:
        issuer = self._provider.issuer
        document = self._json("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            return metadata_of(document, issuer)
        except Untrusted as refused:
            raise ProviderUnavailable(
                f"The discovery document of {issuer} is not used: {refused.reason}.",
                hint="The setting `issuer` must be what the document says, to the letter.",
            ) from None

    def _fetched_keys(self) -> list[dict[str, Any]]:
        found = self._json("GET", self.metadata().jwks_uri).get("keys")
        keys = [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
        if not keys:
            raise ProviderUnavailable(f"{self._provider.issuer} publishes no keys.")
        return keys

    def _json(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        refused: str = "",
    ) -> dict[str, Any]:
        """A JSON object; ``refused`` is the reason when the provider answers 400 to 403."""
        parts = urlsplit(url)
        outgoing = (
            self._inside if (parts.hostname, parts.port or 443) == self._own else self._outside
        )
        try:
            answer = outgoing.send(method, url, headers=dict(headers or {}), content=content)
        except FalajError as error:
            raise ProviderUnavailable(
                f"{self._provider.issuer} cannot be asked: {error.message}", hint=error.hint
            ) from None
        if refused and answer.status_code in (400, 401, 403):
            raise Untrusted(refused)
        if answer.status_code != 200:
            raise ProviderUnavailable(
                f"{self._provider.issuer} answers {answer.status_code} at {parts.path}.",
                hint="Redirects are not followed; check the issuer and the client's registration.",
            )
        try:
            document = json.loads(answer.content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ProviderUnavailable(f"{self._provider.issuer} answers no JSON at {parts.path}.")
        return document


def _context(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInput(
            f"The authorities in {ca_file} cannot be used: {error.strerror or error}.",
            hint="It is a file of certificates in PEM.",
        ) from None
