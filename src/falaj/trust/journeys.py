"""The way to an identity provider and back: what the browser keeps, and what vouches for it.

What a browser keeps (a cookie) and what comes back to it (the state, or a form's ticket) vouch
for each other: the latter is a keyed hash over the former, with an end. So nothing is stored
for somebody who only asks, and what another browser brings does not fit.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy.engine import Connection

from falaj.trust.challenges import Challenges
from falaj.trust.oidc_model import Journey

LASTS = timedelta(minutes=15)
"""So long may somebody be at the provider."""


class Journeys:
    """Seals journeys and knows them again.

    Args:
        key: 32 secret bytes that all processes share.
    """

    def __init__(self, key: bytes) -> None:
        self._challenges = Challenges(key, lasts=LASTS)

    def sealed(self, journey: Journey, *, now: datetime) -> tuple[str, str]:
        """What the browser keeps, and the ticket that vouches for it once."""
        kept = _text(journey.model_dump_json().encode())
        return kept, _text(self._challenges.new(_purpose(kept), now=now))

    def read(self, kept: str, provider: str) -> Journey | None:
        """What a browser has kept for a provider, or None; not to be believed by itself."""
        try:
            journey = Journey.model_validate_json(_bytes(kept))
        except ValidationError:
            return None
        return journey if journey.provider == provider else None

    def stands(self, ticket: str, kept: str, *, now: datetime) -> bool:
        """True if a ticket vouches for what was kept, and has not ended."""
        return self._challenges.stands(_bytes(ticket), _purpose(kept), now=now)

    def spent(
        self, connection: Connection, ticket: str, kept: str, *, now: datetime
    ) -> datetime | None:
        """When the journey began, the first time that its ticket is shown; None otherwise."""
        challenge = _bytes(ticket)
        if not self._challenges.spend(connection, challenge, _purpose(kept), now=now):
            return None
        return self._challenges.made_at(challenge)


def _purpose(kept: str) -> str:
    return f"journey {kept}"


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
