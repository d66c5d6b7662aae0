"""The public keys of CI issuers, over HTTPS, through the guard of outgoing calls."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from falaj.kernel.clock import Clock
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.kernel.outgoing import Outgoing
from falaj.kernel.settings_people import OutgoingSettings

KEYS_FOR = timedelta(minutes=10)
"""So long may a key be trusted that the issuer has taken back meanwhile."""
ASKED_AGAIN_AFTER = timedelta(minutes=1)
"""Tokens with made-up key ids must not make us ask the issuer each time."""


@dataclass
class _Kept:
    keys: list[dict[str, Any]] = field(default_factory=list)
    read_at: datetime | None = None
    tried_at: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class HttpsIssuers:
    """Asks issuers for their keys; fulfils ``trust.ci.IssuerKeys``.

    Args:
        issuers: those that rules name; no other is ever asked.
        outgoing: limits of calls, and what else inside may be called. An issuer that the
            operator has named may be called wherever it is; other servers to which its
            discovery document leads may not be inside.
        clock: tells when what is kept is old.
        ca_file: the authorities of their certificates, if not public ones.

    Raises:
        InvalidInput: the file of authorities cannot be used.
    """

    def __init__(
        self,
        issuers: Iterable[str],
        outgoing: OutgoingSettings,
        *,
        clock: Clock,
        ca_file: Path | None = None,
    ) -> None:
        self._clock = clock
        self._kept = {issuer: _Kept() for issuer in issuers}
        self._outgoing = outgoing
        self._verify = _context(ca_file)

    def keys(self, issuer: str, key_id: str) -> Sequence[Mapping[str, Any]]:
        """The issuer's keys; asked for anew when old, or when none has this id.

        Raises:
            Unavailable: the issuer does not answer, or not as its standard says.
            OutgoingRefused: it leads inside.
            KeyError: no rule names it.
        """
        kept = self._kept[issuer]
        with kept.lock:
            now = self._clock.now()
            known = any(key.get("kid") == key_id for key in kept.keys)
            if _older(kept.read_at, KEYS_FOR, now) or not known:
                if _older(kept.tried_at, ASKED_AGAIN_AFTER, now):
                    kept.tried_at = now
                    kept.keys = self._fetched(issuer)
                    kept.read_at = now
                elif _older(kept.read_at, KEYS_FOR, now):
                    raise Unavailable(f"The keys of {issuer} could not be read a moment ago.")
            return list(kept.keys)

    def _fetched(self, issuer: str) -> list[dict[str, Any]]:
        document = self._json(issuer, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:
            raise Unavailable(
                f"The discovery document of {issuer} is another issuer's.",
                hint="The rule's issuer must be what the document says, to the letter.",
            )
        address = document.get("jwks_uri")
        if not isinstance(address, str):
            raise Unavailable(f"The discovery document of {issuer} names no keys.")
        found = self._json(issuer, address).get("keys")
        keys = [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
        if not keys:
            raise Unavailable(f"{issuer} publishes no keys.")
        return keys

    def _json(self, issuer: str, url: str) -> dict[str, Any]:
        answer = self._for(issuer, url).send("GET", url, headers={"Accept": "application/json"})
        if answer.status_code != 200:
            raise Unavailable(f"{url} answers {answer.status_code}.")
        try:
            document = json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{url} answers what is no JSON.") from error
        if not isinstance(document, dict):
            raise Unavailable(f"{url} answers no JSON object.")
        return document

    def _for(self, issuer: str, url: str) -> Outgoing:
        """Who sends there: to the issuer itself wherever it is, to others by the guard's rule."""
        own, other = urlsplit(issuer), urlsplit(url)
        try:
            same = (own.hostname, own.port or 443) == (other.hostname, other.port or 443)
        except ValueError as error:
            raise Unavailable(f"{url!r} is no address.") from error
        settings = self._outgoing
        if same:
            allowed = (*settings.allowed, own.hostname or "")
            settings = settings.model_copy(update={"allowed": allowed})
        return Outgoing(settings, verify=self._verify)


def _older(at: datetime | None, than: timedelta, now: datetime) -> bool:
    """True if it was never, is that long ago, or is in the future (a clock was set back)."""
    return at is None or not timedelta(0) <= now - at < than


def _context(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        raise InvalidInput(
            f"The file {ca_file} of the setting ci.ca_file cannot be used: {error}.",
            hint="It holds certificates of authorities, in PEM.",
        ) from None
