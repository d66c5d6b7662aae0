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
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def new(self, purpose: str, *, now: datetime) -> bytes:
        """A challenge of 56 bytes for one purpose, which is bound into it."""
        expires = int((now + LASTS).timestamp()).to_bytes(_TIME, "big")
        head = os.urandom(_NONCE) + expires
        return head + self._mac(head, purpose)

    def spend(
        self, connection: Connection, challenge: bytes, purpose: str, *, now: datetime
    ) -> bool:
        """True once for each challenge that was made here for this purpose and is not old."""
        if len(challenge) != _NONCE + _TIME + _MAC:
            return False
        head, mac = challenge[: _NONCE + _TIME], challenge[_NONCE + _TIME :]
        if not hmac.compare_digest(mac, self._mac(head, purpose)):
            return False
        expires_at = datetime.fromtimestamp(int.from_bytes(head[_NONCE:], "big"), UTC)
        if now >= expires_at:
            return False
        connection.execute(delete(used_challenges).where(used_challenges.c.expires_at <= now))
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(used_challenges).values(
                        challenge_hash=hashlib.sha256(challenge).hexdigest(), expires_at=expires_at
                    )
                )
        except IntegrityError:
            return False
        return True

    def _mac(self, head: bytes, purpose: str) -> bytes:
        return hmac.digest(self._key, head + purpose.encode(), "sha256")
