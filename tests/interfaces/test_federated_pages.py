"""Signing in through a real provider, as honest people do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
import pytest
from sqlalchemy import delete, update
from starlette.testclient import TestClient

from falaj.interfaces.devicelogin import tokens_through_browser
from falaj.interfaces.doctor import examined
from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser, forms
from falaj.testing.federated import ORIGIN, FederatedSite, actions_of, signed_in
from falaj.testing.oidcprovider import led_to
from falaj.testing.provisioners import Provider
from falaj.trust.adapters import oidc_http
from falaj.trust.federation_tables import made_elsewhere
from falaj.trust.model import Role
from falaj.trust.oidc_model import ProviderUnavailable
from falaj.trust.tables import attempts, sessions

PASSWORD = "seven camels cross the wadi"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, oidc_server: Any) -> Iterator[FederatedSite]:
    groups = [{"group": "Engineers", "roles": ["ml_engineer"]}]
    folder = tmp_path_factory.mktemp("federated")
    made = FederatedSite(folder, oidc_server, provisioning={"groups": groups})
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _forgiven(site: FederatedSite) -> None:
    with site.premises.database.transaction() as connection:
        connection.execute(delete(attempts))


class Enrolled:
    """Somebody with a password and an authenticator of this platform."""

    def __init__(self, site: FederatedSite, name: str) -> None:
        self.name = name
        with site.premises.database.transaction() as connection:
            link = site.premises.authentication.enrolment.invite(
                connection, name=name, roles=(Role.VIEWER,), created_by="user:owner",
                now=site.premises.clock.now(),
            )  # fmt: skip
        browser = site.browser()
        page = browser.open(f"/enrol?secret={link.secret.get_secret_value()}")
        page = browser.send(page, "/enrol", name=name, password=PASSWORD, again=PASSWORD)
        (form,) = forms(page)
        code = pyotp.TOTP(form.fields["totp_secret"]).now()
        done = browser.post(form.action, {**form.fields, "code": code})
        self.codes = re.findall(r"<code>([^<]+)</code>", done.text)[:10]

    def signed_in(self, site: FederatedSite) -> Browser:
        browser = site.browser()
        assert browser.login(self.name, PASSWORD, self.codes.pop()).status_code == 303
        return browser

    def linked(self, site: FederatedSite, provider: str, subject: str) -> None:
        browser = self.signed_in(site)
        page = site.presses(
            browser, "/account", f"/account/with/{provider}", site.person(user=subject)
        )
        assert page.status_code == 200, page.text


@pytest.fixture(scope="module")
def salma(site: FederatedSite) -> Enrolled:
    person = Enrolled(site, "salma")
    person.linked(site, "strict", "subject-of-salma")
    return person


def tired(site: FederatedSite) -> None:
    """Make all factors that were presented an hour old."""
    with site.premises.database.transaction() as connection:
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(update(sessions).values(mfa_at=hour_ago))


def test_the_sign_in_page_offers_each_provider(site: FederatedSite) -> None:
    page = site.browser().open("/login")
    assert "Sign in with Corp" in page.text
    assert "Sign in with UAE PASS" in page.text
    assert actions_of(page)[-1] == "/login"


def test_somebody_unknown_gets_an_account_with_the_roles_of_the_groups(site: FederatedSite) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-1", name="Noor.Ali@corp.example"))
    account = site.account("noor.ali")
    assert (account.roles, account.created_by) == ((Role.ML_ENGINEER,), "provider:corp")
    assert "<h1>noor.ali</h1>" in browser.open("/account").text


def test_the_groups_decide_on_their_roles_at_each_sign_in_and_on_no_other(
    site: FederatedSite,
) -> None:
    person = site.person(user="s-2", name="hind", groups=["engineers"])
    site.signs_in(site.browser(), person)
    with site.premises.database.transaction() as connection:
        site.premises.authentication.accounts.set_roles(
            connection, "hind", (Role.ML_ENGINEER, Role.STEWARD), now=site.premises.clock.now()
        )
    site.signs_in(site.browser(), site.person(user="s-2", groups=["watchers", "unknown"]))
    assert site.account("hind").roles == (Role.STEWARD, Role.VIEWER)
    assert site.records()[-1]["details"]["roles"] == ["steward", "viewer"]


def test_somebody_in_no_group_of_the_map_is_told_so(site: FederatedSite) -> None:
    answer = site.signs_in(site.browser(), site.person(user="s-3", groups=["unknown"]))
    assert answer.status_code == 401
    assert "None of your groups at Corp gives you a role here" in answer.text


def test_the_last_administrator_stays_one(site: FederatedSite) -> None:
    """The owner is the other administrator until it is taken away."""
    site.signs_in(site.browser(), site.person(user="s-4", name="boss", groups=["admins"]))
    assert site.account("boss").roles == (Role.ADMINISTRATOR,)
    accounts, now = site.premises.authentication.accounts, site.premises.clock.now()
    owner = site.account("owner")
    with site.premises.database.transaction() as connection:
        accounts.set_roles(connection, "owner", (Role.VIEWER,), now=now)
    try:
        site.signs_in(site.browser(), site.person(user="s-4", groups=["watchers"]))
        assert site.account("boss").roles == (Role.ADMINISTRATOR, Role.VIEWER)
        assert site.records()[-1]["details"]["kept"] == "last administrator"
    finally:
        with site.premises.database.transaction() as connection:
            accounts.change(connection, site.account("owner"), now=now,
                            roles=[role.value for role in owner.roles])  # fmt: skip
    site.signs_in(site.browser(), site.person(user="s-4", groups=["watchers"]))
    assert site.account("boss").roles == (Role.VIEWER,)


def test_a_factor_counts_from_when_it_was_presented_there(site: FederatedSite) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-5", name="early", seconds_ago=3_000))
    assert "Present your second factor" in browser.open("/account").text
    fresh = site.browser()
    site.signs_in(fresh, site.person(user="s-5", seconds_ago=10))
    assert "Present your second factor" not in fresh.open("/account").text


def test_a_stranger_is_not_let_in_where_no_accounts_are_made(site: FederatedSite) -> None:
    answer = site.signs_in(site.browser(), site.person(user="s-6"), "strict")
    assert answer.status_code == 401
    assert "No account here belongs to this identity" in answer.text
    assert site.records()[-1]["reasons"] == ["unknown-person"]


@pytest.fixture(scope="module")
def directory(site: FederatedSite) -> Provider:
    """The directory behind ``strict``, which keeps its people by SCIM."""
    return provisioner(site, "directory")


def provisioner(site: FederatedSite, name: str) -> Provider:
    backend = site.premises.backend
    root = Principal("user:root", PrincipalKind.USER, ("administrator",))
    door = LocalDoor(backend, Caller(root, mfa_at=site.premises.clock.now(), via="http"))
    create = backend.services.actions["accounts.create_service"]
    made = door.call(create, {"name": name, "roles": ["provisioner"]})
    web = TestClient(site.app, base_url=ORIGIN)
    return Provider(web, made.secret.get_secret_value())


def test_who_is_kept_by_scim_signs_in_to_that_account_with_the_roles_of_its_groups(
    site: FederatedSite, directory: Provider
) -> None:
    user = directory.user("hessa", externalId="s-hessa")
    assert directory.group("Engineers", user["id"]).status_code == 201
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-hessa", groups=["watchers"], amr=["mfa"]), "strict")
    assert signed_in(browser)
    account = site.account("hessa")
    assert account.roles == (Role.ML_ENGINEER,)
    with site.premises.database.reading() as connection:
        assert made_elsewhere(connection, account.id), "a passkey alone would let them in"


def test_who_is_suspended_by_scim_is_not_let_in(site: FederatedSite, directory: Provider) -> None:
    user = directory.user("dalal", externalId="s-dalal")
    gone = {"op": "replace", "path": "active", "value": False}
    assert directory.patch(f"/Users/{user['id']}", gone).status_code == 200
    answer = site.signs_in(site.browser(), site.person(user="s-dalal", amr=["mfa"]), "strict")
    assert answer.status_code == 401
    assert site.records()[-1]["reasons"] == ["not-active"]


def test_who_has_lost_an_account_to_another_identity_is_not_let_in(
    site: FederatedSite, directory: Provider
) -> None:
    user = directory.user("moza", externalId="s-moza")
    assert directory.group("Engineers", user["id"]).status_code in (201, 409)
    before = site.browser()
    site.signs_in(before, site.person(user="s-moza", amr=["mfa"]), "strict")
    assert signed_in(before)
    moved = {"op": "replace", "path": "externalId", "value": "s-another"}
    assert directory.patch(f"/Users/{user['id']}", moved).status_code == 200
    answer = site.signs_in(site.browser(), site.person(user="s-moza", amr=["mfa"]), "strict")
    assert answer.status_code == 401
    assert site.records()[-1]["reasons"] == ["no-longer-provisioned"]


def test_an_id_that_another_directory_gave_opens_nothing(site: FederatedSite) -> None:
    provisioner(site, "elsewhere").user("noura", externalId="s-noura")
    answer = site.signs_in(site.browser(), site.person(user="s-noura", amr=["mfa"]), "strict")
    assert answer.status_code == 401
    assert site.records()[-1]["reasons"] == ["unknown-person"]


def test_a_user_name_of_scim_opens_nothing(site: FederatedSite, directory: Provider) -> None:
    directory.user("s-obaid", externalId="another")
    answer = site.signs_in(site.browser(), site.person(user="s-obaid", amr=["mfa"]), "strict")
    assert answer.status_code == 401


def test_a_person_links_the_own_account_and_signs_in_either_way(
    site: FederatedSite, salma: Enrolled
) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="subject-of-salma"), "strict")
    assert "<h1>salma</h1>" in browser.open("/account").text
    assert salma.signed_in(site)
    taken = Enrolled(site, "other").signed_in(site)
    page = site.presses(
        taken, "/account", "/account/with/strict", site.person(user="subject-of-salma")
    )
    assert (page.status_code, "opens another account" in page.text) == (401, True)


def test_what_was_linked_is_taken_away_again(site: FederatedSite) -> None:
    """By its person, and with all other credentials when an administrator resets the account."""
    person = Enrolled(site, "aisha")
    for away in ("removed", "reset"):
        person.linked(site, "strict", "subject-of-aisha")
        browser = person.signed_in(site)
        if away == "removed":
            page = browser.open("/account")
            browser.send(page, "/account/deeds/remove-factor", factor="provider:strict")
            assert "provider:strict" not in browser.open("/account").text
        else:
            with site.premises.database.transaction() as connection:
                site.premises.authentication.enrolment.reset(
                    connection, "aisha", now=site.premises.clock.now()
                )
        answer = site.signs_in(site.browser(), site.person(user="subject-of-aisha"), "strict")
        assert (answer.status_code, site.records()[-1]["reasons"]) == (401, ["unknown-person"])


def test_linking_needs_a_fresh_factor(site: FederatedSite, salma: Enrolled) -> None:
    browser = salma.signed_in(site)
    token = browser.token("/account")
    tired(site)
    assert "/account/with/corp" not in actions_of(browser.open("/account"))
    assert browser.post("/account/with/corp", {"token": token}).status_code == 403


def test_without_a_proof_of_two_factors_one_of_ours_is_asked_for(
    site: FederatedSite, salma: Enrolled
) -> None:
    salma.linked(site, "corp", "salma-at-corp")
    person = site.person(user="salma-at-corp", amr=["pwd"], groups=["watchers"])
    browser = site.browser()
    page = site.signs_in(browser, person, then="/device")
    assert "Corp has told who you are" in page.text
    assert not signed_in(browser)
    wrong = browser.send(page, "/login/with/corp/factor", code="000000")
    assert wrong.status_code == 401
    assert not signed_in(browser)
    done = browser.send(wrong, "/login/with/corp/factor", code=salma.codes.pop())
    assert led_to(done) == "/device"
    assert "Present your second factor" not in browser.open("/account").text
    again = browser.send(wrong, "/login/with/corp/factor", code=salma.codes.pop())
    assert again.status_code == 401


def test_a_passkey_of_ours_stands_in_as_well(site: FederatedSite, salma: Enrolled) -> None:
    device = Authenticator(ORIGIN)
    assert salma.signed_in(site).passkey(device, "/account/passkey", "/account").status_code == 200
    browser = site.browser()
    page = site.signs_in(browser, site.person(user="salma-at-corp", amr=[], groups=["watchers"]))
    ticket = forms(page)[0].fields["ticket"]
    done = browser.passkey(device, "/login/with/corp/passkey", "", ticket=ticket)
    assert done.json() == {"next": "/account"}
    assert signed_in(browser)


def test_a_provider_that_must_prove_two_factors_is_not_helped_out(
    site: FederatedSite, salma: Enrolled
) -> None:
    person = site.person(user="subject-of-salma", amr=["pwd"])
    answer = site.signs_in(site.browser(), person, "strict")
    assert answer.status_code == 401
    assert "has not shown that you presented two factors" in answer.text


def test_a_form_that_needs_a_factor_offers_the_provider(site: FederatedSite) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-7", name="mona"))
    browser.passkey(Authenticator(ORIGIN), "/account/passkey", "/account", label="key")
    tired(site)
    page = browser.open("/account")
    listed = [form.fields["factor"] for form in forms(page) if "factor" in form.fields]
    (factor,) = [one for one in listed if one.startswith("passkey_")]
    asked = browser.send(page, "/account/deeds/remove-factor", factor=factor)
    assert "/step-up/with/corp" in actions_of(asked)
    assert "Present two factors to Corp" in asked.text
    away = led_to(browser.send(asked, "/step-up/with/corp"))
    arrived = site.back(browser, site.person(user="s-7").visit(away))
    page = browser.open(led_to(arrived))
    assert "Go on where you were" in page.text
    browser.send(page, "/account/deeds/remove-factor", factor=factor)
    assert factor not in browser.open("/account").text


def test_step_up_at_the_provider(site: FederatedSite) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-7", name="mona"))
    tired(site)
    page = site.presses(
        browser, "/step-up?next=/device", "/step-up/with/corp", site.person(user="s-7")
    )
    assert led_to(page) == "/device"
    assert "Present your second factor" not in browser.open("/account").text
    assert site.records("auth.provider_step_up")[-1]["outcome"] == "done"


class Terminal:
    """The command line on one side, and a person's browser on the other."""

    def __init__(self, site: FederatedSite, decide: Any) -> None:
        self.web = site.browser().web
        self._decide = decide

    def tokens(self, **more: Any) -> dict[str, Any]:
        return tokens_through_browser(
            self.web, self._decide, named="test", sleep=lambda _seconds: None, **more
        )

    def me(self, token: str) -> httpx.Response:
        return self.web.get("/api/me", headers={"Authorization": f"Bearer {token}"})


