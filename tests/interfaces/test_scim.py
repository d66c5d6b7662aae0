"""SCIM over HTTP: what Entra ID and Okta send, and what the standard promises them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.settings_provisioning import GroupRule
from falaj.testing.installations import eventually
from falaj.testing.provisioners import ORIGIN, Provider, ProvisionedSite
from falaj.trust.model import AccountState, Role
from falaj.trust.provisioned import account_of_external
from falaj.trust.provisioning_roles import RoleMap

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
LEFT = {"op": "Replace", "path": "active", "value": "False"}
BACK = {"op": "replace", "value": {"active": True}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvisionedSite]:
    made = ProvisionedSite(tmp_path_factory.mktemp("provisioned"))
    yield made
    made.premises.close()


@pytest.fixture(scope="module")
def entra(site: ProvisionedSite) -> Provider:
    return site.provider("entra")


@pytest.fixture(scope="module")
def okta(site: ProvisionedSite) -> Provider:
    return site.provider("okta")


def test_a_user_is_made_with_an_account_and_without_roles(
    site: ProvisionedSite, entra: Provider
) -> None:
    answer = entra.send("POST", "/Users", {
        "schemas": [USER, "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],
        "externalId": "0a21f0f2", "userName": "Amina@corp.ae", "active": True,
        "displayName": "Amina Haddad", "password": "1mz050nq", "phoneNumbers": [{"value": "1"}],
        "emails": [{"primary": True, "type": "work", "value": "amina@corp.ae"}],
        "name": {"formatted": "Amina Haddad", "familyName": "Haddad", "givenName": "Amina"},
    })  # fmt: skip
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/scim+json"
    assert answer.headers["location"] == f"{ORIGIN}/scim/v2/Users/{made['id']}"
    assert made["meta"]["location"] == answer.headers["location"]
    assert answer.headers["etag"] == made["meta"]["version"] == 'W/"1"'
    assert (made["userName"], made["externalId"], made["active"]) == (
        "Amina@corp.ae", "0a21f0f2", True)  # fmt: skip
    assert "password" not in made
    assert "phoneNumbers" not in made
    account = site.account("amina")
    assert (account.state, account.roles) == (AccountState.ACTIVE, ())
    assert not account.has_password
    assert account.created_by == "service:entra"


def test_what_is_known_of_a_person_stands_in_no_audit_record(
    site: ProvisionedSite, entra: Provider
) -> None:
    entra.user("quiet@corp.ae", displayName="Nobody Knows", password="hunter2", title="Hidden")
    record = site.records("provisioning.create_user")[-1]
    assert record["outcome"] == "done"
    assert record["principal"] == "service:entra"
    assert record["details"]["account"] == "quiet"
    assert not any(word in str(record) for word in ("Nobody Knows", "hunter2", "Hidden"))


def test_the_same_user_again_is_a_conflict_whatever_the_case(entra: Provider) -> None:
    entra.user("twice@corp.ae", externalId="x-twice")
    for body in ({"userName": "TWICE@corp.ae"}, {"userName": "other", "externalId": "x-twice"}):
        answer = entra.send("POST", "/Users", body)
        assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness")
        assert answer.json()["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
        assert answer.json()["status"] == "409"


def test_two_user_names_that_come_to_one_account_name_get_two_accounts(
    site: ProvisionedSite, entra: Provider
) -> None:
    entra.user("o'neil@corp.ae")
    entra.user("o-neil@corp.ae")
    assert {site.account(name).created_by for name in ("o-neil", "o-neil-2")} == {"service:entra"}


@pytest.mark.parametrize("operation", [
    LEFT, {"op": "replace", "path": f"{USER}:active", "value": False},
    {"op": "Replace", "value": {"active": False}},
])  # fmt: skip
def test_a_person_who_left_is_out_and_comes_back_with_all_credentials(
    site: ProvisionedSite, entra: Provider, operation: dict[str, Any]
) -> None:
    name = site.new("leaver")
    user = entra.user(f"{name}@corp.ae")
    tokens = site.signed_in(name)
    token = tokens.access_token.get_secret_value()
    assert site.status(token) == 200
    answer = entra.patch(f"/Users/{user['id']}", operation)
    assert (answer.status_code, answer.json()["active"]) == (200, False)
    assert site.account(name).state is AccountState.SUSPENDED
    eventually(lambda: site.status(token) == 401, seconds=5)
    refresh = tokens.refresh_token.get_secret_value()
    again = site.web.post("/auth/refresh", json={"refresh_token": refresh})
    assert again.status_code == 401
    assert entra.patch(f"/Users/{user['id']}", BACK).json()["active"] is True
    assert site.account(name).state is AccountState.ACTIVE
    assert site.web.post("/auth/refresh", json={"refresh_token": refresh}).status_code == 401
    assert site.status(site.signed_in(name).access_token.get_secret_value()) == 200


def test_a_put_that_does_not_say_active_brings_nobody_back(
    site: ProvisionedSite, okta: Provider
) -> None:
    user = okta.user("still@okta.example", active=False)
    answer = okta.send("PUT", f"/Users/{user['id']}", {"userName": "still@okta.example"})
    assert (answer.status_code, answer.json()["active"]) == (200, False)


def test_okta_puts_a_user_whole(site: ProvisionedSite, okta: Provider) -> None:
    user = okta.user("saif@okta.example", displayName="Saif", title="Analyst")
    whole = {**user, "displayName": "Saif A.", "active": True}
    del whole["title"]
    answer = okta.send("PUT", f"/Users/{user['id']}", whole)
    assert answer.status_code == 200
    assert answer.json()["displayName"] == "Saif A."
    assert "title" not in answer.json()
    assert answer.json()["meta"]["version"] == 'W/"2"'


def test_a_put_that_changes_nothing_is_no_new_version(okta: Provider) -> None:
    user = okta.user("same@okta.example", displayName="Same")
    answer = okta.send("PUT", f"/Users/{user['id']}", user)
    assert answer.json()["meta"]["version"] == 'W/"1"'


def test_a_user_is_found_by_what_providers_ask_for(okta: Provider) -> None:
    user = okta.user("Find.Me@okta.example", externalId="find-1", active=False)
    for text in ('userName eq "find.me@okta.example"', 'externalId eq "find-1"',
                 f'id eq "{user["id"]}"', 'userName sw "find." and active eq false'):  # fmt: skip
        found = okta.send("GET", f"/Users?filter={text}").json()
        assert [one["id"] for one in found["Resources"]] == [user["id"]], text
        assert (found["totalResults"], found["itemsPerPage"], found["startIndex"]) == (1, 1, 1)
    nobody = okta.send("GET", '/Users?filter=userName eq "find"').json()
    assert (nobody["totalResults"], nobody["Resources"]) == (0, [])


def test_lists_are_read_in_pages(site: ProvisionedSite) -> None:
    pages = site.provider(site.new("pages"))
    ids = [pages.user(f"page{n}@pages.example")["id"] for n in range(5)]
    seen = []
    for start in (1, 3, 5):
        page = pages.send("GET", f"/Users?startIndex={start}&count=2").json()
        assert page["totalResults"] == 5
        seen += [one["id"] for one in page["Resources"]]
    assert sorted(seen) == sorted(ids)
    assert pages.send("GET", "/Users?count=0").json()["Resources"] == []
    assert len(pages.send("GET", "/Users?startIndex=0&count=500").json()["Resources"]) == 5
    filtered = pages.send("GET", '/Users?startIndex=2&count=2&filter=userName sw "page"').json()
    assert (filtered["totalResults"], filtered["itemsPerPage"]) == (5, 2)
    assert pages.send("GET", "/Users?count=x").json()["scimType"] == "invalidValue"


def test_an_answer_holds_the_attributes_that_were_asked_for(entra: Provider) -> None:
    user = entra.user("shape@corp.ae", name={"givenName": "S", "familyName": "T"}, title="X")
    path = f"/Users/{user['id']}"
    only = entra.send("GET", f"{path}?attributes=userName,name.givenName").json()
    assert only == {"schemas": [USER], "id": user["id"], "userName": "shape@corp.ae",
                    "name": {"givenName": "S"}}  # fmt: skip
    without = entra.send("GET", f"{path}?excludedAttributes=title,name.familyName,id").json()
    assert without["id"] == user["id"]
    assert "title" not in without
    assert without["name"] == {"givenName": "S"}
    both = entra.send("GET", f"{path}?attributes=id&excludedAttributes=title")
    assert both.status_code == 400


def test_a_version_that_moved_on_is_not_written_over(entra: Provider) -> None:
    user = entra.user("tag@corp.ae")
    path, tag = f"/Users/{user['id']}", user["meta"]["version"]
    title = {"op": "add", "path": "title", "value": "Chief"}
    assert entra.send("GET", path, If_None_Match=tag).status_code == 304
    assert entra.patch(path, title, If_Match=tag).status_code == 200
    assert entra.patch(path, {**title, "value": "None"}, If_Match=tag).status_code == 412
    assert entra.send("PUT", path, {"userName": "tag@corp.ae"}, If_Match=tag).status_code == 412
    assert entra.send("DELETE", path, If_Match=tag).status_code == 412
    assert entra.send("DELETE", path, If_Match="nonsense").status_code == 412
    assert entra.send("GET", path, If_None_Match=tag).json()["title"] == "Chief"
    assert entra.send("DELETE", path, If_Match='W/"2"').status_code == 204


def test_a_removed_person_is_shut_for_good_and_forgotten(
    site: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("gone@corp.ae", externalId="g-1", displayName="Gone")
    entra.group("Leaving", user["id"])
    token = site.signed_in("gone").access_token.get_secret_value()
    assert entra.send("DELETE", f"/Users/{user['id']}").status_code == 204
    assert site.account("gone").state is AccountState.DEACTIVATED
    assert entra.send("GET", f"/Users/{user['id']}").status_code == 404
    assert entra.send("DELETE", f"/Users/{user['id']}").status_code == 404
    eventually(lambda: site.status(token) == 401, seconds=5)
    again = entra.user("gone@corp.ae", externalId="g-1")
    assert again["id"] != user["id"]
    assert site.account("gone-2").state is AccountState.ACTIVE


def test_groups_give_roles_by_the_operators_map_and_take_them_away(
    site: ProvisionedSite, entra: Provider
) -> None:
    one, two = entra.user("g1@corp.ae"), entra.user("g2@corp.ae")
    made = entra.group("Engineers", one["id"], externalId="g-eng")
    assert made.status_code == 201
    path = f"/Groups/{made.json()['id']}"
    assert set(site.account("g1").roles) == {Role.ML_ENGINEER, Role.DATA_SCIENTIST}
    add = {"op": "Add", "path": "members", "value": [{"value": two["id"]}]}
    answer = entra.patch(path, add)
    assert (answer.status_code, answer.content) == (204, b"")
    assert set(site.account("g2").roles) == {Role.ML_ENGINEER, Role.DATA_SCIENTIST}
    shown = entra.send("GET", f"/Users/{two['id']}").json()
    assert [group["display"] for group in shown["groups"]] == ["Engineers"]
    remove = {"op": "Remove", "path": "members", "value": [{"value": one["id"]}]}
    entra.patch(path, remove)
    assert site.account("g1").roles == ()
    asked = entra.patch(f"{path}?attributes=members", add)
    assert [m["value"] for m in asked.json()["members"]] == [two["id"]]
    members = entra.send("GET", f"{path}?excludedAttributes=members").json()
    assert "members" not in members
    renamed = entra.patch(path, {"op": "replace", "value": {"displayName": "Viewers"}})
    assert renamed.status_code == 204
    assert site.account("g2").roles == (Role.VIEWER,)
    assert entra.send("DELETE", path).status_code == 204
    assert site.account("g2").roles == ()


def test_a_group_is_found_by_its_name_and_put_whole(site: ProvisionedSite, okta: Provider) -> None:
    people = [okta.user(f"put{n}@okta.example")["id"] for n in range(3)]
    group = okta.group("Put Whole", *people[:2]).json()
    found = okta.send("GET", '/Groups?filter=displayName eq "put whole"').json()
    assert [one["id"] for one in found["Resources"]] == [group["id"]]
    bare = okta.send("GET", '/Groups?excludedAttributes=members&filter=displayName sw "put"')
    assert "members" not in bare.json()["Resources"][0]
    body = {"displayName": "Put Whole", "members": [{"value": one} for one in people[1:]]}
    answer = okta.send("PUT", f"/Groups/{group['id']}", body)
    assert sorted(one["value"] for one in answer.json()["members"]) == sorted(people[1:])
    assert answer.json()["members"][0]["$ref"].startswith(f"{ORIGIN}/scim/v2/Users/user_")
    assert okta.group("PUT whole").status_code == 409


def test_roles_that_one_account_must_not_unite_fail_the_whole_request(
    site: ProvisionedSite, entra: Provider
) -> None:
    both, plain = entra.user("both@corp.ae"), entra.user("plain@corp.ae")
    admins = entra.group("Admins", both["id"]).json()
    answer = entra.group("Approvers", plain["id"], both["id"])
    assert answer.status_code == 400
    assert "'both'" in answer.json()["detail"]
    assert site.account("plain").roles == ()
    assert site.account("both").roles == (Role.ADMINISTRATOR,)
    missing = entra.send("GET", '/Groups?filter=displayName eq "Approvers"').json()
    assert missing["totalResults"] == 0
    assert entra.send("DELETE", f"/Groups/{admins['id']}").status_code == 204


def test_a_suspended_person_comes_back_as_an_invited_one_if_that_is_what_they_were(
    site: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("reset@corp.ae")
    site.ask("accounts.reset", name="reset")
    assert site.account("reset").state is AccountState.INVITED
    entra.patch(f"/Users/{user['id']}", LEFT)
    entra.patch(f"/Users/{user['id']}", BACK)
    assert site.account("reset").state is AccountState.INVITED


def test_who_was_shut_by_an_administrator_is_not_brought_back(
    site: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("shut@corp.ae")
    site.ask("accounts.deactivate", name="shut")
    assert entra.send("GET", f"/Users/{user['id']}").json()["active"] is False
    assert entra.patch(f"/Users/{user['id']}", BACK).status_code == 409
    assert site.account("shut").state is AccountState.DEACTIVATED


def test_an_account_that_is_there_is_kept_after_an_administrator_has_handed_it_over(
    site: ProvisionedSite, entra: Provider
) -> None:
    site.ask("accounts.invite", name="salma", roles=("viewer",))
    answer = entra.send("POST", "/Users", {"userName": "salma@corp.ae"})
    assert (answer.status_code, answer.json()["scimType"]) == (409, "uniqueness")
    assert "hand-over" in answer.json()["detail"]
    handed = site.ask("provisioning.hand_over", name="salma", provisioner="entra",
                      user_name="salma@corp.ae", external_id="s-1")  # fmt: skip
    assert handed.roles == ()
    assert entra.send("GET", f"/Users/{handed.id}").json()["externalId"] == "s-1"
    with site.premises.database.reading() as connection:
        assert account_of_external(connection, "entra", "s-1") == "salma"
        assert account_of_external(connection, "entra", "S-1") is None
        assert account_of_external(connection, "okta", "s-1") is None


def test_an_account_is_handed_to_provisioners_alone(site: ProvisionedSite) -> None:
    site.provider("plain-program", "service")
    site.ask("accounts.invite", name="hala", roles=("viewer",))
    for keeper, error in (("plain-program", InvalidInput), ("nobody-here", NotFound)):
        with pytest.raises(error):
            site.ask("provisioning.hand_over", name="hala", provisioner=keeper, user_name="hala")


def test_a_changed_map_is_put_in_force_by_settling(site: ProvisionedSite, okta: Provider) -> None:
    user = okta.user("settle@okta.example")
    okta.group("Later", user["id"])
    service = site.premises.backend.services.named("provisioning")
    rules = RoleMap([GroupRule(group="Later", roles=("steward",))])
    before, service._users._map = service._users._map, rules
    try:
        with site.premises.database.reading() as connection:
            assert "settle-at-okta.example" in service._users.unsettled(connection)
        settled = site.ask("provisioning.settle")
    finally:
        service._users._map = before
    assert settled.changed["settle-at-okta.example"] == ("steward",)
    assert site.account("settle-at-okta.example").roles == (Role.STEWARD,)
    site.ask("provisioning.settle")


def test_the_provider_describes_itself(entra: Provider) -> None:
    config = entra.send("GET", "/ServiceProviderConfig").json()
    assert (config["patch"], config["bulk"]["supported"]) == ({"supported": True}, False)
    assert config["etag"]["supported"]
    types = entra.send("GET", "/ResourceTypes").json()["Resources"]
    assert [one["endpoint"] for one in types] == ["/Users", "/Groups"]
    for one in types:
        assert entra.send("GET", f"/ResourceTypes/{one['id']}").json() == one
        schema = entra.send("GET", f"/Schemas/{one['schema']}").json()
        assert schema["id"] == one["schema"]
    assert entra.send("GET", "/Schemas").json()["totalResults"] == 2
    assert entra.send("GET", "/Schemas/urn:x").status_code == 404


def test_every_attribute_that_an_answer_holds_is_in_the_schema(entra: Provider) -> None:
    user = entra.user(
        "whole@corp.ae", externalId="w", displayName="W", title="T", preferredLanguage="ar",
        locale="ar-AE", timezone="Asia/Dubai", name={"givenName": "W", "familyName": "H"},
        emails=[{"value": "w@corp.ae", "type": "work", "primary": True}],
    )  # fmt: skip
    group = entra.group("Described", user["id"], externalId="d").json()
    user = entra.send("GET", f"/Users/{user['id']}").json()
    for kind, resource in (("User", user), ("Group", group)):
        schema = entra.send("GET", f"/Schemas/urn:ietf:params:scim:schemas:core:2.0:{kind}").json()
        known = {one["name"]: one for one in schema["attributes"]}
        assert set(resource) - {"schemas", "id", "meta"} <= set(known)
        for name, attribute in known.items():
            parts = {one["name"] for one in attribute.get("subAttributes", [])} | {"$ref"}
            values = resource[name] if isinstance(resource[name], list) else [resource[name]]
            assert all(set(one) <= parts for one in values if isinstance(one, dict)), name


@pytest.mark.parametrize(("method", "path"), [("POST", "/Bulk"), ("GET", "/Me")])
def test_what_is_not_done_says_so(entra: Provider, method: str, path: str) -> None:
    answer = entra.send(method, path, {} if method == "POST" else None)
    assert (answer.status_code, answer.json()["status"]) == (501, "501")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "invalidValue"), ({"userName": 5}, "invalidValue"), ({"userName": ""}, "invalidValue"),
        ({"userName": "x" * 300}, "invalidValue"), ({"userName": "me"}, "invalidValue"),
        ({"userName": "a1", "active": "maybe"}, "invalidValue"),
        ({"userName": "a1", "emails": 5}, "invalidValue"),
        ({"userName": "a1", "name": "A"}, "invalidValue"), ([], "invalidSyntax"),
    ],
)  # fmt: skip
def test_a_body_that_is_none_is_refused_with_its_word(
    entra: Provider, body: Any, word: str
) -> None:
    answer = entra.send("POST", "/Users", body)
    assert (answer.status_code, answer.json()["scimType"]) == (400, word)


def test_roles_of_programs_and_roles_that_do_not_exist_are_mapped_to_nobody() -> None:
    for role in ("provisioner", "service", "root"):
        with pytest.raises(InvalidInput):
            RoleMap([GroupRule(group="G", roles=(role,))])


def test_a_group_is_mapped_by_name_by_provisioner_and_by_its_id() -> None:
    found = RoleMap([
        GroupRule(group="A", roles=("viewer",)),
        GroupRule(group="A", roles=("steward",), provisioner="entra"),
        GroupRule(group="A", roles=("auditor",), external_id="7"),
    ])  # fmt: skip
    assert found.of_group("service:okta", "A", None) == (Role.VIEWER,)
    assert found.of_group("service:okta", "a", "7") == ()
    assert set(found.of_group("service:entra", "A", "7")) == {
        Role.VIEWER, Role.STEWARD, Role.AUDITOR}  # fmt: skip
