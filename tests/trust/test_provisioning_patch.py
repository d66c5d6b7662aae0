"""PATCH as identity providers send it, on people and on groups."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.trust.provisioning import account_name, checked_group, checked_user
from falaj.trust.provisioning_model import NotProvisionable
from falaj.trust.provisioning_patch import patched_group, patched_user

AMINA: dict[str, Any] = {
    "userName": "amina@corp.ae",
    "active": True,
    "displayName": "Amina",
    "name": {"givenName": "Amina", "familyName": "Haddad"},
    "emails": [{"value": "amina@corp.ae", "type": "work", "primary": True}],
}
URN = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


def user(*operations: dict[str, Any]) -> dict[str, Any]:
    return checked_user(patched_user(AMINA, list(operations)))


def group(members: list[str], *operations: dict[str, Any]) -> list[str]:
    held = {"displayName": "Engineers", "members": [{"value": one} for one in members]}
    after = checked_group(patched_group(held, list(operations)))
    return [one["value"] for one in after["members"]]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "Replace", "path": "active", "value": "False"},
        {"op": "replace", "path": "active", "value": False},
        {"op": "REPLACE", "path": f"{URN}:active", "value": "false"},
        {"op": "Add", "path": "ACTIVE", "value": "FALSE"},
        {"op": "replace", "value": {"active": False}},
        {"Op": "Replace", "Value": {"Active": "False"}},
        {"op": "replace", "value": {f"{URN}:active": False}},
        {"op": "replace", "value": {URN: {"active": False}}},
        {"op": "replace", "value": {"id": "user_9", "active": False}},
    ],
)
def test_every_way_to_say_that_a_person_left_is_understood(operation: dict[str, Any]) -> None:
    assert user(operation) == {**AMINA, "active": False}


@pytest.mark.parametrize("value", ["no", "0", 0, None, [], {}, "Falsch"])
def test_what_is_neither_true_nor_false_is_refused(value: Any) -> None:
    found = patched_user(AMINA, [{"op": "replace", "path": "active", "value": value}])
    if value is None:
        assert "active" not in checked_user(found)
        return
    with pytest.raises(NotProvisionable):
        checked_user(found)


@pytest.mark.parametrize(
    ("operation", "changes"),
    [
        ({"op": "add", "path": "displayName", "value": "A. H."}, {"displayName": "A. H."}),
        ({"op": "remove", "path": "displayName"}, {"displayName": None}),
        (
            {"op": "replace", "path": "name.familyName", "value": "Saif"},
            {"name": {"givenName": "Amina", "familyName": "Saif"}},
        ),
        (
            {"op": "replace", "value": {"name.familyName": "Saif", "nickName": "Mina"}},
            {"name": {"givenName": "Amina", "familyName": "Saif"}},
        ),
        ({"op": "remove", "path": "name"}, {"name": None}),
        (
            {"op": "replace", "path": 'emails[type eq "work"].value', "value": "a@new.ae"},
            {"emails": [{"value": "a@new.ae", "type": "work", "primary": True}]},
        ),
        (
            {"op": "Add", "path": 'emails[type eq "home"].value', "value": "a@home.ae"},
            {"emails": [*AMINA["emails"], {"value": "a@home.ae", "type": "home"}]},
        ),
        (
            {"op": "add", "path": "emails", "value": [{"value": "b@x.ae", "primary": "True"}]},
            {"emails": [{"value": "amina@corp.ae", "type": "work"},
                        {"value": "b@x.ae", "primary": True}]},
        ),
        ({"op": "remove", "path": 'emails[type eq "work"]'}, {"emails": None}),
        ({"op": "add", "path": f"{ENTERPRISE}:department", "value": "ML"}, {}),
        ({"op": "add", "value": {ENTERPRISE: {"department": "ML"}}}, {}),
        ({"op": "add", "path": 'phoneNumbers[type eq "mobile"].value', "value": "1"}, {}),
        ({"op": "replace", "path": "name.honorificPrefix", "value": "Dr"}, {}),
        ({"op": "replace", "value": {"password": "secret"}}, {}),
    ],
)  # fmt: skip
def test_a_patch_changes_what_it_names_and_no_more(
    operation: dict[str, Any], changes: dict[str, Any]
) -> None:
    expected = {**AMINA, **changes}
    assert user(operation) == {name: one for name, one in expected.items() if one is not None}


@pytest.mark.parametrize(
    ("operation", "word"),
    [
        ({"op": "move", "path": "active"}, "invalidSyntax"),
        ({"path": "active", "value": True}, "invalidSyntax"),
        ({"op": "remove"}, "noTarget"),
        ({"op": "replace", "value": "x"}, "invalidSyntax"),
        ({"op": "replace", "path": "id", "value": "user_2"}, "mutability"),
        ({"op": "add", "path": "groups", "value": [{"value": "group_1"}]}, "mutability"),
        ({"op": "replace", "path": "roles2", "value": "administrator"}, "invalidPath"),
        ({"op": "replace", "path": "urn:x:y:active", "value": True}, "invalidPath"),
        ({"op": "replace", "path": 'emails[type eq "x"].value', "value": "a"}, "noTarget"),
        ({"op": "replace", "path": 'name[type eq "x"]', "value": {}}, "invalidPath"),
        ({"op": "remove", "path": "userName"}, "mutability"),
        ({"op": "replace", "path": 5, "value": True}, "invalidPath"),
        ({"op": "add", "path": 'emails[value co "x"].type', "value": "a"}, "noTarget"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_word(operation: dict[str, Any], word: str) -> None:
    with pytest.raises(NotProvisionable) as caught:
        user(operation)
    assert caught.value.scim_type == word


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "Add", "path": "members", "value": [{"value": "u3"}]},
        {"op": "add", "value": {"members": [{"value": "u3", "display": "x"}]}},
        {"op": "add", "path": "members", "value": {"value": "u3"}},
        {"op": "replace", "path": "members",
         "value": [{"value": "u1"}, {"value": "u2"}, {"value": "u3"}]},
        {"op": "add", "path": "members", "value": [{"value": "u2"}, {"value": "u3"}]},
    ],
)  # fmt: skip
def test_every_way_to_add_a_member_is_understood(operation: dict[str, Any]) -> None:
    assert group(["u1", "u2"], operation) == ["u1", "u2", "u3"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "Remove", "path": "members", "value": [{"value": "u2"}]},
        {"op": "remove", "path": 'members[value eq "u2"]'},
        {"op": "remove", "path": 'members[value eq "u2"].value'},
        {"op": "replace", "path": "members", "value": [{"value": "u1"}]},
    ],
)
def test_every_way_to_remove_a_member_is_understood(operation: dict[str, Any]) -> None:
    assert group(["u1", "u2"], operation) == ["u1"]


def test_members_without_a_value_are_all_removed() -> None:
    assert group(["u1", "u2"], {"op": "remove", "path": "members"}) == []


@pytest.mark.parametrize(
    "members", [[{"value": "g1", "type": "Group"}], [{"display": "x"}], [5], "x" * 300]
)
def test_a_member_is_a_person_named_by_id(members: Any) -> None:
    with pytest.raises(NotProvisionable):
        checked_group({"displayName": "Engineers", "members": members})


PEOPLE = st.sampled_from([f"u{n}" for n in range(6)])


@settings(max_examples=60)
@given(
    st.lists(PEOPLE, unique=True),
    st.lists(st.tuples(st.booleans(), PEOPLE, st.booleans()), min_size=1, max_size=8),
)
def test_members_come_and_go_as_in_a_set(
    begin: list[str], steps: list[tuple[bool, str, bool]]
) -> None:
    expected = set(begin)
    operations: list[dict[str, Any]] = []
    for adds, who, by_path in steps:
        if adds:
            value = [{"value": who}]
            operations.append(
                {"op": "add", "path": "members", "value": value}
                if by_path
                else {"op": "Add", "value": {"members": value}}
            )
            expected.add(who)
        else:
            operations.append(
                {"op": "remove", "path": f'members[value eq "{who}"]'}
                if by_path
                else {"op": "Remove", "path": "members", "value": [{"value": who}]}
            )
            expected.discard(who)
    found = group(begin, *operations)
    assert set(found) == expected
    assert len(found) == len(set(found))


WRITTEN = st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=10)


@settings(max_examples=60)
@given(st.sampled_from(["displayName", "title", "locale", "name.givenName", "externalId"]), WRITTEN)
def test_adding_and_removing_again_leaves_all_else_as_it_was(path: str, value: str) -> None:
    added = user({"op": "add", "path": path, "value": value})
    attribute, _, part = path.partition(".")
    assert (added[attribute][part] if part else added[attribute]) == value.strip()
    removed = user({"op": "add", "path": path, "value": value}, {"op": "remove", "path": path})
    others = {name: one for name, one in AMINA.items() if name != attribute}
    assert {name: one for name, one in removed.items() if name != attribute} == others


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_any_value_is_taken_or_refused_and_nothing_else_happens(value: Any) -> None:
    for path in (None, "active", "name", "emails", 'emails[type eq "work"]', "userName"):
        operation = {"op": "replace", "value": value} | ({"path": path} if path else {})
        try:
            found = user(operation)
        except NotProvisionable:
            continue
        assert isinstance(found["userName"], str)


@pytest.mark.parametrize(
    ("user_name", "domain", "name"),
    [
        ("amina", "", "amina"),
        ("Amina.H", "", "amina.h"),
        ("amina@corp.ae", "corp.ae", "amina"),
        ("amina@corp.ae", "", "amina-at-corp.ae"),
        ("amina@evil.ae", "corp.ae", "amina-at-evil.ae"),
        ("amina@evil.ae@corp.ae", "corp.ae", "amina-at-evil.ae"),
        ("7of9@corp.ae", "corp.ae", "u-7of9"),
        ("o'brien x", "", "o-brien-x"),
    ],
)
def test_an_account_is_named_for_its_user_name(user_name: str, domain: str, name: str) -> None:
    assert account_name(user_name, domain=domain) == name


@pytest.mark.parametrize("user_name", ["...", "ملف", "x", "a" * 70])
def test_a_user_name_that_leaves_no_name_is_refused(user_name: str) -> None:
    with pytest.raises(NotProvisionable):
        account_name(user_name)
