"""The people and groups that identity providers keep, and the accounts behind them.

A provisioner sees and touches only what it made or what an administrator handed over to it.
A group gives its members roles by the operator's map; whatever would break a rule of accounts
(roles that one account must not unite, the last administrator) fails whole: the caller's
transaction is rolled back.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Call, PrincipalKind
from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.trust.accounts import Accounts, check_roles
from falaj.trust.model import Account, AccountState, Role, jsonable_roles
from falaj.trust.provisioning import account_name, personal
from falaj.trust.provisioning_model import GroupRef, NotProvisionable, ProvisionedUser, VersionMoved
from falaj.trust.provisioning_roles import RoleMap
from falaj.trust.provisioning_tables import (
    provisioned_groups,
    provisioned_members,
    provisioned_users,
)
from falaj.trust.sessions import Sessions
from falaj.trust.tables import accounts

_AT_ONCE = 500
"""So many ids stand in one statement."""
_MOST_NOTED = 100
"""So many accounts does one audit record name; it counts the others."""


class ProvisionedUsers:
    """The people whom provisioners keep. Each method works in the call's transaction.

    Args:
        accounts, sessions: those of the platform.
        roles: which roles groups give.
        domain: user names of it lose it in the account's name.
    """

    def __init__(
        self, accounts: Accounts, sessions: Sessions, roles: RoleMap, *, domain: str = ""
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._map = roles
        self._domain = domain

    def create(self, call: Call, document: Mapping[str, Any]) -> ProvisionedUser:
        """An account for a person, without credentials of its own.

        Raises:
            AlreadyExists: the user name, the external id or the account's name is taken.
            NotProvisionable, InvalidInput: no account can be named so.
        """
        # Looked at before a name is sought: the same person twice is no second account.
        self._unique(call, document, besides="")
        wanted = account_name(document["userName"], domain=self._domain)
        name = self._free_name(call.connection, wanted, call.principal.id)
        account = self._accounts.create(
            call.connection,
            name=name,
            kind=PrincipalKind.USER,
            roles=(),
            created_by=call.principal.id,
            now=call.now,
            state=AccountState.ACTIVE,
            provisioned=True,
        )
        self._keep(call, account, call.principal.id, document)
        call.note(account=account.name)
        call.emit("account.provisioned", account=account.name)
        if document.get("active") is False:
            self._suspend(call, account)
        return self.get(call.connection, account.id, provisioner=call.principal.id)

    def replace(
        self, call: Call, user: str, document: Mapping[str, Any], *, version: int | None = None
    ) -> ProvisionedUser:
        """The person as the provisioner says they are now; suspended or back, if it says so.

        A document that does not say ``active`` neither suspends nor brings back.

        Raises:
            NotFound: no person of this provisioner.
            VersionMoved: the version is another one.
            AlreadyExists: the new user name or external id is taken.
            Conflict: the account is shut for good, or is the last administrator's.
        """
        row = self._own(call, user, version)
        self._unique(call, document, besides=user)
        account = self._accounts.get(call.connection, row["name"])
        values = {
            "user_name": document["userName"],
            "user_name_key": name_key(document["userName"]),
            "external_id": document.get("externalId"),
            "personal": personal(document),
        }
        if any(row[column] != value for column, value in values.items()):
            self._write(call, user, values)
        call.note(account=account.name)
        if document.get("active") is False:
            self._suspend(call, account)
        elif document.get("active") and account.state in (
            AccountState.SUSPENDED,
            AccountState.DEACTIVATED,
        ):
            self._resume(call, account, row["resumes_as"])
        return self.get(call.connection, user, provisioner=call.principal.id)

    def remove(self, call: Call, user: str, *, version: int | None = None) -> str:
        """Shut the account for good and forget what is known of the person; the account's name.

        Raises:
            NotFound, VersionMoved: as for ``replace``.
            Conflict: it is the last administrator's.
        """
        row = self._own(call, user, version)
        account = self._accounts.get(call.connection, row["name"])
        self._sessions.end_all(
            call.connection, account, now=call.now, because="removed by provisioning"
        )
        self._accounts.deactivate(call.connection, account.name, now=call.now)
        for table in (provisioned_members, provisioned_users):
            call.connection.execute(delete(table).where(table.c.account == user))
        call.note(account=account.name)
        call.emit("account.deactivated", account=account.name)
        return account.name

    def hand_over(
        self, call: Call, name: str, *, to: str, user_name: str, external_id: str | None
    ) -> ProvisionedUser:
        """Let a provisioner keep an account that is there; its roles are its groups' from now on.

        Raises:
            NotFound: there is no such account.
            Conflict: it is a program's, or is shut, or is the last administrator's.
            AlreadyExists: the provisioner has a person of that user name or external id.
        """
        account = self._accounts.get(call.connection, name)
        if account.kind is not PrincipalKind.USER or account.state is AccountState.DEACTIVATED:
            raise Conflict(f"{name!r} is no account of a person that can be handed over.")
        call.connection.execute(
            delete(provisioned_members).where(provisioned_members.c.account == account.id)
        )
        call.connection.execute(
            delete(provisioned_users).where(provisioned_users.c.account == account.id)
        )
        document = {"userName": user_name, "externalId": external_id}
        self._keep(call, account, to, document)
        self.give_roles(call, [account.id])
        call.emit("account.handed_over", account=name, to=to)
        return self.get(call.connection, account.id, provisioner=to)

    def get(self, connection: Connection, user: str, *, provisioner: str | None) -> ProvisionedUser:
        """A person by id; raises NotFound, also for one of another provisioner."""
        query = _joined(provisioner).where(provisioned_users.c.account == user)
        found = self.of_rows(connection, query)
        if not found:
            raise missing("user", user)
        return found[0]

    def count(self, connection: Connection, *, provisioner: str | None) -> int:
        """How many people a provisioner keeps, or all of them (None)."""
        query = select(func.count()).select_from(provisioned_users)
        if provisioner is not None:
            query = query.where(provisioned_users.c.provisioner == provisioner)
        return int(connection.execute(query).scalar_one())

    def listed(
        self,
        connection: Connection,
        *,
        provisioner: str | None,
        named: Mapping[str, str] | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[ProvisionedUser]:
        """People in the order of their ids.

        Args:
            named: only those with this ``id``, ``userName`` or ``externalId``.
        """
        query = _joined(provisioner).order_by(provisioned_users.c.account)
        for attribute, text in (named or {}).items():
            query = query.where(_COLUMNS[attribute] == _KEYS.get(attribute, str)(text))
        if limit is not None:
            query = query.limit(limit).offset(offset)
        return self.of_rows(connection, query)

    def of_rows(self, connection: Connection, query: Select[Any]) -> list[ProvisionedUser]:
        """The people whom a query of their rows finds, with their groups."""
        rows = list(connection.execute(query).mappings())
        groups = groups_of(connection, [row["account"] for row in rows])
        return [
            _user(row, [GroupRef(id=one["id"], display_name=one["display_name"])
                        for one in groups.get(row["account"], [])])
            for row in rows
        ]  # fmt: skip

    def locked(self, connection: Connection, users: Iterable[str]) -> None:
        """Wait until nobody else changes these people, and keep others waiting."""
        for some in _in_pieces(sorted(users)):
            connection.execute(
                select(provisioned_users.c.account)
                .where(provisioned_users.c.account.in_(some))
                .order_by(provisioned_users.c.account)
                .with_for_update()
            )

    def give_roles(self, call: Call, users: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Give each account the roles of its groups; the new roles of those that changed.

        Raises:
            NotProvisionable: groups would give roles that one account must not unite.
            Conflict: the last administrator would be one no more.
            Forbidden: the caller's own account would change.
        """
        self.locked(call.connection, users)
        groups = groups_of(call.connection, users)
        changed: dict[str, tuple[str, ...]] = {}
        for user in users:
            account = self._account(call.connection, user)
            if account.state is AccountState.DEACTIVATED:
                continue
            roles = self._of_groups(groups.get(user, []))
            if set(roles) == set(account.roles):
                continue
            self._set_roles(call, account, roles)
            changed[account.name] = tuple(role.value for role in roles)
        if changed:
            shown = dict(list(changed.items())[:_MOST_NOTED])
            call.note(roles=shown, n_roles_changed=len(changed))
        return changed

    def _set_roles(self, call: Call, account: Account, roles: Sequence[Role]) -> None:
        _not_the_own(call, account)
        if roles:
            try:
                check_roles(tuple(roles), PrincipalKind.USER)
            except InvalidInput as error:
                raise NotProvisionable(
                    f"The groups of {account.name!r} would unite roles: {error.message}",
                    hint="Take this person out of one of the groups; nothing was changed.",
                ) from error
        if Role.ADMINISTRATOR in account.roles and Role.ADMINISTRATOR not in roles:
            self._accounts.keep_an_administrator(call.connection, account)
        self._accounts.change(
            call.connection, account, now=call.now, roles=jsonable_roles(list(roles))
        )
        call.emit("account.roles_set", account=account.name, roles=[one.value for one in roles])

    def unsettled(self, connection: Connection) -> list[str]:
        """The names of accounts whose roles are not those of their groups by the present map."""
        query = _joined(None).where(accounts.c.state != AccountState.DEACTIVATED.value)
        rows = list(connection.execute(query).mappings())
        groups = groups_of(connection, [row["account"] for row in rows])
        return sorted(
            row["name"]
            for row in rows
            if set(row["roles"]) != set(self._of_groups(groups.get(row["account"], [])))
        )

    def _of_groups(self, groups: Iterable[RowMapping]) -> list[Role]:
        """The roles that these groups give together."""
        found: set[Role] = set()
        for one in groups:
            found.update(
                self._map.of_group(one["provisioner"], one["display_name"], one["external_id"])
            )
        return sorted(found)

    def _account(self, connection: Connection, user: str) -> Account:
        name = connection.execute(select(accounts.c.name).where(accounts.c.id == user)).scalar()
        return self._accounts.get(connection, str(name))

    def _suspend(self, call: Call, account: Account) -> None:
        if account.state in (AccountState.SUSPENDED, AccountState.DEACTIVATED):
            return
        _not_the_own(call, account)
        ended = self._sessions.end_all(
            call.connection, account, now=call.now, because="suspended by provisioning"
        )
        self._accounts.suspend(call.connection, account.name, now=call.now)
        self._write(call, account.id, {"resumes_as": account.state.value})
        call.note(suspended=True, sessions_ended=ended)
        call.emit("account.suspended", account=account.name)

    def _resume(self, call: Call, account: Account, state: str | None) -> None:
        resumed = AccountState(state) if state else AccountState.ACTIVE
        self._accounts.resume(call.connection, account.name, state=resumed, now=call.now)
        self._write(call, account.id, {"resumes_as": None})
        call.note(resumed=True)
        call.emit("account.resumed", account=account.name)

    def _write(self, call: Call, user: str, values: Mapping[str, Any]) -> None:
        call.connection.execute(
            update(provisioned_users)
            .where(provisioned_users.c.account == user)
            .values(version=provisioned_users.c.version + 1, modified_at=call.now, **values)
        )

    def _keep(
        self, call: Call, account: Account, provisioner: str, document: Mapping[str, Any]
    ) -> None:
        row = {
            "account": account.id,
            "provisioner": provisioner,
            "user_name": document["userName"],
            "user_name_key": name_key(document["userName"]),
            "external_id": document.get("externalId"),
            "personal": personal(document),
            "resumes_as": None,
            "version": 1,
            "created_at": call.now,
            "modified_at": call.now,
        }
        if not insert_if_absent(call.connection, provisioned_users, row):
            raise _taken(document["userName"])

    def _unique(self, call: Call, document: Mapping[str, Any], *, besides: str) -> None:
        columns = provisioned_users.c
        same = columns.user_name_key == name_key(document["userName"])
        if document.get("externalId"):
            same = same | (columns.external_id == document["externalId"])
        query = select(columns.account).where(
            columns.provisioner == call.principal.id, columns.account != besides, same
        )
        if call.connection.execute(query).first() is not None:
            raise _taken(document["userName"])

    def _own(self, call: Call, user: str, version: int | None) -> RowMapping:
        """The row of a person of the caller, locked; raises NotFound, VersionMoved."""
        query = _joined(call.principal.id).where(provisioned_users.c.account == user)
        self.locked(call.connection, [user])
        row = call.connection.execute(query).mappings().first()
        if row is None:
            raise missing("user", user)
        check_version(row["version"], version)
        return row

    def _free_name(self, connection: Connection, wanted: str, provisioner: str) -> str:
        """The name, or with a number behind it.

        A number follows where the name was given before: to an account that was shut for good,
        or to another person of this provisioner whose user name comes to the same.
        """
        for number in range(1, 1_000):
            name = wanted if number == 1 else f"{wanted[:57]}-{number}"
            row = self._accounts.row(connection, name)
            if row is None:
                return name
            keeper = connection.execute(
                select(provisioned_users.c.provisioner).where(
                    provisioned_users.c.account == row["id"]
                )
            ).scalar()
            if row["state"] != AccountState.DEACTIVATED.value and keeper != provisioner:
                break
        raise AlreadyExists(
            f"There is an account {wanted!r} already, which is not yours.",
            hint="An administrator can hand it over: `falaj provisioning hand-over`.",
        )


