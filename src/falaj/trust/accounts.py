"""Accounts: who exists, in which state, with which roles. Every change moves the epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.trust.certificate_tables import program_certificates as certificates
from falaj.trust.epochs import revoke
from falaj.trust.factors import new_secret, secret_hash
from falaj.trust.model import Account, AccountState, Role, jsonable_roles
from falaj.trust.passkey_tables import passkeys
from falaj.trust.tables import accounts

INCOMPATIBLE = (
    frozenset({Role.ADMINISTRATOR, Role.APPROVER}),
    frozenset({Role.ADMINISTRATOR, Role.AUDITOR}),
)
"""Roles that one account must not unite: who hands out roles neither approves nor audits."""
RESERVED = frozenset({"me", "system", "worker", "platform", "anonymous", "unknown", "falaj"})


class Accounts:
    """The accounts of a platform. Each method works in the caller's transaction."""

    def all(self, connection: Connection) -> list[Account]:
        """All accounts, by name."""
        rows = connection.execute(_counted().order_by(accounts.c.name)).mappings()
        return [_account(row) for row in rows]

    def get(self, connection: Connection, name: str) -> Account:
        """The account of that name; raises NotFound."""
        row = self.row(connection, name)
        if row is None:
            raise NotFound(
                f"There is no account {name!r}.",
                hint="See `falaj accounts list`; names are lower-case.",
            )
        return _account(row)

    def row(self, connection: Connection, name: str) -> RowMapping | None:
        """The whole row, credentials' hashes included, for authentication only."""
        return connection.execute(_counted().where(accounts.c.name == name)).mappings().first()

    def locked(self, connection: Connection, name: str) -> Account:
        """The account, which nobody else changes before this transaction ends; raises NotFound."""
        connection.execute(select(accounts.c.id).where(accounts.c.name == name).with_for_update())
        return self.get(connection, name)

    def by_id(self, connection: Connection, account_id: str) -> RowMapping | None:
        """The whole row of an account's id, for authentication only."""
        return connection.execute(_counted().where(accounts.c.id == account_id)).mappings().first()

    def by_public_key(self, connection: Connection, public_key: bytes) -> Account | None:
        """The account to which a raw Ed25519 public key belongs, if any."""
        row = (
            connection.execute(_counted().where(accounts.c.public_key == public_key))
            .mappings()
            .first()
        )
        return None if row is None else _account(row)

    def create(
        self,
        connection: Connection,
        *,
        name: str,
        kind: PrincipalKind,
        roles: Iterable[Role],
        created_by: str,
        now: datetime,
        state: AccountState = AccountState.INVITED,
        one_person: bool = False,
        provisioned: bool = False,
        **credentials: Any,
    ) -> Account:
        """A new account.

        ``one_person`` lifts the rule of incompatible roles, for a platform with one user;
        ``provisioned`` lets it begin without any role, until groups give some.

        Raises:
            AlreadyExists: the name is taken.
            InvalidInput: the name is reserved, or the roles do not fit each other or the kind.
        """
        roles = tuple(roles)
        if not one_person and (roles or not provisioned):
            check_roles(roles, kind)
        if name in RESERVED:
            raise InvalidInput(f"The name {name!r} is reserved.", hint="Choose another name.")
        if self.row(connection, name) is not None:
            raise AlreadyExists(f"There is an account {name!r} already.", hint="Choose another.")
        account_id = new_id("user")
        connection.execute(
            insert(accounts).values(
                id=account_id,
                name=name,
                kind=kind.value,
                state=state.value,
                roles=jsonable_roles(roles),
                totp_last_step=0,
                epoch=0,
                created_at=now,
                created_by=created_by,
                **credentials,
            )
        )
        return self.get(connection, name)

    def create_service(
        self,
        connection: Connection,
        *,
        name: str,
        roles: Sequence[Role],
        created_by: str,
        now: datetime,
    ) -> tuple[Account, str]:
        """A new service account and its secret, which is not kept."""
        secret = new_secret("sk")
        account = self.create(
            connection,
            name=name,
            kind=PrincipalKind.SERVICE,
            roles=roles,
            created_by=created_by,
            now=now,
            state=AccountState.ACTIVE,
            secret_hash=secret_hash(secret),
        )
        return account, secret

    def replace_secret(self, connection: Connection, name: str, *, now: datetime) -> str:
        """A new secret for a service account; the old one, tokens and certificates end at once.

        Raises:
            Conflict: the account is a person's, or is not active.
        """
        account = self.locked(connection, name)
        if account.kind is not PrincipalKind.SERVICE or account.state is not AccountState.ACTIVE:
            raise Conflict(
                f"{name!r} is not an active service account.",
                hint="Only service accounts have secrets; people enrol with a link.",
            )
        secret = new_secret("sk")
        connection.execute(
            update(certificates)
            .where(certificates.c.account == account.id, certificates.c.revoked_at.is_(None))
            .values(revoked_at=now, revoked_because="the account got a new secret")
        )
        self.change(connection, account, now=now, secret_hash=secret_hash(secret))
        return secret

    def set_roles(
        self, connection: Connection, name: str, roles: Sequence[Role], *, now: datetime
    ) -> Account:
        """Give an account these roles and no others; its tokens end within a second.

        Raises:
            NotFound, InvalidInput: no such account; roles that one account must not unite.
            Conflict: it is deactivated, or the platform would lose its last administrator.
        """
        account = self.get(connection, name)
        check_roles(tuple(roles), account.kind)
        if account.state is AccountState.DEACTIVATED:
            raise Conflict(f"The account {name!r} is deactivated.", hint="Create another account.")
        if Role.ADMINISTRATOR not in roles:
            self.keep_an_administrator(connection, account)
        return self.change(connection, account, now=now, roles=jsonable_roles(tuple(roles)))

    def deactivate(self, connection: Connection, name: str, *, now: datetime) -> Account:
        """Shut an account for good; its credentials are forgotten, its tokens end within a second.

        Raises:
            NotFound: no such account.
            Conflict: the platform would lose its last administrator.
        """
        account = self.get(connection, name)
        if account.state is AccountState.DEACTIVATED:
            return account
        self.keep_an_administrator(connection, account)
        connection.execute(delete(passkeys).where(passkeys.c.account == account.id))
        return self.change(
            connection,
            account,
            now=now,
            state=AccountState.DEACTIVATED.value,
            deactivated_at=now,
            password_hash=None,
            totp_sealed=None,
            totp_pending_sealed=None,
            secret_hash=None,
            public_key=None,
        )

    def suspend(self, connection: Connection, name: str, *, now: datetime) -> Account:
        """Put an account out, with its credentials kept; its tokens end within a second.

        Raises:
            NotFound: no such account.
            Conflict: it is shut for good, or the platform would lose its last administrator.
        """
        account = self.get(connection, name)
        if account.state is AccountState.SUSPENDED:
            return account
        if account.state is AccountState.DEACTIVATED:
            raise Conflict(f"The account {name!r} is shut for good.", hint="Make another one.")
        self.keep_an_administrator(connection, account)
        return self.change(connection, account, now=now, state=AccountState.SUSPENDED.value)

    def resume(
        self, connection: Connection, name: str, *, state: AccountState, now: datetime
    ) -> Account:
        """Bring a suspended account back, into the state that it was in.

        Raises:
            NotFound: no such account.
            Conflict: it is shut for good.
        """
        account = self.get(connection, name)
        if account.state is AccountState.DEACTIVATED:
            raise Conflict(f"The account {name!r} is shut for good.", hint="Make another one.")
        if account.state is not AccountState.SUSPENDED:
            return account
        return self.change(connection, account, now=now, state=state.value)

    def change(
        self, connection: Connection, account: Account, *, now: datetime, **values: Any
    ) -> Account:
        """Write columns of an account and revoke the tokens that were issued before."""
        epoch = account.epoch + 1
        connection.execute(
            update(accounts).where(accounts.c.id == account.id).values(epoch=epoch, **values)
        )
        revoke(connection, now=now, principal=account.principal_id, account_epoch=epoch)
        return self.get(connection, account.name)

    def administrators(self, connection: Connection) -> list[Account]:
        """The active people with the role of an administrator."""
        return [
            account
            for account in self.all(connection)
            if account.state is AccountState.ACTIVE
            and account.kind is PrincipalKind.USER
            and Role.ADMINISTRATOR in account.roles
        ]

    def keep_an_administrator(self, connection: Connection, leaving: Account) -> None:
        """Raise Conflict if nobody but this account is an active administrator."""
        # Two administrators who remove each other at the same moment must wait for one another.
        connection.execute(select(accounts.c.id).order_by(accounts.c.id).with_for_update())
        left = [account.id for account in self.administrators(connection)]
        if left == [leaving.id]:
            raise Conflict(
                f"{leaving.name!r} is the last administrator.",
                hint="Give another account the role of an administrator first.",
            )


