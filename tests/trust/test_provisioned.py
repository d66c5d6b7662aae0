"""People and groups of provisioners in every database: one transaction, one truth."""

from __future__ import annotations

from typing import Any

import pytest

from falaj.kernel.database import Database
from falaj.kernel.errors import AlreadyExists, NotFound
from falaj.kernel.settings_provisioning import GroupRule
from falaj.testing.fixtures import MakeCall
from falaj.trust.accounts import Accounts
from falaj.trust.model import AccountState, Role
from falaj.trust.provisioned import ProvisionedUsers
from falaj.trust.provisioned_groups import ProvisionedGroups
from falaj.trust.provisioning_model import NotProvisionable, VersionMoved
from falaj.trust.provisioning_roles import RoleMap
from falaj.trust.sessions import Sessions

ROLES = RoleMap(
    [
        GroupRule(group="Engineers", roles=("ml_engineer",)),
        GroupRule(group="A", roles=("approver",)),
        GroupRule(group="B", roles=("administrator",)),
    ]
)


class Store:
    """Provisioning over a database, asked by one provisioner or another."""

    def __init__(self, database: Database, make_call: MakeCall) -> None:
        self.database = database
        self.accounts = Accounts()
        self.users = ProvisionedUsers(self.accounts, Sessions(), ROLES, domain="corp.ae")
        self.groups = ProvisionedGroups(self.users, ROLES)
        self._make_call = make_call

    def call(self, who: str = "service:entra") -> Any:
        return self._make_call(self.database, who)

    def account(self, name: str) -> Any:
        with self.database.reading() as connection:
            return self.accounts.get(connection, name)


@pytest.fixture
def store(database: Database, make_call: MakeCall) -> Store:
    return Store(database, make_call)


def test_people_and_groups_are_kept_changed_and_forgotten(store: Store) -> None:
    with store.call() as call:
        amina = store.users.create(
            call, {"userName": "Amina@corp.ae", "externalId": "1", "displayName": "Amina"}
        )
        group = store.groups.create(
            call, {"displayName": "Engineers", "members": [{"value": amina.id}]}
        )
    assert store.account("amina").roles == (Role.ML_ENGINEER,)
    with store.call() as call:
        found = store.users.listed(
            call.connection, provisioner="service:entra", named={"userName": "AMINA@CORP.AE"}
        )
        assert [one.id for one in found] == [amina.id]
        assert [one.id for one in found[0].groups] == [group.id]
        store.users.replace(call, amina.id, {"userName": "amina@corp.ae", "active": False})
    assert store.account("amina").state is AccountState.SUSPENDED
    with store.call() as call:
        again = store.users.replace(call, amina.id, {"userName": "amina@corp.ae", "active": True})
        assert (again.active, again.personal, again.external_id) == (True, {}, None)
        store.groups.remove(call, group.id)
    assert store.account("amina").roles == ()
    with store.call() as call:
        store.users.remove(call, amina.id)
        assert store.users.count(call.connection, provisioner=None) == 0
    assert store.account("amina").state is AccountState.DEACTIVATED


def test_the_same_name_or_id_is_taken_once_for_each_provisioner(store: Store) -> None:
    with store.call() as call:
        store.users.create(call, {"userName": "omar@corp.ae", "externalId": "7"})
        store.groups.create(call, {"displayName": "Engineers"})
    for document in ({"userName": "OMAR@corp.ae"}, {"userName": "other", "externalId": "7"}):
        with pytest.raises(AlreadyExists), store.call() as call:
            store.users.create(call, document)
    with pytest.raises(AlreadyExists), store.call() as call:
        store.groups.create(call, {"displayName": "ENGINEERS"})
    with store.call("service:okta") as call:
        store.users.create(call, {"userName": "omar@okta.example", "externalId": "7"})
        store.groups.create(call, {"displayName": "Engineers"})


def test_what_cannot_be_done_whole_is_not_done(store: Store) -> None:
    with store.call() as call:
        people = [store.users.create(call, {"userName": f"p{n}"}).id for n in range(3)]
        store.groups.create(call, {"displayName": "A", "members": [{"value": people[2]}]})
    members = [{"value": one} for one in people]
    with pytest.raises(NotProvisionable, match="p2"), store.call() as call:
        store.groups.create(call, {"displayName": "B", "members": members})
    assert [store.account(f"p{n}").roles for n in range(3)] == [(), (), (Role.APPROVER,)]
    with store.call() as call:
        assert store.groups.count(call.connection, provisioner="service:entra") == 1


def test_a_stranger_and_an_old_version_change_nothing(store: Store) -> None:
    with store.call() as call:
        user = store.users.create(call, {"userName": "hala"})
        group = store.groups.create(call, {"displayName": "Engineers"})
    with pytest.raises(NotFound), store.call("service:okta") as call:
        store.users.replace(call, user.id, {"userName": "hala", "active": False})
    with pytest.raises(NotFound), store.call("service:okta") as call:
        store.groups.remove(call, group.id)
    with pytest.raises(VersionMoved), store.call() as call:
        store.users.remove(call, user.id, version=2)
    with pytest.raises(VersionMoved), store.call() as call:
        store.groups.replace(call, group.id, {"displayName": "X"}, version=9)
    assert store.account("hala").state is AccountState.ACTIVE