def groups_of(connection: Connection, users: Sequence[str]) -> dict[str, list[RowMapping]]:
    """The rows of the groups that each of these people is in, by the person's id."""
    found: dict[str, list[RowMapping]] = {}
    for some in _in_pieces(users):
        query = (
            select(provisioned_members.c.account, provisioned_groups)
            .join(provisioned_groups, provisioned_groups.c.id == provisioned_members.c.group_id)
            .where(provisioned_members.c.account.in_(some))
            .order_by(provisioned_groups.c.id)
        )
        for row in connection.execute(query).mappings():
            found.setdefault(row["account"], []).append(row)
    return found


def account_of_external(connection: Connection, provisioner: str, external_id: str) -> str | None:
    """The name of the account that a provisioner keeps for an id of its own, or None.

    For a sign-in whose provider's subject *is* the ``externalId`` of SCIM, because the operator
    said so: never for an e-mail address or a user name, which people can be given by others.

    Args:
        provisioner: the service account that provisions (``entra``).
        external_id: the subject, to the letter.
    """
    query = (
        select(accounts.c.name)
        .join(provisioned_users, provisioned_users.c.account == accounts.c.id)
        .where(
            provisioned_users.c.provisioner == f"service:{provisioner}",
            provisioned_users.c.external_id == external_id,
        )
    )
    found = connection.execute(query).scalar()
    return None if found is None else str(found)