def check_roles(roles: Sequence[Role], kind: PrincipalKind) -> None:
    """Refuse roles that one account must not unite, or that do not fit its kind.

    Raises:
        InvalidInput: says which, and why.
    """
    if not roles:
        raise InvalidInput("An account needs a role.", hint="The least is `viewer`.")
    for pair in INCOMPATIBLE:
        if pair <= set(roles):
            told = " and ".join(sorted(role.value for role in pair))
            raise InvalidInput(
                f"One account must not be {told}.",
                hint="Give the second role to another person (separation of duties).",
            )
    people_only = {Role.ADMINISTRATOR, Role.APPROVER}
    if kind is PrincipalKind.SERVICE and people_only & set(roles):
        raise InvalidInput(
            "A service account neither administers nor approves.",
            hint="Give it `service`, `ml_engineer` or another working role.",
        )
    of_jobs = sorted(role.value for role in roles if role.value.startswith("ci_"))
    if of_jobs and kind is not PrincipalKind.SERVICE:
        raise InvalidInput(
            f"The role {of_jobs[0]} is for service accounts.",
            hint="Make one with `falaj ci deploy-key`.",
        )
    if Role.PROVISIONER in roles and (kind is not PrincipalKind.SERVICE or len(set(roles)) > 1):
        raise InvalidInput(
            "The role provisioner is for a service account that has no other role.",
            hint="Make one with `falaj accounts create-service`.",
        )


def principal_of(account: Account) -> Principal:
    """The account as the policy sees it."""
    return Principal(
        account.principal_id, account.kind, tuple(role.value for role in account.roles)
    )


def _counted() -> Select[Any]:
    """Accounts, with how many passkeys each has."""
    n_passkeys = select(func.count()).where(passkeys.c.account == accounts.c.id)
    return select(accounts, n_passkeys.scalar_subquery().label("n_passkeys"))


def _account(row: RowMapping) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        kind=PrincipalKind(row["kind"]),
        state=AccountState(row["state"]),
        roles=tuple(Role(role) for role in row["roles"]),
        has_password=row["password_hash"] is not None,
        has_factor=row["totp_sealed"] is not None or row["n_passkeys"] > 0,
        n_passkeys=row["n_passkeys"],
        has_key=row["public_key"] is not None,
        created_at=row["created_at"],
        created_by=row["created_by"],
        deactivated_at=row["deactivated_at"],
        epoch=row["epoch"],
    )
