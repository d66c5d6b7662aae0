"""Sessions of browsers: a random secret in a cookie, beside a session like any other.

The cookie opens pages only, never ``/api``. A form carries a token that is made of the secret,
so that another site, which cannot read the cookie, cannot fill in a form.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.call import Caller
from falaj.trust.accounts import principal_of
from falaj.trust.authentication import Authentication
from falaj.trust.factors import new_secret, secret_hash
from falaj.trust.model import Account, AccountState, Session, TokenPair
from falaj.trust.passkey_tables import web_sessions
from falaj.trust.sessions import LONGEST
from falaj.trust.tables import sessions

_EXTENDED_EVERY = timedelta(minutes=1)
VIA = "web"


@dataclass(frozen=True)
class Visitor:
    """Somebody whose browser is signed in."""

    secret: str
    """What the cookie holds."""
    account: Account
    session: Session
    caller: Caller


class WebSessions:
    """Signs browsers in and out, and knows them again.

    Args:
        authentication: whose accounts and sessions these are.
        idle: a session that is not used for so long ends.
    """

    def __init__(self, authentication: Authentication, *, idle: timedelta) -> None:
        self._authentication = authentication
        self._database = authentication.exchanges.database
        self._clock = authentication.exchanges.clock
        self._idle = idle

    def begin(self, pair: TokenPair) -> str:
        """A browser's secret for a session that a login has just begun."""
        now = self._clock.now()
        secret = new_secret("ws")
        with self._database.transaction() as connection:
            connection.execute(delete(web_sessions).where(web_sessions.c.expires_at <= now))
            connection.execute(
                insert(web_sessions).values(
                    secret_hash=secret_hash(secret),
                    session=pair.session,
                    expires_at=now + self._idle,
                )
            )
        return secret

    def visitor(self, secret: str, *, address: str | None = None) -> Visitor | None:
        """Who has this secret, or None: unknown, ended, or of an account that was shut."""
        now = self._clock.now()
        with self._database.transaction() as connection:
            row = connection.execute(
                select(web_sessions).where(web_sessions.c.secret_hash == secret_hash(secret))
            ).first()
            if row is None or now >= row.expires_at:
                return None
            session = self._authentication.sessions.get(connection, row.session)
            account = self._authentication.accounts.get(connection, session.account)
            if session.revoked_at is not None or account.state is not AccountState.ACTIVE:
                return None
            self._extended(connection, row.secret_hash, row.expires_at, session, now)
        caller = Caller(principal_of(account), mfa_at=session.mfa_at, via=VIA, address=address)
        return Visitor(secret, account, session, caller)

    def stepped_up(self, visitor: Visitor) -> None:
        """Note that the visitor has presented a second factor just now."""
        with self._database.transaction() as connection:
            self._authentication.sessions.stepped_up(
                connection, visitor.session.id, now=self._clock.now()
            )

    def end(self, visitor: Visitor) -> None:
        """Sign the browser out."""
        with self._database.transaction() as connection:
            self._authentication.ended(
                connection, visitor.session.id, visitor.caller, "browser", self._clock.now()
            )

    def _extended(
        self,
        connection: Connection,
        hashed: str,
        expires_at: datetime,
        session: Session,
        now: datetime,
    ) -> None:
        longest = min(now + self._idle, session.created_at + LONGEST)
        if longest - expires_at < _EXTENDED_EVERY:
            return
        connection.execute(
            update(web_sessions)
            .where(web_sessions.c.secret_hash == hashed)
            .values(expires_at=longest)
        )
        connection.execute(
            update(sessions)
            .where(sessions.c.id == session.id)
            .values(last_used_at=now, expires_at=longest)
        )


def form_token(secret: str) -> str:
    """What a form carries to show that it was made for the holder of a cookie's secret."""
    return hashlib.sha256(f"form\n{secret}".encode()).hexdigest()


def is_form_token(told: str, secret: str) -> bool:
    """True if a form's token was made of this secret; compared in constant time."""
    return hmac.compare_digest(told.encode(), form_token(secret).encode())