def provisioner_of(connection: Connection, account: str) -> str | None:
    """The name of the service account that keeps an account, by its id; None if none does."""
    found = connection.execute(
        select(provisioned_users.c.provisioner).where(provisioned_users.c.account == account)
    ).scalar()
    return None if found is None else str(found).removeprefix("service:")


def external_id_of(connection: Connection, account: str) -> str | None:
    """The id that a provisioner's directory has for an account; None if there is none."""
    found = connection.execute(
        select(provisioned_users.c.external_id).where(provisioned_users.c.account == account)
    ).scalar()
    return None if found is None else str(found)


def name_key(name: str) -> str:
    """What two names have in common that differ in their case alone."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return hashlib.sha256(folded.encode()).hexdigest()


def check_version(stands: int, wanted: int | None) -> None:
    """Raise VersionMoved unless it is the version that was named (None: any)."""
    if wanted is not None and wanted != stands:
        raise VersionMoved(
            f"Version {stands} stands, not {wanted}.", hint="Read it again, and change that."
        )


def missing(kind: str, key: str) -> NotFound:
    """The error for what is not there, or not this provisioner's."""
    return NotFound(f"There is no provisioned {kind} {key!r}.", hint="List them.")


def _joined(provisioner: str | None) -> Select[Any]:
    query = select(provisioned_users, accounts.c.name, accounts.c.state, accounts.c.roles).join(
        accounts, accounts.c.id == provisioned_users.c.account
    )
    if provisioner is None:
        return query
    return query.where(provisioned_users.c.provisioner == provisioner)