def let_in(site: FederatedSite, browser: Browser, user: str, pages: list[str]) -> Any:
    """Opens the link of a device code, signs in through the provider, lets the program in."""

    def decide(link: Any) -> None:
        first = browser.open(link.address_with_code.removeprefix(ORIGIN))
        login = browser.open(first.headers["location"])
        pages.extend(actions_of(login))
        arrived = site.back(
            browser, site.person(user=user).visit(led_to(browser.send(login, "/login/with/corp")))
        )
        page = browser.send(browser.open(led_to(arrived)), "/device")
        done = browser.send(page, "/device/decision", decision="approve")
        assert "is let in" in done.text or done.status_code == 200, done.text

    return decide


def test_the_command_line_is_let_in_through_the_provider(site: FederatedSite) -> None:
    browser, pages = site.browser(), []
    terminal = Terminal(site, let_in(site, browser, "s-7", pages))
    tokens = terminal.tokens(provider="corp")
    assert terminal.me(tokens["access_token"]).json()["principal"] == "user:mona"
    assert pages == ["/login/with/corp"]


def test_a_provider_that_is_not_there_is_named_at_once(site: FederatedSite) -> None:
    answer = site.browser().web.post("/auth/device", json={"client": "x", "provider": "crop"})
    assert answer.status_code == 404
    assert "'crop'" in answer.text
    assert "corp" in answer.json()["hint"]


