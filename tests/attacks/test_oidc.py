"""Signing in through a provider, attacked: each attack is refused and leaves a record.

The provider is npm's ``oidc-provider``; where an attack needs a token that it would never
issue, one is made with its own keys (or without) and put in place of the real one.
"""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest
from joserfc import jws
from joserfc.jwk import RSAKey
from sqlalchemy import delete

from falaj.interfaces.cookies import PASSING, SESSION, own_page
from falaj.kernel.outgoing import Outgoing
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser
from falaj.testing.federated import ORIGIN, FederatedSite, signed_in
from falaj.testing.oidcprovider import CLIENT_ID, AtProvider, led_to
from falaj.trust.adapters import oidc_http
from falaj.trust.federation_tables import external_identities
from falaj.trust.oidc_model import Errand, ProviderUnavailable
from falaj.trust.tables import attempts
from falaj.wiring.federationparts import federation

LOGOUT_EVENT = {"http://schemas.openid.net/event/backchannel-logout": {}}
STEP_UP = "auth.provider_step_up"
LOGOUT = "auth.provider_logout"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, oidc_server: Any) -> Iterator[FederatedSite]:
    made = FederatedSite(tmp_path_factory.mktemp("federated"), oidc_server)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _forgiven(front: FederatedSite) -> Iterator[None]:
    with front.premises.database.transaction() as connection:
        connection.execute(delete(attempts))
    yield
    front.server.control(honest=True)


def changed(address: str, **params: str | None) -> str:
    """The address with other parameters; None takes one away."""
    parts = urlsplit(address)
    held = {name: values[0] for name, values in parse_qs(parts.query).items()}
    told = {name: value for name, value in {**held, **params}.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(told)))


def parameter(address: str, name: str) -> str:
    return parse_qs(urlsplit(address).query)[name][0]


def refused(front: FederatedSite, answer: Any, reason: str, browser: Browser | None = None) -> None:
    """The answer lets nobody in, tells nothing of why, and the audit log says it."""
    assert answer.status_code == 401, answer.text
    assert SESSION not in answer.headers.get("set-cookie", "")
    assert reason not in answer.text
    last = front.records()[-1]
    assert (last["outcome"], last["reasons"]) == ("refused", [reason])
    if browser is not None:
        assert not signed_in(browser)


def test_an_honest_person_signs_in_and_gets_where_they_wanted(front: FederatedSite) -> None:
    browser = front.browser()
    page = front.signs_in(browser, front.person(user="honest", name="honest"), then="/device")
    assert led_to(page) == "/device"
    assert signed_in(browser)
    assert PASSING not in browser.web.cookies
    last = front.records()[-1]
    assert (last["outcome"], last["reasons"], last["principal"]) == (
        "done", ["provider"], "user:honest",
    )  # fmt: skip


def test_the_cookie_of_the_way_opens_nothing(front: FederatedSite) -> None:
    browser = front.browser()
    page = browser.send(browser.open("/login"), "/login/with/corp")
    (given,) = [one for one in page.headers.get_list("set-cookie") if one.startswith(PASSING)]
    parts = {part.strip().lower() for part in given.split(";")[1:]}
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= parts
    assert not signed_in(browser)