def _user(row: RowMapping, groups: Sequence[GroupRef]) -> ProvisionedUser:
    state = AccountState(row["state"])
    created: datetime = row["created_at"]
    return ProvisionedUser(
        id=row["account"],
        account=row["name"],
        provisioner=row["provisioner"],
        user_name=row["user_name"],
        external_id=row["external_id"],
        active=state in (AccountState.ACTIVE, AccountState.INVITED),
        state=state,
        roles=tuple(row["roles"]),
        groups=tuple(groups),
        personal=dict(row["personal"]),
        version=row["version"],
        created_at=created,
        modified_at=row["modified_at"],
    )


def _not_the_own(call: Call, account: Account) -> None:
    if account.principal_id == call.principal.id:
        raise Forbidden("Nobody provisions the own account.", hint="Ask another administrator.")


def _taken(user_name: str) -> AlreadyExists:
    return AlreadyExists(
        f"There is a person with the userName {user_name!r}, or with this externalId, already.",
        hint="Find it with a filter: userName eq or externalId eq.",
    )


def _in_pieces(items: Sequence[str]) -> Iterable[Sequence[str]]:
    for begin in range(0, len(items), _AT_ONCE):
        yield items[begin : begin + _AT_ONCE]


_COLUMNS: Mapping[str, Any] = {
    "id": provisioned_users.c.account,
    "userName": provisioned_users.c.user_name_key,
    "externalId": provisioned_users.c.external_id,
}
_KEYS = {"userName": name_key}
