"""The tables of identities elsewhere: who is linked to which account, and what hangs on that."""

from __future__ import annotations

import hashlib

from sqlalchemy import Boolean, Column, ForeignKey, String, Table, delete, insert, select
from sqlalchemy.engine import Connection

from falaj.kernel.database import Instant, metadata

external_identities = Table(
    "external_identities",
    metadata,
    # A hash of issuer and subject: an identity is linked to one account alone.
    Column("id", String(64), primary_key=True),
    Column("provider", String(32), nullable=False),
    Column("issuer", String(300), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("account", String(64), ForeignKey("accounts.id"), nullable=False, index=True),
    # True if the account was made for it: then nothing else may sign in to the account.
    Column("made_account", Boolean, nullable=False),
    Column("linked_at", Instant, nullable=False),
    Column("last_login_at", Instant, nullable=True),
)

external_sessions = Table(
    "external_sessions",
    metadata,
    Column("session", String(64), ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("identity", String(64), nullable=False, index=True),
    # The provider's name of its session; empty if it told none.
    Column("sid", String(255), nullable=False, index=True),
)


def identity_id(issuer: str, subject: str) -> str:
    """The key of an identity. No issuer has a line break in it."""
    return hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()


def made_elsewhere(connection: Connection, account_id: str) -> bool:
    """True if an account was made for an identity elsewhere, and is opened by that alone."""
    query = select(external_identities.c.id).where(
        external_identities.c.account == account_id, external_identities.c.made_account
    )
    return connection.execute(query).first() is not None


def unlinked(connection: Connection, account_id: str, provider: str | None = None) -> int:
    """Take away what a person has linked (of one provider, or all); how many identities.

    The identity that an account was made for stays: without it that person would be a stranger,
    and be given another account.
    """
    gone = delete(external_identities).where(
        external_identities.c.account == account_id, external_identities.c.made_account.is_(False)
    )
    if provider is not None:
        gone = gone.where(external_identities.c.provider == provider)
    return connection.execute(gone).rowcount


def providers_of(connection: Connection, account_id: str) -> list[str]:
    """The names of the providers through which an account is signed in to."""
    query = select(external_identities.c.provider).where(
        external_identities.c.account == account_id
    )
    return sorted({row.provider for row in connection.execute(query)})


def carried(connection: Connection, old: str | None, new: str) -> None:
    """Let a session end with what another one hangs on, out of which it was let in."""
    row = connection.execute(
        select(external_sessions).where(external_sessions.c.session == old)
    ).first()
    if row is not None:
        connection.execute(
            insert(external_sessions).values(session=new, identity=row.identity, sid=row.sid)
        )
