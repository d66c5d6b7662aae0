"""Challenges for passkeys: random, short-lived, for one purpose, good once.

A challenge proves itself (a keyed hash over purpose and time), so that asking for one leaves
nothing behind: strangers may ask. Only one that is used is remembered until it has expired.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from falaj.trust.passkey_tables import used_challenges

LASTS = timedelta(minutes=5)
_NONCE, _TIME, _MAC = 16, 8, 32


class Challenges:
    """Makes and spends challenges.

    Args:
        key: 32 secret bytes that all processes of the platform share.
        lasts: so long is a challenge good.
    """

    def __init__(self, key: bytes, *, lasts: timedelta = LASTS) -> None:
        self._key = key
        self._lasts = lasts

    def new(self, purpose: str, *, now: datetime) -> bytes:
        """A challenge of 56 bytes for one purpose, which is bound into it."""
        expires = int((now + self._lasts).timestamp()).to_bytes(_TIME, "big")
        head = os.urandom(_NONCE) + expires
        return head + self._mac(head, purpose)

    def spend(
        self, connection: Connection, challenge: bytes, purpose: str, *, now: datetime
    ) -> bool:
        """True once for each challenge that was made here for this purpose and is not old."""
        if not self.stands(challenge, purpose, now=now):
            return False
        ends = self.made_at(challenge) + self._lasts
        return used_once(connection, challenge, expires_at=ends, now=now)

    def stands(self, challenge: bytes, purpose: str, *, now: datetime) -> bool:
        """True if a challenge was made here for this purpose and is not old, used or not."""
        if len(challenge) != _NONCE + _TIME + _MAC:
            return False
        head, mac = challenge[: _NONCE + _TIME], challenge[_NONCE + _TIME :]
        genuine = hmac.compare_digest(mac, self._mac(head, purpose))
        return genuine and now < self.made_at(challenge) + self._lasts

    def made_at(self, challenge: bytes) -> datetime:
        """When a challenge was made; only for one that stands, as anybody can write one."""
        seconds = int.from_bytes(challenge[_NONCE : _NONCE + _TIME], "big")
        return datetime.fromtimestamp(seconds, UTC) - self._lasts

    def _mac(self, head: bytes, purpose: str) -> bytes:
        return hmac.digest(self._key, head + purpose.encode(), "sha256")


def used_once(connection: Connection, thing: bytes, *, expires_at: datetime, now: datetime) -> bool:
    """True the first time that a thing is used before it ends; what has ended is forgotten."""
    connection.execute(delete(used_challenges).where(used_challenges.c.expires_at <= now))
    try:
        with connection.begin_nested():
            connection.execute(
                insert(used_challenges).values(
                    challenge_hash=hashlib.sha256(thing).hexdigest(), expires_at=expires_at
                )
            )
    except IntegrityError:
        return False
    return True
