"""Sessions and their refresh tokens, which turn with each use.

A session is one family of refresh tokens. A refresh token that is presented twice has been
stolen from its holder or by its holder's thief; either way the family ends.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.errors import NotFound
from falaj.kernel.ids import new_id
from falaj.trust.bindings import Binding
from falaj.trust.epochs import revoke
from falaj.trust.factors import new_secret, secret_hash
from falaj.trust.model import Account, Session
from falaj.trust.tables import accounts, refresh_tokens, sessions

IDLE = timedelta(hours=12)
"""A session whose refresh token is not used for this long ends."""
LONGEST = timedelta(days=7)
"""A session ends this long after its login, however busy it is."""
PROGRAM = "service"
"""What a session of a program is called that proved itself by its secret or a certificate."""
REMEMBERED = timedelta(days=30)


class Reused(Exception):
    """A refresh token came a second time; its family must end. Never leaves this room."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id


class Sessions:
    """The sessions of a platform. Each method works in the caller's transaction."""

    def __init__(self, *, idle: timedelta = IDLE, longest: timedelta = LONGEST) -> None:
        self._idle = idle
        self._longest = longest

    def begin(
        self,
        connection: Connection,
        account: Account,
        *,
        now: datetime,
        client: str,
        address: str | None,
        mfa_at: datetime | None,
        lasts: timedelta | None = None,
        binding: Binding | None = None,
    ) -> Session:
        """A new session; ``lasts`` replaces the time after which idleness ends it.

        ``binding`` is the key without which its tokens are worth nothing.
        """
        connection.execute(delete(sessions).where(sessions.c.expires_at < now - REMEMBERED))
        session_id = new_id("session")
        connection.execute(
            insert(sessions).values(
                id=session_id,
                account=account.id,
                client=client[:100],
                address=address[:100] if address else None,
                created_at=now,
                last_used_at=now,
                expires_at=now + (lasts or self._idle),
                mfa_at=mfa_at,
                binding=binding.to_text() if binding is not None else None,
            )
        )
        return self.get(connection, session_id)

    def get(self, connection: Connection, session_id: str) -> Session:
        """The session of that id; raises NotFound."""
        row = connection.execute(_joined().where(sessions.c.id == session_id)).mappings().first()
        if row is None:
            raise _missing(session_id)
        return _session(row)

    def of(self, connection: Connection, account: Account, *, now: datetime) -> list[Session]:
        """The sessions of an account that are still good, latest first."""
        rows = connection.execute(
            _joined()
            .where(
                sessions.c.account == account.id,
                sessions.c.revoked_at.is_(None),
                sessions.c.expires_at > now,
            )
            .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
        ).mappings()
        return [_session(row) for row in rows]

    def new_refresh_token(self, connection: Connection, session_id: str, *, now: datetime) -> str:
        """The next refresh token of a session; only its hash is kept."""
        token = new_secret("rt")
        connection.execute(
            insert(refresh_tokens).values(
                token_hash=secret_hash(token), session=session_id, issued_at=now
            )
        )
        return token

    def binding_of(self, connection: Connection, token: str) -> Binding | None:
        """The key that must be proven with a refresh token; None if it is unknown or needs none."""
        query = (
            select(sessions.c.binding)
            .join(refresh_tokens, refresh_tokens.c.session == sessions.c.id)
            .where(refresh_tokens.c.token_hash == secret_hash(token))
        )
        return Binding.parse(connection.execute(query).scalar())

    def use_refresh_token(
        self, connection: Connection, token: str, *, now: datetime
    ) -> Session | None:
        """The session that a refresh token keeps up; the token is good no more.

        Returns None for an unknown token and for a session that has ended.

        Raises:
            Reused: the token was used before.
        """
        hashed = secret_hash(token)
        used = connection.execute(
            update(refresh_tokens)
            .where(refresh_tokens.c.token_hash == hashed, refresh_tokens.c.used_at.is_(None))
            .values(used_at=now)
        )
        session_id = connection.execute(
            select(refresh_tokens.c.session).where(refresh_tokens.c.token_hash == hashed)
        ).scalar()
        if session_id is None:
            return None
        if not used.rowcount:
            raise Reused(session_id)
        session = self.get(connection, session_id)
        if session.revoked_at is not None or now >= session.expires_at:
            return None
        expires_at = min(now + self._idle, session.created_at + self._longest)
        connection.execute(
            update(sessions)
            .where(sessions.c.id == session_id)
            .values(last_used_at=now, expires_at=expires_at)
        )
        return self.get(connection, session_id)

    def stepped_up(self, connection: Connection, session_id: str, *, now: datetime) -> Session:
        """The session, having presented a second factor just now."""
        connection.execute(
            update(sessions).where(sessions.c.id == session_id).values(mfa_at=now, last_used_at=now)
        )
        return self.get(connection, session_id)

    def end(self, connection: Connection, session_id: str, *, now: datetime, because: str) -> None:
        """Revoke a session: its refresh tokens at once, its access tokens within a second."""
        ended = connection.execute(
            update(sessions)
            .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
            .values(revoked_at=now, revoked_because=because)
        )
        if ended.rowcount:
            revoke(connection, now=now, session=session_id)

    def end_one(
        self,
        connection: Connection,
        account: Account,
        session_id: str,
        *,
        now: datetime,
        because: str,
    ) -> int:
        """Revoke a session of this account; raises NotFound for one of another account."""
        session = self.get(connection, session_id)
        if session.account != account.name:
            raise _missing(session_id)
        was_open = session.revoked_at is None and now < session.expires_at
        self.end(connection, session_id, now=now, because=because)
        return int(was_open)

    def end_bound(
        self,
        connection: Connection,
        binding: Binding,
        *,
        now: datetime,
        because: str,
        account: Account,
    ) -> int:
        """Revoke an account's open sessions that a key was proven for; how many there were."""
        query = select(sessions.c.id).where(
            sessions.c.account == account.id,
            sessions.c.binding == binding.to_text(),
            sessions.c.revoked_at.is_(None),
            sessions.c.expires_at > now,
        )
        found = [str(row.id) for row in connection.execute(query)]
        for session_id in found:
            self.end(connection, session_id, now=now, because=because)
        return len(found)

    def end_all(
        self, connection: Connection, account: Account, *, now: datetime, because: str
    ) -> int:
        """Revoke all sessions of an account; how many there were."""
        open_ones = self.of(connection, account, now=now)
        for session in open_ones:
            self.end(connection, session.id, now=now, because=because)
        return len(open_ones)


def _joined() -> Select[Any]:
    return select(sessions, accounts.c.name.label("account_name")).join(
        accounts, accounts.c.id == sessions.c.account
    )


def _missing(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id!r}.", hint="List the sessions.")


def _session(row: RowMapping) -> Session:
    return Session(
        id=row["id"],
        account=row["account_name"],
        client=row["client"],
        address=row["address"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
        mfa_at=row["mfa_at"],
        revoked_at=row["revoked_at"],
        revoked_because=row["revoked_because"],
        binding=row["binding"],
    )
