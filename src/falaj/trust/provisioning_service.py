"""The actions of provisioning: what an identity provider may do with accounts, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import select

from falaj.kernel.actions import Service, action
from falaj.kernel.call import PrincipalKind
from falaj.kernel.errors import InvalidInput
from falaj.trust.accounts import Accounts
from falaj.trust.model import AccountName, Role
from falaj.trust.provisioned import ProvisionedUsers
from falaj.trust.provisioned_groups import ProvisionedGroups
from falaj.trust.provisioning import checked_group, checked_user, member_ids, merged
from falaj.trust.provisioning_filters import Filter, fits, narrowed, parsed_filter
from falaj.trust.provisioning_model import (
    GroupPage,
    ProvisionedGroup,
    ProvisionedUser,
    Settled,
    UserPage,
)
from falaj.trust.provisioning_patch import patched_group, patched_user
from falaj.trust.provisioning_resources import group_resource, user_resource
from falaj.trust.provisioning_tables import provisioned_users

MOST_PER_PAGE = 500
Text = Annotated[str, Field(max_length=256)]
Attributes = list[dict[str, Any]]
"""Attributes of SCIM about a person. A list, so that the audit record counts and does not show."""


class ProvisioningService(Service):
    """Accounts and groups that identity providers keep, by SCIM."""

    name = "provisioning"

    def __init__(
        self, users: ProvisionedUsers, groups: ProvisionedGroups, accounts: Accounts
    ) -> None:
        self._users = users
        self._groups = groups
        self._accounts = accounts

    @action(get="/provisioning/users")
    def list_users(self, filter: str = "", *, start: int = 1, count: int = 100) -> UserPage:
        """People whom you provision (or all, for people who administer) that fit a filter."""
        wanted, only = _wanted(filter, ("id", "userName", "externalId"))
        connection, start, count = self.call.connection, max(1, start), _of_page(count)
        if wanted is None:
            total = self._users.count(connection, provisioner=self._seen)
            items = self._users.listed(
                connection, provisioner=self._seen, offset=start - 1, limit=count
            )
            return UserPage(total=total, start=start, items=tuple(items))
        found = self._users.listed(connection, provisioner=self._seen, named=only)
        fitting = [one for one in found if fits(user_resource(one), wanted)]
        return UserPage(
            total=len(fitting), start=start, items=tuple(fitting[start - 1 : start - 1 + count])
        )

    @action(get="/provisioning/users/{user}", on="provisioned_user")
    def get_user(self, user: Text) -> ProvisionedUser:
        """One person whom you provision; raises NotFound."""
        return self._users.get(self.call.connection, user, provisioner=self._seen)

    @action(post="/provisioning/users")
    def create_user(
        self,
        user_name: Text,
        *,
        external_id: Text | None = None,
        active: bool | None = None,
        personal: Attributes = [],  # noqa: B006 - never changed; a default of a signature
    ) -> ProvisionedUser:
        """Make an account for a person, without credentials and without roles.

        Its credentials are the identity provider's; roles come with groups.
        """
        document = _user_document(user_name, external_id, active, personal)
        return self._users.create(self.call, document)

    @action(post="/provisioning/users/{user}", on="provisioned_user")
    def put_user(
        self,
        user: Text,
        user_name: Text,
        *,
        external_id: Text | None = None,
        active: bool | None = None,
        personal: Attributes = [],  # noqa: B006
        version: int | None = None,
    ) -> ProvisionedUser:
        """Say what a person is now; not active means out within a second, active brings back.

        If ``active`` is not said, it stays as it is. ``version`` is the one that was read;
        another one there is an error.
        """
        document = _user_document(user_name, external_id, active, personal)
        return self._users.replace(self.call, user, document, version=version)

    @action(post="/provisioning/users/{user}/patches", on="provisioned_user")
    def patch_user(
        self, user: Text, operations: Attributes, *, version: int | None = None
    ) -> ProvisionedUser:
        """Change some of what is said about a person, by operations of SCIM."""
        found = self._users.get(self.call.connection, user, provisioner=self.call.principal.id)
        before = {**user_resource(found)}
        for passing in ("schemas", "id", "groups", "meta"):
            before.pop(passing, None)
        after = checked_user(patched_user(before, operations))
        # What was read must still stand when it is written.
        return self._users.replace(
            self.call, user, after, version=found.version if version is None else version
        )

    @action(delete="/provisioning/users/{user}", on="provisioned_user")
    def remove_user(self, user: Text, version: int | None = None) -> AccountName:
        """Shut a person's account for good; what is known of the person is forgotten."""
        return self._users.remove(self.call, user, version=version)

    @action(get="/provisioning/groups")
    def list_groups(
        self,
        filter: str = "",
        *,
        start: int = 1,
        count: int = 100,
        members: bool = True,
    ) -> GroupPage:
        """Groups that you provision (or all, for people who administer) that fit a filter."""
        wanted, only = _wanted(filter, ("id", "displayName", "externalId"))
        connection, start, count = self.call.connection, max(1, start), _of_page(count)
        if wanted is None:
            total = self._groups.count(connection, provisioner=self._seen)
            items = self._groups.listed(
                connection,
                provisioner=self._seen,
                offset=start - 1,
                limit=count,
                members=members,
            )
            return GroupPage(total=total, start=start, items=tuple(items))
        found = self._groups.listed(connection, provisioner=self._seen, named=only)
        fitting = [one for one in found if fits(group_resource(one), wanted)]
        shown = fitting[start - 1 : start - 1 + count]
        if not members:
            shown = [one.model_copy(update={"members": ()}) for one in shown]
        return GroupPage(total=len(fitting), start=start, items=tuple(shown))

    @action(get="/provisioning/groups/{group}", on="provisioned_group")
    def get_group(self, group: Text, members: bool = True) -> ProvisionedGroup:
        """One group that you provision; raises NotFound."""
        return self._groups.get(
            self.call.connection, group, provisioner=self._seen, members=members
        )

    @action(post="/provisioning/groups")
    def create_group(
        self,
        display_name: Text,
        *,
        external_id: Text | None = None,
        members: list[str] = [],  # noqa: B006
    ) -> ProvisionedGroup:
        """Make a group; its members get the roles that the operator's map gives it."""
        document = _group_document(display_name, external_id, members)
        return self._groups.create(self.call, document)

    @action(post="/provisioning/groups/{group}", on="provisioned_group")
    def put_group(
        self,
        group: Text,
        display_name: Text,
        *,
        external_id: Text | None = None,
        members: list[str] = [],  # noqa: B006
        version: int | None = None,
    ) -> ProvisionedGroup:
        """Say what a group is now; roles of who comes and goes are in force within a second."""
        document = _group_document(display_name, external_id, members)
        return self._groups.replace(self.call, group, document, version=version)

    @action(post="/provisioning/groups/{group}/patches", on="provisioned_group")
    def patch_group(
        self, group: Text, operations: Attributes, *, version: int | None = None
    ) -> ProvisionedGroup:
        """Change some of a group, its members above all, by operations of SCIM."""
        before = self._groups.document(self.call, group, version=version)
        after = checked_group(patched_group(before, operations))
        return self._groups.replace(self.call, group, after)

    @action(delete="/provisioning/groups/{group}", on="provisioned_group")
    def remove_group(self, group: Text, version: int | None = None) -> str:
        """Forget a group; its members lose the roles that it gave within a second."""
        return self._groups.remove(self.call, group, version=version)

    @action(post="/provisioning/accounts/{name}/hand-over", on="account", step_up=True)
    def hand_over(
        self,
        name: AccountName,
        provisioner: AccountName,
        *,
        user_name: Text,
        external_id: Text | None = None,
    ) -> ProvisionedUser:
        """Let a provisioner keep a person's account that is there already.

        From now on its roles are those of its groups alone.
        """
        keeper = self._accounts.get(self.call.connection, provisioner)
        if Role.PROVISIONER not in keeper.roles:
            raise InvalidInput(
                f"The account {provisioner!r} is no provisioner.",
                hint="Give a service account the role provisioner.",
            )
        document = checked_user({"userName": user_name, "externalId": external_id})
        return self._users.hand_over(
            self.call,
            name,
            to=keeper.principal_id,
            user_name=document["userName"],
            external_id=document.get("externalId"),
        )

    @action(post="/provisioning/settlement", step_up=True)
    def settle(self) -> Settled:
        """Give every provisioned account the roles of its groups by the map as it is now.

        For after a change of the setting ``provisioning.groups``.
        """
        query = select(provisioned_users.c.account).order_by(provisioned_users.c.account)
        people = [str(one) for one in self.call.connection.execute(query).scalars()]
        changed = self._users.give_roles(self.call, people)
        return Settled(n_accounts=len(people), changed=changed)

    @property
    def _seen(self) -> str | None:
        """Whose people and groups the caller sees: a program its own, people everybody's."""
        principal = self.call.principal
        return principal.id if principal.kind is PrincipalKind.SERVICE else None


def _user_document(
    user_name: str, external_id: str | None, active: bool | None, parts: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    given = {"userName": user_name, "externalId": external_id, "active": active}
    return checked_user({**merged(parts), **given})


def _group_document(
    display_name: str, external_id: str | None, members: list[str]
) -> dict[str, Any]:
    given = {"displayName": display_name, "externalId": external_id}
    return checked_group({**given, "members": member_ids(members)})


def _wanted(text: str, attributes: Iterable[str]) -> tuple[Filter | None, dict[str, str]]:
    """The filter, and what it demands of attributes that the database can look for."""
    if not text.strip():
        return None, {}
    wanted = parsed_filter(text)
    found = {name: narrowed(wanted, name) for name in attributes}
    return wanted, {name: value for name, value in found.items() if value is not None}


def _of_page(count: int) -> int:
    return min(max(0, count), MOST_PER_PAGE)