def test_a_request_names_neither_verifier_nor_secret(front: FederatedSite) -> None:
    browser = front.browser()
    away = front.leaves(browser)
    asked = parse_qs(urlsplit(away).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == [f"{ORIGIN}/login/with/corp/callback"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    assert front.server.client_secret not in away


# ---- what comes back through the browser


def test_an_answer_is_good_once(front: FederatedSite) -> None:
    browser = front.browser()
    page = browser.send(browser.open("/login"), "/login/with/corp")
    kept = browser.web.cookies[PASSING]
    address = front.person().visit(led_to(page))
    assert front.back(browser, address).status_code == 200
    thief = front.browser()
    thief.web.cookies.set(PASSING, kept, domain="localhost.local")
    refused(front, front.back(thief, address), "wrong-state", thief)


def test_a_code_is_good_once(front: FederatedSite) -> None:
    first, second = front.browser(), front.browser()
    used = front.person().visit(front.leaves(first))
    front.back(first, used)
    fresh = front.person().visit(front.leaves(second))
    address = changed(fresh, code=parameter(used, "code"))
    refused(front, front.back(second, address), "code-refused", second)


def test_a_stolen_code_is_worth_nothing_without_the_verifier(front: FederatedSite) -> None:
    """The thief's own journey is in order, but the code was made for another challenge."""
    victim, thief = front.browser(), front.browser()
    stolen = front.person(user="victim").visit(front.leaves(victim))
    own = front.person(user="thief").visit(front.leaves(thief))
    answer = front.back(thief, changed(own, code=parameter(stolen, "code")))
    refused(front, answer, "code-refused", thief)


@pytest.mark.parametrize("state", [None, "x", "A" * 75, "ä"])
def test_a_wrong_or_absent_state_is_refused(front: FederatedSite, state: str | None) -> None:
    browser = front.browser()
    address = front.person().visit(front.leaves(browser))
    refused(front, front.back(browser, changed(address, state=state)), "wrong-state", browser)


def test_a_parameter_that_stands_twice_is_refused(front: FederatedSite) -> None:
    browser = front.browser()
    address = front.person().visit(front.leaves(browser))
    answer = front.back(browser, f"{address}&state={parameter(address, 'state')}")
    refused(front, answer, "wrong-state", browser)


def test_nobody_is_signed_in_as_the_attacker(front: FederatedSite) -> None:
    """Login CSRF: the victim's browser is led to an answer that was made for the attacker."""
    attacker = front.browser()
    address = front.person(user="attacker").visit(front.leaves(attacker))
    victim = front.browser()
    refused(front, front.back(victim, address), "no-journey", victim)
    front.leaves(victim)  # the victim is on a way of their own
    refused(front, front.back(victim, address), "wrong-state", victim)


def test_pages_of_strangers_cannot_shut_out_who_shares_an_address(front: FederatedSite) -> None:
    """An image of a page makes a browser send an answer that nobody has asked for."""
    for number in range(40):
        front.back(front.browser(), f"/login/with/corp/callback?code=x&state=s{number}")
    browser = front.browser()
    front.signs_in(browser, front.person(user="s-shared", groups=["watchers"], amr=["mfa"]))
    assert signed_in(browser)


def test_no_other_page_sends_a_browser_on_its_way(front: FederatedSite) -> None:
    browser = front.browser()
    browser.open("/login")
    assert browser.post("/login/with/corp", {"token": "x"}).status_code == 403
    assert browser.open("/login/with/corp").status_code == 422  # the method is not allowed
    assert browser.post("/step-up/with/corp", {"token": "x"}).status_code == 401


@pytest.mark.parametrize("named", [None, "https://evil.example"])
def test_an_answer_of_another_issuer_is_refused(front: FederatedSite, named: str | None) -> None:
    """Mix-up (RFC 9207): the code would go to a provider that did not make it."""
    browser = front.browser()
    address = front.person().visit(front.leaves(browser))
    refused(front, front.back(browser, changed(address, iss=named)), "another-issuer", browser)


def test_an_answer_at_another_providers_address_is_refused(front: FederatedSite) -> None:
    browser = front.browser()
    address = front.person().visit(front.leaves(browser))
    answer = front.back(browser, address.replace("/corp/", "/strict/"))
    refused(front, answer, "no-journey", browser)


def test_an_error_of_the_provider_lets_nobody_in(front: FederatedSite) -> None:
    browser = front.browser()
    answer = front.signs_in(browser, front.person(refuses="access_denied"))
    assert answer.status_code == 401
    assert "has not let you in (access_denied)" in answer.text
    assert front.records()[-1]["reasons"] == ["provider-says-access_denied"]
    again = front.leaves(browser)
    state = parameter(again, "state")
    told = {"state": state, "iss": front.server.issuer, "error": "<script>alert(1)</script>"}
    page = browser.open("/login/with/corp/callback?" + urlencode(told))
    assert "<script>alert" not in page.text


AWAY = ["https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/api/me"]


@pytest.mark.parametrize("asked", AWAY)
def test_a_journey_ends_on_no_other_site(front: FederatedSite, asked: str) -> None:
    browser = front.browser()
    page = browser.open("/login")
    away = led_to(browser.send(page, "/login/with/corp", next=asked))
    arrived = front.back(browser, front.person(user="honest", name="honest").visit(away))
    assert led_to(arrived) == own_page(asked) == "/account"


def test_the_redirect_address_is_ours_whatever_host_is_named(front: FederatedSite) -> None:
    browser = front.browser()
    page = browser.open("/login")
    form = {"token": page.text.partition('name="token" value="')[2].partition('"')[0]}
    answer = browser.post("/login/with/corp", form, headers={"host": "127.0.0.1:1"})
    assert parameter(led_to(answer), "redirect_uri") == f"{ORIGIN}/login/with/corp/callback"


# ---- ID tokens


def b64(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    claims: dict[str, Any], private: dict[str, Any], *, alg: str = "RS256", **header: Any
) -> str:
    head = {"alg": alg, "kid": private["kid"], **header}
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    key = RSAKey.import_key(private)
    return jws.serialize_compact(head, json.dumps(claims), key, registry=registry)


def claims_for(front: FederatedSite, away: str, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    right = {
        "iss": front.server.issuer, "sub": "forged", "aud": CLIENT_ID, "iat": now,
        "exp": now + 300, "auth_time": now, "nonce": parameter(away, "nonce"), "amr": ["mfa"],
        "groups": ["admins"], "preferred_username": "forged",
    }  # fmt: skip
    return {name: value for name, value in {**right, **changes}.items() if value is not None}


def with_token(front: FederatedSite, make: Any) -> tuple[Browser, Any]:
    """Sign in while the provider gives the token that ``make`` makes of the way there."""
    browser = front.browser()
    away = front.leaves(browser)
    person: AtProvider = front.person()
    (private,) = front.server.control()["keys"]
    front.server.control(world={"id_token": make(away, private)})
    return browser, front.back(browser, person.visit(away))


def test_a_token_that_is_made_with_the_providers_key_is_believed(front: FederatedSite) -> None:
    """So the refusals below are due to what each of them changes."""
    browser, answer = with_token(
        front, lambda away, private: signed(claims_for(front, away, groups=["watchers"]), private)
    )
    assert answer.status_code == 200, answer.text
    assert signed_in(browser)


NOW = int(time.time())
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "x"}, "wrong-nonce"),
    "no nonce": ({"nonce": None}, "wrong-nonce"),
    "another audience": ({"aud": "other"}, "token-for-another-audience"),
    "no audience": ({"aud": None}, "token-for-another-audience"),
    "two audiences and no party": ({"aud": [CLIENT_ID, "other"]}, "token-for-another-party"),
    "another party": ({"azp": "other"}, "token-for-another-party"),
    "another issuer": ({"iss": "https://evil.example"}, "token-of-another-issuer"),
    "expired": ({"exp": NOW - 60}, "expired-token"),
    "no end": ({"exp": None}, "no-exp"),
    "an end that is no number": ({"exp": True}, "no-exp"),
    "of the future": ({"iat": NOW + 3_600}, "token-of-the-future"),
    "no time": ({"iat": None}, "no-iat"),
    "from before the sign-in": ({"iat": NOW - 3_600}, "issued-before-the-sign-in"),
    "for another access token": ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "wrong-access-token"),
    "no subject": ({"sub": None}, "no-subject"),
    "an empty subject": ({"sub": ""}, "no-subject"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_token_with_a_wrong_claim_is_refused(front: FederatedSite, what: str) -> None:
    changes, reason = WRONG[what]
    browser, answer = with_token(
        front, lambda away, private: signed(claims_for(front, away, **changes), private)
    )
    refused(front, answer, reason, browser)


def public_pem(private: dict[str, Any]) -> bytes:
    return RSAKey.import_key(private).as_pem(private=False)


def hs256(claims: dict[str, Any], secret: bytes, kid: str) -> str:
    """By hand: the library makes no such thing of a public key."""
    message = f"{b64({'alg': 'HS256', 'kid': kid})}.{b64(claims)}"
    return f"{message}.{b64(hmac.digest(secret, message.encode(), 'sha256'))}"


def another_key() -> dict[str, Any]:
    return dict(RSAKey.generate_key(2048, {"kid": "mine"}).as_dict(private=True))


FORGED: dict[str, tuple[Any, str]] = {
    "unsigned": (
        lambda front, claims, key: f"{b64({'alg': 'none'})}.{b64(claims)}.", "wrong-algorithm",
    ),
    "unsigned in other letters": (
        lambda front, claims, key: f"{b64({'alg': 'nOnE'})}.{b64(claims)}.", "wrong-algorithm",
    ),
    "with the public key as a secret": (
        lambda front, claims, key: hs256(claims, public_pem(key), key["kid"]), "wrong-algorithm",
    ),
    "with the client's secret": (
        lambda front, claims, key: hs256(claims, front.server.client_secret.encode(), ""),
        "wrong-algorithm",
    ),
    "by another key of the same name": (
        lambda front, claims, key: signed(claims, {**another_key(), "kid": key["kid"]}),
        "wrong-signature",
    ),
    "by a key that it brings along": (
        lambda front, claims, key: signed(
            claims, (mine := another_key()), jwk=RSAKey.import_key(mine).as_dict(private=False)
        ),
        "unknown-key",
    ),
    "by a key that lies elsewhere": (
        lambda front, claims, key: signed(claims, another_key(), jku="https://evil.example/jwks"),
        "unknown-key",
    ),
    "with an extension that must be understood": (
        lambda front, claims, key: signed(claims, key).replace(
            signed(claims, key).partition(".")[0],
            b64({"alg": "RS256", "kid": key["kid"], "crit": ["exp"], "exp": 1}),
        ),
        "wrong-signature",
    ),
    "of another kind": (
        lambda front, claims, key: signed(claims, key, typ="logout+jwt"), "wrong-kind-of-token",
    ),
    "cut short": (lambda front, claims, key: signed(claims, key)[:-8], "wrong-signature"),
    "no token": (lambda front, claims, key: "e30.e30", "malformed-token"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(FORGED))
def test_a_forged_token_is_refused(front: FederatedSite, what: str) -> None:
    make, reason = FORGED[what]
    browser, answer = with_token(
        front, lambda away, private: make(front, claims_for(front, away), private)
    )
    refused(front, answer, reason, browser)


def test_a_key_that_was_taken_back_is_not_trusted(
    front: FederatedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc_http, "ASKED_AGAIN_AFTER", timedelta(0))
    (old,) = front.server.control()["keys"]
    front.server.control(rotate=True)
    browser = front.browser()
    page = front.signs_in(browser, front.person(user="honest", name="honest"))
    assert page.status_code == 200, page.text
    browser, answer = with_token(front, lambda away, _private: signed(claims_for(front, away), old))
    refused(front, answer, "unknown-key", browser)


# ---- who it is


def test_no_name_and_no_address_takes_over_an_account(front: FederatedSite) -> None:
    browser = front.browser()
    person = front.person(
        user="stranger", name="owner", groups=["watchers"], claims={"email": "owner@corp.example"}
    )
    front.signs_in(browser, person)
    text = browser.open("/account").text
    assert "<h1>owner</h1>" not in text
    assert "<h1>owner-" in text


def test_groups_that_do_not_go_together_let_nobody_in(front: FederatedSite) -> None:
    browser = front.browser()
    answer = front.signs_in(browser, front.person(user="both", groups=["admins", "approvers"]))
    assert answer.status_code == 401
    assert "One account must not be administrator and approver" in answer.text
    assert front.records()[-1]["reasons"] == ["incompatible-roles"]
    with front.premises.database.reading() as connection:
        query = external_identities.select().where(external_identities.c.subject == "both")
        assert connection.execute(query).first() is None


def test_one_factor_is_not_two(front: FederatedSite) -> None:
    for name in ("corp", "strict"):
        browser = front.browser()
        answer = front.signs_in(browser, front.person(user="honest", amr=["pwd"]), name)
        assert answer.status_code == 401
        assert not signed_in(browser)
    assert front.records()[-2]["reasons"] == ["one-factor"]
    assert front.records()[-1]["reasons"] in (["unknown-person"], ["one-factor"])


def test_an_account_of_the_provider_opens_to_nothing_beside_it(front: FederatedSite) -> None:
    """Whoever is shut out there must not come in by a passkey that they have left here."""
    browser, device = front.browser(), Authenticator(ORIGIN)
    front.signs_in(browser, front.person(user="leaver", name="leaver"))
    added = browser.passkey(device, "/account/passkey", "/account", label="left behind")
    assert added.status_code == 200, added.text
    beside = front.browser().passkey(device, "/login/passkey", "/login")
    assert beside.status_code == 401
    assert front.records("auth.passkey_login")[-1]["reasons"] == ["provider-only"]


# ---- a fresh factor


def stepping_up(front: FederatedSite, **world: Any) -> Any:
    browser = front.browser()
    front.signs_in(browser, front.person(user="honest", name="honest"))
    page = browser.open("/step-up?next=/account")
    return front.back(
        browser, front.person(**world).visit(led_to(browser.send(page, "/step-up/with/corp")))
    )


def test_a_fresh_factor_is_asked_of_the_person_now(front: FederatedSite) -> None:
    browser = front.browser()
    front.signs_in(browser, front.person(user="honest", name="honest"))
    away = led_to(browser.send(browser.open("/step-up"), "/step-up/with/corp"))
    assert (parameter(away, "prompt"), parameter(away, "max_age")) == ("login", "0")


@pytest.mark.parametrize(
    ("world", "reason"),
    [({"user": "somebody-else"}, "another-person"),
     ({"user": "honest", "amr": ["pwd"]}, "one-factor"),
     ({"user": "honest", "seconds_ago": 120}, "not-fresh")],
)  # fmt: skip
def test_a_factor_of_another_person_or_time_is_refused(
    front: FederatedSite, world: dict[str, Any], reason: str
) -> None:
    answer = stepping_up(front, **world)
    assert answer.status_code == 401
    last = front.records(STEP_UP)[-1]
    assert (last["outcome"], last["reasons"]) == ("refused", [reason])


# ---- where a discovery document leads


INSIDE = [
    {"discovery_leads_to": "https://169.254.169.254/latest/meta-data"},
    {"discovery_leads_to": "https://127.0.0.1:1/"},
    {"discovery": {"token_endpoint": "https://169.254.169.254/token"}},
    {"discovery": {"token_endpoint": "https://127.0.0.1:8443/api"}},
    {"discovery": {"token_endpoint": "https://localhost:1/token"}},
    {"discovery": {"jwks_uri": "https://[::1]:1/jwks"}},
    {"discovery": {"jwks_uri": "http://localhost:1/jwks"}},
    {"discovery": {"issuer": "https://evil.example"}},
    {"discovery": {"id_token_signing_alg_values_supported": ["none", "HS256"]}},
]  # fmt: skip


@pytest.mark.parametrize("world", INSIDE, ids=lambda world: str(world)[:60])
def test_a_discovery_document_leads_nowhere_inside(
    front: FederatedSite, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    send = Outgoing.send
    monkeypatch.setattr(
        Outgoing, "send", lambda self, method, url, **more: (
            asked.append(url), send(self, method, url, **more))[1],
    )  # fmt: skip
    browser = front.browser()
    through = federation(front.premises)  # which knows nothing of the provider yet
    person = front.person(**world)
    with pytest.raises(ProviderUnavailable) as told:
        departure = through.begin(
            "corp", Errand.SIGN_IN, then="/", redirect_uri=f"{ORIGIN}/login/with/corp/callback"
        )
        address = person.visit(departure.url)
        answer = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        through.arrive("corp", answer, departure.kept)
    last = front.records()[-1]
    assert (last["outcome"], last["reasons"]) == ("failed", ["provider-unavailable"])
    # Redirects are answers like any other; addresses inside are looked at and left alone.
    elsewhere = [url for url in asked if not url.startswith(front.server.issuer)]
    assert all("may not be called" in told.value.message for _ in elsewhere)
    assert not signed_in(browser)


# ---- the provider's logout


def logout(front: FederatedSite, token: str) -> Any:
    return front.browser().web.post("/login/with/corp/logout", data={"logout_token": token})


def logout_token(front: FederatedSite, **changes: Any) -> str:
    (private,) = front.server.control()["keys"]
    now = int(time.time())
    right = {
        "iss": front.server.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120,
        "jti": f"jti-{now}-{len(front.records(LOGOUT))}", "sub": "honest", "events": LOGOUT_EVENT,
    }  # fmt: skip
    claims = {name: value for name, value in {**right, **changes}.items() if value is not None}
    return signed(claims, private, typ="logout+jwt")


def test_a_logout_token_is_good_once(front: FederatedSite, monkeypatch: Any) -> None:
    monkeypatch.setattr(oidc_http, "ASKED_AGAIN_AFTER", timedelta(0))
    browser, token = front.browser(), logout_token(front)
    assert logout(front, token).status_code == 200
    front.signs_in(browser, front.person(user="honest", name="honest"))
    again = logout(front, token)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_request")
    assert again.headers["cache-control"] == "no-store"
    assert signed_in(browser)
    assert front.records(LOGOUT)[-1]["reasons"] == ["used-before"]


NO_LOGOUT: dict[str, tuple[dict[str, Any], str]] = {
    "no event": ({"events": None}, "no-logout-event"),
    "another event": ({"events": {"x": {}}}, "no-logout-event"),
    "a nonce, as an ID token has": ({"nonce": "x"}, "logout-with-nonce"),
    "no jti": ({"jti": None}, "no-jti"),
    "nobody": ({"sub": None}, "nobody-named"),
    "another audience": ({"aud": "other"}, "token-for-another-audience"),
    "another issuer": ({"iss": "https://evil.example"}, "token-of-another-issuer"),
    "expired": ({"exp": NOW - 60}, "expired-token"),
    "no end": ({"exp": None}, "no-exp"),
    "old": ({"iat": NOW - 100_000}, "old-token"),
}


@pytest.mark.parametrize("what", list(NO_LOGOUT))
def test_what_is_no_logout_token_ends_nothing(
    front: FederatedSite, what: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(oidc_http, "ASKED_AGAIN_AFTER", timedelta(0))
    changes, reason = NO_LOGOUT[what]
    assert logout(front, logout_token(front, **changes)).status_code == 400
    last = front.records(LOGOUT)[-1]
    assert (last["outcome"], last["reasons"]) == ("refused", [reason])


@pytest.mark.parametrize("token", ["", "x", "e30.e30.", f"{b64({'alg': 'none'})}.{b64({})}."])
def test_an_unsigned_logout_token_ends_nothing(front: FederatedSite, token: str) -> None:
    assert logout(front, token).status_code == 400
    assert front.records(LOGOUT)[-1]["outcome"] == "refused"
