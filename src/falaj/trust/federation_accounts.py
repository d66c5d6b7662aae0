"""Whose account an identity elsewhere opens, and with which roles.

An identity is known by issuer and subject, and by nothing else: no name and no e-mail address
links it to an account, since whoever runs a provider can give those to anybody.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.call import PrincipalKind
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.trust.accounts import RESERVED, Accounts
from falaj.trust.federation_tables import external_identities, external_sessions, identity_id
from falaj.trust.model import Account, AccountState, Role
from falaj.trust.oidc_claims import account_name
from falaj.trust.oidc_model import Identity, Provider, Untrusted
from falaj.trust.provisioned import account_of_external, external_id_of, provisioner_of


class LinkedAccounts:
    """The accounts behind identities. Each method works in the caller's transaction."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def found(self, connection: Connection, identity: Identity) -> Account | None:
        """The account that an identity is linked to, whatever its state; None for a stranger."""
        row = connection.execute(
            select(external_identities.c.account).where(
                external_identities.c.id == identity_id(identity.issuer, identity.subject)
            )
        ).first()
        known = None if row is None else self._accounts.by_id(connection, row.account)
        return None if known is None else self._accounts.get(connection, known["name"])

    def opened(
        self, connection: Connection, provider: Provider, identity: Identity, *, now: datetime
    ) -> tuple[Account, dict[str, object]]:
        """The account that an identity signs in to, with its roles of now; and what changed.

        Raises:
            Untrusted: nobody is known by it, the account is not active, or its roles do not
                go together.
        """
        account = self.found(connection, identity)
        changed: dict[str, object] = {}
        if account is None:
            account = self._provisioned(connection, provider, identity, now=now)
        if account is None:
            account = self._made(connection, provider, identity, now=now)
            changed = {"made": account.name, "roles": [role.value for role in account.roles]}
        if account.state is not AccountState.ACTIVE or account.kind is not PrincipalKind.USER:
            raise _of(
                account,
                Untrusted(
                    "not-active", "Your account here is not active.", "Ask an administrator."
                ),
            )
        try:
            keeper = provisioner_of(connection, account.id)
            known = external_id_of(connection, account.id)
            if keeper and keeper == provider.provisioned_by and known != identity.external:
                raise Untrusted(
                    "no-longer-provisioned",
                    f"{provider.label} keeps this account for another identity now.",
                    "Ask an administrator.",
                )
            if keeper is not None:
                wanted, kept = account, False  # SCIM's groups give its roles
            else:
                wanted, kept = self._with_roles(connection, provider, identity, account, now=now)
        except Untrusted as refused:
            raise _of(account, refused) from None
        if set(wanted.roles) != set(account.roles):
            changed |= {"roles": [role.value for role in wanted.roles]}
        if kept:
            changed |= {"kept": "last administrator"}
        connection.execute(
            update(external_identities)
            .where(external_identities.c.id == identity_id(identity.issuer, identity.subject))
            .values(last_login_at=now)
        )
        return wanted, changed

    def link(
        self,
        connection: Connection,
        provider: Provider,
        identity: Identity,
        account: Account,
        *,
        now: datetime,
        made: bool = False,
    ) -> None:
        """Let an identity open an account from now on.

        Raises:
            Untrusted: it opens another one already.
        """
        known = self.found(connection, identity)
        if known is not None and known.id == account.id:
            return
        if known is not None:
            raise _of(
                account,
                Untrusted(
                    "linked-elsewhere",
                    f"This identity of {provider.label} opens another account already.",
                    "Sign in with it, or use another identity.",
                ),
            )
        connection.execute(
            insert(external_identities).values(
                id=identity_id(identity.issuer, identity.subject),
                provider=provider.name,
                issuer=identity.issuer,
                subject=identity.subject,
                account=account.id,
                made_account=made,
                linked_at=now,
            )
        )

    def bound(self, connection: Connection, identity: Identity, session: str) -> None:
        """Let a session end when the provider says that the person has signed out there."""
        connection.execute(
            insert(external_sessions).values(
                session=session,
                identity=identity_id(identity.issuer, identity.subject),
                sid=identity.sid,
            )
        )

    def _provisioned(
        self, connection: Connection, provider: Provider, identity: Identity, *, now: datetime
    ) -> Account | None:
        """The account that the provider keeps by SCIM for this identity, linked from now on."""
        if not provider.provisioned_by or not identity.external:
            return None
        name = account_of_external(connection, provider.provisioned_by, identity.external)
        if name is None:
            return None
        account = self._accounts.get(connection, name)
        row = self._accounts.row(connection, name)
        # Without a password it opens through its provider alone, as one that was made for it:
        # who is shut out there must not come in beside it.
        made = row is not None and row["password_hash"] is None
        self.link(connection, provider, identity, account, now=now, made=made)
        return account

    def _made(
        self, connection: Connection, provider: Provider, identity: Identity, *, now: datetime
    ) -> Account:
        if not provider.provision:
            raise Untrusted(
                "unknown-person",
                f"No account here belongs to this identity of {provider.label}.",
                "If you have an account, sign in to it and link the two on the page /account; "
                "else ask an administrator for an invitation.",
            )
        if not identity.roles:
            raise _without_roles(provider)
        salt = identity_id(identity.issuer, identity.subject)
        name = account_name(identity.name, salt)
        if name in RESERVED or self._accounts.row(connection, name) is not None:
            name = account_name(identity.name, salt, taken=True)
        try:
            account = self._accounts.create(
                connection,
                name=name,
                kind=PrincipalKind.USER,
                roles=identity.roles,
                created_by=f"provider:{provider.name}",
                now=now,
                state=AccountState.ACTIVE,
            )
        except InvalidInput as refused:
            raise Untrusted("incompatible-roles", refused.message, refused.hint) from None
        self.link(connection, provider, identity, account, now=now, made=True)
        return account

    def _with_roles(
        self,
        connection: Connection,
        provider: Provider,
        identity: Identity,
        account: Account,
        *,
        now: datetime,
    ) -> tuple[Account, bool]:
        """The account with the roles of its groups; True if it stays the last administrator.

        Roles that the map can give are as the groups say; roles that only this platform gives
        stay as they are.
        """
        here = set(account.roles) - provider.governs
        wanted = here | set(identity.roles)
        if wanted == set(account.roles):
            return account, False
        if not wanted:
            raise _without_roles(provider)
        try:
            try:
                return self._set(connection, account, wanted, now), False
            except Conflict:
                # Nobody would be left who could mend the map.
                return self._set(connection, account, wanted | {Role.ADMINISTRATOR}, now), True
        except InvalidInput as refused:
            raise Untrusted("incompatible-roles", refused.message, refused.hint) from None

    def _set(
        self, connection: Connection, account: Account, roles: set[Role], now: datetime
    ) -> Account:
        return self._accounts.set_roles(connection, account.name, tuple(sorted(roles)), now=now)


def _of(account: Account, refused: Untrusted) -> Untrusted:
    """The refusal, with whose account it concerns, for the audit log."""
    refused.principal = account.principal_id
    return refused


def _without_roles(provider: Provider) -> Untrusted:
    return Untrusted(
        "no-roles",
        f"None of your groups at {provider.label} gives you a role here.",
        "Ask an administrator which group you need.",
    )