# ---- signing out


def test_the_providers_logout_ends_what_hangs_on_it_and_nothing_else(site: FederatedSite) -> None:
    """The token that the real provider sends, of the real sign-out."""
    name = f"{ORIGIN}/login/with/corp/logout"
    site.server.control(backchannel=name, sends=False)
    stays, browser, pages = site.browser(), site.browser(), []
    site.signs_in(stays, site.person(user="s-7", name="mona"))
    terminal = Terminal(site, let_in(site, browser, "s-8", pages))
    person = site.person(user="s-8", name="huda")
    site.signs_in(browser, person)
    browser.send(browser.open("/account"), "/account/sign-out")
    person = site.person(user="s-8", name="huda")
    site.signs_in(browser, person)

    def decide(link: Any) -> None:
        page = browser.open(link.address_with_code.removeprefix(ORIGIN))
        page = browser.send(page, "/device")
        browser.send(page, "/device/decision", decision="approve")

    terminal = Terminal(site, decide)
    token = terminal.tokens()["access_token"]
    assert terminal.me(token).status_code == 200
    person.sign_out()
    (sent,) = [one for one in site.server.control()["told"] if one["url"] == name]
    answer = site.browser().web.post(
        "/login/with/corp/logout", content=sent["body"],
        headers={"content-type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert not signed_in(browser)
    refused = terminal.web.get("/api/me", headers={"Authorization": f"Bearer {token}"})
    for _ in range(200):  # other processes are told within a second
        if refused.status_code == 401:
            break
        refused = terminal.me(token)
    assert refused.status_code == 401
    assert signed_in(stays)
    assert len(site.records("auth.provider_logout")[-1]["details"]["sessions"]) == 2


def test_signing_out_leads_to_the_provider_where_the_setting_says_so(
    site: FederatedSite, salma: Enrolled
) -> None:
    browser = site.browser()
    site.signs_in(browser, site.person(user="s-7", name="mona"))
    page = browser.send(browser.open("/account"), "/account/sign-out")
    assert page.headers["location"] == "/login"
    site.signs_in(browser, site.person(user="subject-of-salma"), "strict")
    page = browser.send(browser.open("/account"), "/account/sign-out")
    away = urlsplit(led_to(page))
    assert f"{away.scheme}://{away.netloc}{away.path}" == f"{site.server.issuer}/idshub/logout"
    assert parse_qs(away.query)["post_logout_redirect_uri"] == [f"{ORIGIN}/login"]
    assert not signed_in(browser)


# ---- a provider that signs nothing


def test_uae_pass_tells_who_somebody_is_by_its_userinfo_alone(site: FederatedSite) -> None:
    told = {"uuid": "u-1", "userType": "SOP3", "email": "rashid@mail.example"}
    browser = site.browser()
    away = site.leaves(browser, "uae")
    assert "acr_values=urn%3Asafelayer" in away
    assert away.startswith(f"{site.server.issuer}/idshub/authorize?")
    page = site.back(browser, site.person(user="rashid", claims=told).visit(away))
    assert page.status_code == 200, page.text
    assert site.account("rashid").roles == (Role.VIEWER,)


def test_an_unverified_account_of_uae_pass_is_not_let_in(site: FederatedSite) -> None:
    told = {"uuid": "u-2", "userType": "SOP1", "email": "new@mail.example"}
    answer = site.signs_in(site.browser(), site.person(user="new", claims=told), "uae")
    assert answer.status_code == 401
    assert "(userType)" in answer.text


# ---- asking the provider


def test_an_unknown_key_is_asked_for_once_a_minute(
    site: FederatedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from falaj.kernel.clock import SetClock
    from falaj.wiring.federationparts import party

    monkeypatch.setattr(site.premises, "clock", SetClock(datetime(2026, 11, 1, tzinfo=UTC)))
    speaks, clock = party(site.premises, "corp").speaks, site.premises.clock
    asked: list[str] = []
    fetch = oidc_http.HttpProvider._fetched_keys
    monkeypatch.setattr(
        oidc_http.HttpProvider, "_fetched_keys", lambda self: (asked.append("x"), fetch(self))[1]
    )
    (old,) = speaks.keys("")
    site.server.control(rotate=True)
    assert speaks.keys("made-up") == [old]
    assert len(asked) == 1
    clock.move(timedelta(seconds=61))
    (new,) = speaks.keys("made-up")
    assert new["kid"] != old["kid"]
    for _ in range(5):
        speaks.keys("made-up")
    assert len(asked) == 2
    clock.move(timedelta(minutes=11))
    speaks.keys(new["kid"])
    assert len(asked) == 3


def test_a_provider_that_does_not_answer_is_left_alone_for_some_seconds(
    site: FederatedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from falaj.kernel.clock import SetClock
    from falaj.wiring.federationparts import party

    monkeypatch.setattr(site.premises, "clock", SetClock(datetime(2026, 11, 1, tzinfo=UTC)))
    speaks = party(site.premises, "corp").speaks
    site.server.control(world={"discovery_leads_to": "https://localhost:1/"})
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match="answers 302"):
            speaks.metadata()
        site.server.control(honest=True)
    site.premises.clock.move(timedelta(seconds=6))
    assert speaks.metadata().issuer == site.server.issuer


def test_the_doctor_asks_each_provider(site: FederatedSite) -> None:
    found = {
        finding.component: finding for finding in examined(site.premises.settings)
        if finding.component.startswith("identity provider")
    }  # fmt: skip
    assert found["identity provider corp"].well
    assert "has 1 keys" in found["identity provider corp"].told
    assert "publishes nothing" in found["identity provider uae"].told


def test_the_doctor_says_what_is_wrong_with_a_provider(site: FederatedSite) -> None:
    corp = site.premises.settings.identity.providers["corp"]
    for issuer, told in (
        (f"{site.server.issuer}/", "discovery-of-another-issuer"),
        ("https://localhost:1", "does not answer"),
    ):
        providers = {"corp": corp.model_copy(update={"issuer": issuer})}
        identity = site.premises.settings.identity.model_copy(update={"providers": providers})
        settings = site.premises.settings.model_copy(update={"identity": identity})
        (finding,) = [one for one in examined(settings) if one.component.endswith("corp")]
        assert not finding.well
        assert told in finding.told
