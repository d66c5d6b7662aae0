"""A provisioner that wants more than its people: other accounts, roles, the last administrator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput, NotFound, StepUpRequired
from falaj.testing.provisioners import MEDIA, Provider, ProvisionedSite
from falaj.trust.accounts import check_roles
from falaj.trust.model import AccountState, Role

HTML = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvisionedSite]:
    made = ProvisionedSite(tmp_path_factory.mktemp("attacked"))
    yield made
    made.premises.close()


@pytest.fixture(scope="module")
def entra(provisioned: ProvisionedSite) -> Provider:
    return provisioned.provider("entra")


@pytest.fixture(scope="module")
def other(provisioned: ProvisionedSite) -> Provider:
    return provisioned.provider("other")


@pytest.fixture(autouse=True)
def _forgiven(request: pytest.FixtureRequest) -> None:
    if "provisioned" in request.fixturenames:
        request.getfixturevalue("provisioned").forgiven()


def test_a_group_that_the_map_does_not_name_gives_nothing(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("plain@corp.ae")
    for name in ("administrator", "Administrators", "admins", " Admins", "Admins\u200b", "ADMINS2"):
        entra.group(name, user["id"])
    assert provisioned.account("plain").roles == ()


def test_another_provisioners_group_of_the_same_name_gives_nothing(
    provisioned: ProvisionedSite, other: Provider
) -> None:
    user = other.user("copycat")
    assert other.group("Admins", user["id"]).status_code == 201
    assert other.group("Auditors", user["id"]).status_code == 201  # without the right external id
    assert provisioned.account("copycat").roles == ()


def test_roles_that_are_sent_with_a_user_are_not_taken(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("wishful@corp.ae", roles=[{"value": "administrator"}],
                      groups=[{"value": "Admins"}], entitlements=["administrator"])  # fmt: skip
    add = {"op": "add", "path": "roles", "value": [{"value": "administrator"}]}
    entra.patch(f"/Users/{user['id']}", add)
    groups = {"op": "add", "path": "groups", "value": [{"value": "Admins"}]}
    assert entra.patch(f"/Users/{user['id']}", groups).json()["scimType"] == "mutability"
    assert provisioned.account("wishful").roles == ()


def test_a_provisioner_sees_and_touches_no_account_that_it_did_not_make(
    provisioned: ProvisionedSite, entra: Provider, other: Provider
) -> None:
    provisioned.ask("accounts.invite", name="bystander", roles=("viewer",))
    strangers = [entra.user("mine@corp.ae")["id"], provisioned.account("bystander").id,
                 provisioned.account("owner").id, provisioned.account("entra").id]  # fmt: skip
    left = {"op": "replace", "path": "active", "value": False}
    for user in strangers:
        path = f"/Users/{user}"
        answers = [
            other.send("GET", path),
            other.send("PUT", path, {"userName": "taken", "active": False}),
            other.patch(path, left),
            other.send("DELETE", path),
        ]
        assert [one.status_code for one in answers] == [404] * 4
        assert other.group(f"Engineers-{user}", user).status_code == 400
    assert provisioned.account("mine").state is AccountState.ACTIVE
    assert provisioned.account("owner").state is AccountState.ACTIVE
    seen = other.send("GET", "/Users?count=500").json()["Resources"]
    assert not {one["id"] for one in seen} & set(strangers)
    for name in ("bystander", "owner", "entra"):
        assert other.send("POST", "/Users", {"userName": name}).status_code == 409
    failed = provisioned.records("provisioning.patch_user")[-1]
    assert (failed["outcome"], failed["details"]["error"]) == ("failed", "not-found")


def test_another_provisioners_group_is_not_joined(
    provisioned: ProvisionedSite, entra: Provider, other: Provider
) -> None:
    user = other.user("joiner")
    group = entra.group("Engineers").json()
    add = {"op": "add", "path": "members", "value": [{"value": user["id"]}]}
    assert other.patch(f"/Groups/{group['id']}", add).status_code == 404
    assert entra.patch(f"/Groups/{group['id']}", add).json()["scimType"] == "invalidValue"
    assert provisioned.account("joiner").roles == ()


@dataclass
class Alone:
    """A platform whose only administrator is provisioned."""

    site: ProvisionedSite
    entra: Provider
    user: str
    group: str


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    site = ProvisionedSite(tmp_path_factory.mktemp("alone"))
    entra = site.provider("entra")
    user = entra.user("boss@corp.ae")["id"]
    group = entra.group("Admins", user).json()["id"]
    site.ask("accounts.deactivate", name="owner")
    yield Alone(site, entra, user, group)
    site.premises.close()


@pytest.mark.parametrize("way", ["suspend", "remove", "leave", "empty", "forget", "rename"])
def test_the_last_administrator_stays(alone: Alone, way: str) -> None:
    entra, of_user, of_group = alone.entra, f"/Users/{alone.user}", f"/Groups/{alone.group}"
    left = {"op": "replace", "path": "active", "value": "False"}
    renamed = {"displayName": "Others", "members": [{"value": alone.user}]}
    ways = {
        "suspend": lambda: entra.patch(of_user, left),
        "remove": lambda: entra.send("DELETE", of_user),
        "leave": lambda: entra.patch(of_group, {"op": "remove", "path": "members"}),
        "empty": lambda: entra.send("PUT", of_group, {"displayName": "Admins"}),
        "forget": lambda: entra.send("DELETE", of_group),
        "rename": lambda: entra.send("PUT", of_group, renamed),
    }
    answer = ways[way]()
    assert answer.status_code == 409
    assert "last administrator" in answer.json()["detail"]
    account = alone.site.account("boss")
    assert (account.state, account.roles) == (AccountState.ACTIVE, (Role.ADMINISTRATOR,))


def test_a_provisioner_does_nothing_but_provision(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    principal = Principal("service:entra", PrincipalKind.SERVICE, ("provisioner",))
    program = Caller(principal, via="http")
    actions = provisioned.premises.backend.services.actions
    policy = provisioned.premises.policy
    may = {
        name
        for name, action in actions.items()
        if policy.decide(program, name, _of(action), stepped_up=False).allowed
    }
    of_provisioning = {name for name in actions if name.startswith("provisioning.")}
    assert may == {"accounts.me", *of_provisioning} - {"provisioning.hand_over",
                                                       "provisioning.settle"}  # fmt: skip
    for action in ("accounts.list", "tables.list", "accounts.set_roles", "audit.search"):
        needed = {"name": "owner", "roles": ("viewer",)} if "set_roles" in action else {}
        with pytest.raises((Forbidden, NotFound)):
            provisioned.ask(action, caller=program, **needed)
        assert provisioned.records(action)[-1]["outcome"] == "refused"


def _of(action: Any) -> Any:
    from falaj.kernel.call import AssetRef
    from falaj.kernel.ports import Resource

    return Resource(AssetRef(action.on, "x"))


def test_nobody_else_provisions(provisioned: ProvisionedSite) -> None:
    for roles in (("ml_engineer", "operator", "steward"), ("viewer",), ("auditor",), ("service",)):
        who = Caller(Principal("user:eve", PrincipalKind.USER, roles), via="http",
                     mfa_at=provisioned.premises.clock.now())  # fmt: skip
        with pytest.raises((Forbidden, NotFound)):
            provisioned.ask("provisioning.create_user", caller=who, user_name="eve2")
    assert provisioned.records("provisioning.create_user")[-1]["outcome"] == "refused"


def test_an_administrator_provisions_with_a_fresh_factor_and_never_the_own_account(
    provisioned: ProvisionedSite,
) -> None:
    stale = Caller(Principal("user:root", PrincipalKind.USER, ("administrator",)), via="http")
    with pytest.raises(StepUpRequired):
        provisioned.ask("provisioning.create_user", caller=stale, user_name="eve3")
    with pytest.raises(StepUpRequired):
        provisioned.ask("provisioning.create_group", caller=stale, display_name="Engineers")
    provisioned.ask("accounts.invite", name="manal", roles=("administrator",))
    manal = provisioned.administrator("manal")
    with pytest.raises(Forbidden):
        provisioned.ask("provisioning.hand_over", caller=manal, name="manal",
                        provisioner="entra", user_name="manal")  # fmt: skip


@pytest.mark.parametrize(
    ("roles", "kind"),
    [
        ((Role.PROVISIONER,), PrincipalKind.USER),
        ((Role.PROVISIONER, Role.SERVICE), PrincipalKind.SERVICE),
        ((Role.PROVISIONER, Role.ML_ENGINEER), PrincipalKind.SERVICE),
    ],
)
def test_a_provisioner_is_a_program_and_nothing_else(
    roles: tuple[Role, ...], kind: PrincipalKind
) -> None:
    with pytest.raises(InvalidInput):
        check_roles(roles, kind)


@pytest.mark.parametrize("token", ["", "x", "falaj_sk_wrong", "falaj_sk_" + "A" * 43, "a.b.c"])
def test_without_a_provisioners_secret_nothing_is_told(
    provisioned: ProvisionedSite, token: str
) -> None:
    stranger = Provider(provisioned.web, token)
    for method, path in (("GET", "/Users"), ("POST", "/Users"), ("GET", "/Schemas"),
                         ("GET", "/ServiceProviderConfig"), ("DELETE", "/Users/user_1"),
                         ("PATCH", "/Groups/x"), ("POST", "/Bulk")):  # fmt: skip
        answer = stranger.send(method, path, {} if method in ("POST", "PATCH") else None)
        assert answer.status_code in (401, 429), (method, path)
        assert answer.headers["content-type"] == MEDIA
        assert set(answer.json()) == {"schemas", "status", "detail"}


def test_the_secret_of_another_program_is_no_provisioners(provisioned: ProvisionedSite) -> None:
    plain = provisioned.provider("builder", "service", "ml_engineer")
    assert plain.send("GET", "/Users").status_code == 401
    record = provisioned.records("auth.provisioner")[-1]
    assert (record["outcome"], record["reasons"]) == ("refused", ["no-provisioner"])
    assert record["principal"] == "service:builder"


def test_a_provisioners_secret_opens_no_action_of_the_api(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    headers = {"Authorization": f"Bearer {entra.token}"}
    assert provisioned.web.get("/api/me", headers=headers).status_code == 401
    assert provisioned.web.get("/api/provisioning/users", headers=headers).status_code == 401


def test_guesses_at_secrets_make_an_address_wait(provisioned: ProvisionedSite) -> None:
    stranger = Provider(provisioned.web, "falaj_sk_guess")
    statuses = [stranger.send("GET", "/Users").status_code for _ in range(40)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


def test_a_provisioner_that_was_deactivated_is_out_at_once(provisioned: ProvisionedSite) -> None:
    leaving = provisioned.provider("leaving")
    assert leaving.send("GET", "/Users").status_code == 200
    provisioned.ask("accounts.deactivate", name="leaving")
    assert leaving.send("GET", "/Users").status_code == 401


@pytest.mark.parametrize(
    "text",
    [
        "userName eq \"x\" or 1=1", "\" or \"\"=\"", "userName eq \"x\"; DROP TABLE accounts; --",
        "userName eq 'x' UNION SELECT password_hash FROM accounts", "userName co \"%\" or",
        "(" * 500, "userName eq \"" + "A" * 5_000 + "\"", "not (" * 40 + "userName pr" + ")" * 40,
        "userName pr " + "or userName pr " * 300,
    ],
)  # fmt: skip
def test_an_injected_or_huge_filter_is_refused(entra: Provider, text: str) -> None:
    for path in ("/Users", "/Groups"):
        answer = entra.web.get(f"/scim/v2{path}", params={"filter": text},
                               headers={"Authorization": f"Bearer {entra.token}"})  # fmt: skip
        assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidFilter")


@pytest.mark.parametrize("text", ["%", "_", "*", "' OR '1'='1", "\\", "%00"])
def test_letters_that_mean_something_to_databases_mean_themselves(
    entra: Provider, text: str
) -> None:
    quoted = text.replace("\\", "\\\\")
    for word in ("eq", "co", "sw"):
        answer = entra.web.get("/scim/v2/Users", params={"filter": f'userName {word} "{quoted}"'},
                               headers={"Authorization": f"Bearer {entra.token}"})  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert answer.json()["totalResults"] == 0


def test_a_filter_does_not_find_what_is_not_shown(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    entra.user("shown@corp.ae")
    for attribute in ("password", "password_hash", "roles", "account", "provisioner", "totp"):
        found = entra.send("GET", f"/Users?filter={attribute} pr").json()
        assert found["totalResults"] == 0, attribute


def test_names_with_markup_are_kept_as_text_and_shown_as_data(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    user = entra.user("markup@corp.ae", displayName=HTML, externalId=HTML)
    group = entra.group(HTML, user["id"])
    for answer in (group, entra.send("GET", f"/Users/{user['id']}")):
        assert answer.headers["content-type"] == MEDIA
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    entra.send("POST", "/Users", {"userName": HTML})
    names = [one.name for one in provisioned.ask("accounts.list")]
    assert all("<" not in name and "/" not in name for name in names)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u202eb", "\u0000", "a\rb"])
def test_names_that_would_forge_a_line_are_refused(entra: Provider, name: str) -> None:
    assert entra.send("POST", "/Users", {"userName": name}).status_code == 400
    assert entra.group(name).status_code == 400


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("text/plain", b"{}"), ("application/x-www-form-urlencoded", b"userName=eve"),
        ("multipart/form-data", b""), ("text/html", b"{}"), (MEDIA, b"{"), (MEDIA, b"\xff"),
        (MEDIA, b"[" * 100_000), (MEDIA, b'{"userName": NaN}'), (MEDIA, b""),
    ],
)  # fmt: skip
def test_a_body_of_another_kind_is_refused(entra: Provider, media: str, body: bytes) -> None:
    answer = entra.web.post("/scim/v2/Users", content=body, headers={
        "Authorization": f"Bearer {entra.token}", "Content-Type": media})  # fmt: skip
    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidSyntax")


def test_a_patch_of_many_operations_is_refused(entra: Provider) -> None:
    user = entra.user("many@corp.ae")
    title = {"op": "add", "path": "title", "value": "x"}
    answer = entra.patch(f"/Users/{user['id']}", *[title] * 1_001)
    assert answer.status_code == 400


def test_nothing_of_a_refused_patch_is_kept(provisioned: ProvisionedSite, entra: Provider) -> None:
    user = entra.user("halfway@corp.ae", title="Before")
    answer = entra.patch(
        f"/Users/{user['id']}",
        {"op": "replace", "path": "title", "value": "After"},
        {"op": "replace", "path": "active", "value": False},
        {"op": "replace", "path": "nonsense", "value": 1},
    )
    assert answer.status_code == 400
    shown = entra.send("GET", f"/Users/{user['id']}").json()
    assert (shown["title"], shown["active"]) == ("Before", True)


def test_a_suspended_person_gets_back_in_by_none_of_the_old_ways(
    provisioned: ProvisionedSite, entra: Provider
) -> None:
    """A link or a ticket that was open when the person left opens nothing."""
    user = entra.user("ticket@corp.ae")
    link = provisioned.ask("accounts.reset", name="ticket").secret.get_secret_value()
    wanted = {"secret": link, "name": "ticket", "password": "seven camels cross the wadi"}
    offer = provisioned.web.post("/auth/enrol", json=wanted).json()
    entra.patch(f"/Users/{user['id']}", {"op": "replace", "path": "active", "value": False})
    import pyotp

    code = pyotp.TOTP(offer["totp_secret"]).now()
    confirm = {"ticket": offer["ticket"], "code": code}
    assert provisioned.web.post("/auth/confirm", json=confirm).status_code == 401
    assert provisioned.account("ticket").state is AccountState.SUSPENDED
    with pytest.raises(FalajError):
        provisioned.ask("accounts.reset", name="ticket")


def test_a_person_who_left_is_out_on_both_servers_within_a_second(running: Any) -> None:
    """Over TLS, in processes of their own: the control plane and an inference worker."""
    installation = running.installation
    with installation.near(stepped_up=True) as owner:
        secret = owner.accounts.create_service("entra-live", roles=("provisioner",)).secret
        link = owner.accounts.invite("khalid", roles=("ml_engineer",)).secret.get_secret_value()
        khalid = installation.enrolled("khalid", link)
        handed = owner.provisioning.hand_over(
            "khalid", "entra-live", user_name="khalid@corp.ae", external_id="k-1"
        )
    khalid.login()

    def asked() -> tuple[int, int]:
        with khalid.client() as web, khalid.client(installation.inference) as worker:
            return (web.get("/api/me").status_code,
                    worker.post("/v1/endpoints/none/predict", json={}).status_code)  # fmt: skip

    known = asked()
    assert known[0] == 200
    assert known[1] in (403, 404)
    with running.web() as web:
        entra = Provider(web, secret.get_secret_value())
        left = {"op": "Replace", "path": "active", "value": "False"}
        assert entra.patch(f"/Users/{handed.id}", left).status_code == 200
        time.sleep(1)
        assert asked() == (401, 401)
        wanted = {"refresh_token": khalid.tokens["refresh_token"]}
        assert web.post("/auth/refresh", json=wanted).status_code == 401
    assert running.records("provisioning.patch_user")[-1][0] == "done"
