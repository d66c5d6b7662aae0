"""The groups that identity providers keep; a change of one gives its people other roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Call
from falaj.kernel.errors import AlreadyExists
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent
from falaj.trust.provisioned import ProvisionedUsers, check_version, missing, name_key
from falaj.trust.provisioning import invalid, member_ids
from falaj.trust.provisioning_model import Member, ProvisionedGroup
from falaj.trust.provisioning_roles import RoleMap
from falaj.trust.provisioning_tables import (
    provisioned_groups,
    provisioned_members,
    provisioned_users,
)

_AT_ONCE = 500


class ProvisionedGroups:
    """The groups that provisioners keep. Each method works in the call's transaction.

    Args:
        users: the people.
        roles: which roles groups give.
    """

    def __init__(self, users: ProvisionedUsers, roles: RoleMap) -> None:
        self._users = users
        self._map = roles

    def create(self, call: Call, document: Mapping[str, Any]) -> ProvisionedGroup:
        """A group with these members.

        Raises:
            AlreadyExists: the provisioner has a group of that name.
            NotProvisionable: a member is not there, or would unite roles that it must not.
        """
        group = new_id("group")
        row = {
            "id": group,
            "provisioner": call.principal.id,
            "display_name": document["displayName"],
            "display_name_key": name_key(document["displayName"]),
            "external_id": document.get("externalId"),
            "version": 1,
            "created_at": call.now,
            "modified_at": call.now,
        }
        if not insert_if_absent(call.connection, provisioned_groups, row):
            raise _taken(document["displayName"])
        self._set_members(call, group, member_ids(document.get("members")))
        return self.get(call.connection, group, provisioner=call.principal.id)

    def replace(
        self, call: Call, group: str, document: Mapping[str, Any], *, version: int | None = None
    ) -> ProvisionedGroup:
        """The group as the provisioner says it is now.

        Raises:
            NotFound: no group of this provisioner.
            VersionMoved: the version is another one.
            AlreadyExists, NotProvisionable: as for ``create``.
            Conflict: the last administrator would be one no more.
        """
        row = self._own(call, group, version)
        values = {
            "display_name": document["displayName"],
            "display_name_key": name_key(document["displayName"]),
            "external_id": document.get("externalId"),
        }
        renamed = any(row[column] != value for column, value in values.items())
        if renamed:
            self._unique(call, document["displayName"], besides=group)
            self._write(call, group, values)
        moved = self._set_members(call, group, member_ids(document.get("members")))
        if moved and not renamed:
            self._write(call, group, {})
        if renamed:
            self._users.give_roles(call, self.members(call.connection, group))
        return self.get(call.connection, group, provisioner=call.principal.id)

    def remove(self, call: Call, group: str, *, version: int | None = None) -> str:
        """Forget the group, whose members lose the roles that it gave; its name.

        Raises:
            NotFound, VersionMoved, Conflict: as for ``replace``.
        """
        name = str(self._own(call, group, version)["display_name"])
        self._set_members(call, group, [])
        call.connection.execute(delete(provisioned_groups).where(provisioned_groups.c.id == group))
        return name

    def document(self, call: Call, group: str, *, version: int | None = None) -> dict[str, Any]:
        """The group as a canonical SCIM resource, locked, for a change of it."""
        row = self._own(call, group, version)
        return {
            "displayName": row["display_name"],
            **({"externalId": row["external_id"]} if row["external_id"] else {}),
            "members": [{"value": one} for one in self.members(call.connection, group)],
        }

    def get(
        self, connection: Connection, group: str, *, provisioner: str | None, members: bool = True
    ) -> ProvisionedGroup:
        """A group by id; raises NotFound, also for one of another provisioner."""
        found = self.listed(
            connection, provisioner=provisioner, named={"id": group}, members=members
        )
        if not found:
            raise missing("group", group)
        return found[0]

    def count(self, connection: Connection, *, provisioner: str | None) -> int:
        """How many groups a provisioner keeps, or all of them (None)."""
        query = select(func.count()).select_from(provisioned_groups)
        if provisioner is not None:
            query = query.where(provisioned_groups.c.provisioner == provisioner)
        return int(connection.execute(query).scalar_one())

    def listed(
        self,
        connection: Connection,
        *,
        provisioner: str | None,
        named: Mapping[str, str] | None = None,
        offset: int = 0,
        limit: int | None = None,
        members: bool = True,
    ) -> list[ProvisionedGroup]:
        """Groups in the order of their ids, with their members or without.

        Args:
            named: only those with this ``id``, ``displayName`` or ``externalId``.
        """
        query: Select[Any] = select(provisioned_groups).order_by(provisioned_groups.c.id)
        if provisioner is not None:
            query = query.where(provisioned_groups.c.provisioner == provisioner)
        for attribute, text in (named or {}).items():
            query = query.where(_COLUMNS[attribute] == _KEYS.get(attribute, str)(text))
        if limit is not None:
            query = query.limit(limit).offset(offset)
        rows = list(connection.execute(query).mappings())
        inside = _people(connection, [row["id"] for row in rows]) if members else {}
        return [self._group(row, inside.get(row["id"], [])) for row in rows]

    def members(self, connection: Connection, group: str) -> list[str]:
        """The ids of the people in a group."""
        query = (
            select(provisioned_members.c.account)
            .where(provisioned_members.c.group_id == group)
            .order_by(provisioned_members.c.account)
        )
        return [str(one) for one in connection.execute(query).scalars()]

    def _set_members(self, call: Call, group: str, wanted: Sequence[str]) -> bool:
        """Make these the members; True if somebody came or went."""
        before = set(self.members(call.connection, group))
        coming, going = sorted(set(wanted) - before), sorted(before - set(wanted))
        self._must_be_there(call, coming)
        for some in _in_pieces(going):
            call.connection.execute(
                delete(provisioned_members).where(
                    provisioned_members.c.group_id == group, provisioned_members.c.account.in_(some)
                )
            )
        if coming:
            call.connection.execute(
                insert(provisioned_members),
                [{"group_id": group, "account": one} for one in coming],
            )
        if coming or going:
            call.note(n_added=len(coming), n_removed=len(going))
            self._users.give_roles(call, [*coming, *going])
        return bool(coming or going)

    def _must_be_there(self, call: Call, people: Sequence[str]) -> None:
        known: set[str] = set()
        for some in _in_pieces(people):
            query = select(provisioned_users.c.account).where(
                provisioned_users.c.provisioner == call.principal.id,
                provisioned_users.c.account.in_(some),
            )
            known.update(call.connection.execute(query).scalars())
        strange = [one for one in people if one not in known]
        if strange:
            raise invalid(
                f"There is no user {strange[0][:80]!r} to be a member.",
                hint="Make the person first; members are named by their ids.",
            )

    def _own(self, call: Call, group: str, version: int | None) -> RowMapping:
        query = (
            select(provisioned_groups)
            .where(
                provisioned_groups.c.id == group,
                provisioned_groups.c.provisioner == call.principal.id,
            )
            .with_for_update()
        )
        row = call.connection.execute(query).mappings().first()
        if row is None:
            raise missing("group", group)
        check_version(row["version"], version)
        call.note(group=row["display_name"])
        return row

    def _unique(self, call: Call, name: str, *, besides: str) -> None:
        columns = provisioned_groups.c
        query = select(columns.id).where(
            columns.provisioner == call.principal.id,
            columns.display_name_key == name_key(name),
            columns.id != besides,
        )
        if call.connection.execute(query).first() is not None:
            raise _taken(name)

    @staticmethod
    def _write(call: Call, group: str, values: Mapping[str, Any]) -> None:
        call.connection.execute(
            update(provisioned_groups)
            .where(provisioned_groups.c.id == group)
            .values(version=provisioned_groups.c.version + 1, modified_at=call.now, **values)
        )

    def _group(self, row: RowMapping, members: Sequence[Member]) -> ProvisionedGroup:
        roles = self._map.of_group(row["provisioner"], row["display_name"], row["external_id"])
        return ProvisionedGroup(
            id=row["id"],
            provisioner=row["provisioner"],
            display_name=row["display_name"],
            external_id=row["external_id"],
            roles=tuple(role.value for role in roles),
            members=tuple(members),
            version=row["version"],
            created_at=row["created_at"],
            modified_at=row["modified_at"],
        )


def _people(connection: Connection, groups: Sequence[str]) -> dict[str, list[Member]]:
    found: dict[str, list[Member]] = {}
    for some in _in_pieces(groups):
        query = (
            select(
                provisioned_members.c.group_id,
                provisioned_users.c.account,
                provisioned_users.c.user_name,
            )
            .join(provisioned_users, provisioned_users.c.account == provisioned_members.c.account)
            .where(provisioned_members.c.group_id.in_(some))
            .order_by(provisioned_users.c.account)
        )
        for row in connection.execute(query):
            found.setdefault(row.group_id, []).append(
                Member(id=row.account, user_name=row.user_name)
            )
    return found


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        f"There is a group {name!r} already.", hint="Find it with a filter: displayName eq."
    )


def _in_pieces(items: Sequence[str]) -> Iterable[Sequence[str]]:
    for begin in range(0, len(items), _AT_ONCE):
        yield items[begin : begin + _AT_ONCE]


_COLUMNS: Mapping[str, Any] = {
    "id": provisioned_groups.c.id,
    "displayName": provisioned_groups.c.display_name_key,
    "externalId": provisioned_groups.c.external_id,
}
_KEYS = {"displayName": name_key}
