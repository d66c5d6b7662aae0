"""Passkeys in wrong hands: answers for other pages, other people, other times. All fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, select
from starlette.testclient import TestClient

from falaj.interfaces.processes import control_app
from falaj.testing.authenticators import Authenticator, Credential
from falaj.trust.audit_tables import audit_records
from falaj.trust.model import Role
from falaj.trust.tables import attempts

ORIGIN = "https://localhost:8443"
SIGN_IN = "/auth/passkeys/sign-in"


class Front:
    """The control plane of the site, and people with passkeys before it."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.web = TestClient(control_app(site.premises), base_url=ORIGIN)

    def invited(self, name: str) -> str:
        """The secret of a new person's link."""
        premises = self.site.premises
        with premises.database.transaction() as connection:
            link = premises.authentication.enrolment.invite(
                connection, name=name, roles=(Role.VIEWER,), created_by="user:owner",
                now=premises.clock.now(),
            )  # fmt: skip
        return str(link.secret.get_secret_value())

    def post(self, path: str, body: Any = None, token: str | None = None) -> Any:
        """The answer of the control plane."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.web.post(path, json=body or {}, headers=headers)

    def enrolled(self, name: str, device: Authenticator) -> str:
        """A person whose only factor is a passkey; the access token."""
        link = {"secret": self.invited(name), "name": name}
        options = self.post("/auth/passkeys/enrolment-options", link).json()
        answer = self.post(
            "/auth/passkeys/enrolment", {**link, "credential": device.create(options)}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def options(self) -> dict[str, Any]:
        return dict(self.post(SIGN_IN + "-options").json())

    def signed_in(self, credential: Any, **more: Any) -> Any:
        return self.post(SIGN_IN, {"credential": credential, **more})

    def last(self, action: str) -> tuple[str, str]:
        """Outcome and reason of the latest record of an action."""
        premises = self.site.premises
        with premises.database.reading() as connection:
            query = select(audit_records).where(audit_records.c.action == action)
            row = connection.execute(query.order_by(audit_records.c.seq.desc())).first()
        assert row is not None
        return row.outcome, json.loads(row.body)["reasons"][0]


@pytest.fixture(scope="module")
def front(site: Any) -> Iterator[Front]:
    made = Front(site)
    with made.web:
        yield made


@pytest.fixture(autouse=True)
def _forgiven(site: Any) -> None:
    """All attacks come from one address, which would have to wait after some of them."""
    with site.premises.database.transaction() as connection:
        connection.execute(delete(attempts))


@pytest.fixture(scope="module")
def device(front: Front) -> Authenticator:
    made = Authenticator(ORIGIN)
    front.enrolled("victim", made)
    return made


def test_an_honest_passkey_is_taken(front: Front, device: Authenticator) -> None:
    assert front.signed_in(device.get(front.options())).status_code == 200
    assert front.last("auth.passkey_login") == ("done", "passkey")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"origin": "https://localhost:9999"}, "wrong-origin"),
        ({"origin": "https://localhost.evil.example"}, "wrong-origin"),
        ({"origin": "http://localhost:8443"}, "wrong-origin"),
        ({"rp_id": "evil.example"}, "wrong-rp"),
        ({"challenge": "AAAA"}, "wrong-challenge"),
        ({"challenge": "A" * 75}, "wrong-challenge"),
        ({"type": "webauthn.create"}, "wrong-type"),
        ({"user_handle": b"somebody else"}, "wrong-user-handle"),
        ({"counter": 0}, "cloned-counter"),
        ({"counter": 1}, "cloned-counter"),
    ],
)
def test_an_answer_for_something_else_is_refused(
    front: Front, device: Authenticator, lie: dict[str, Any], reason: str
) -> None:
    front.signed_in(device.get(front.options(), counter=device.counter + 10))
    device.counter += 10
    answer = front.signed_in(device.get(front.options(), **lie))
    assert answer.status_code == 401
    assert answer.json()["code"] == "wrong-credentials"
    assert reason not in answer.text
    assert front.last("auth.passkey_login") == ("refused", reason)


def test_an_answer_is_good_once(front: Front, device: Authenticator) -> None:
    credential = device.get(front.options())
    assert front.signed_in(credential).status_code == 200
    assert front.signed_in(credential).status_code == 401
    assert front.last("auth.passkey_login") == ("refused", "wrong-challenge")


def test_a_challenge_of_one_purpose_is_none_of_another(front: Front, device: Authenticator) -> None:
    token = front.signed_in(device.get(front.options())).json()["access_token"]
    options = front.post("/auth/passkeys/step-up-options", token=token).json()
    assert front.signed_in(device.get(options)).status_code == 401
    assert front.last("auth.passkey_login") == ("refused", "wrong-challenge")
    crossed = {"credential": device.get(front.options())}
    assert front.post("/auth/passkeys/step-up", crossed, token=token).status_code == 401
    assert front.last("auth.step_up") == ("refused", "wrong-challenge")


def test_a_key_that_does_not_check_its_user_is_not_two_factors(front: Front) -> None:
    device = Authenticator(ORIGIN)
    front.enrolled("careless", device)
    device.verifies = False
    assert front.signed_in(device.get(front.options())).status_code == 401
    assert front.last("auth.passkey_login") == ("refused", "user-not-verified")


def test_nobody_enrols_with_a_key_that_does_not_check_its_user(front: Front) -> None:
    link = {"secret": front.invited("keyless"), "name": "keyless"}
    options = front.post("/auth/passkeys/enrolment-options", link).json()
    credential = Authenticator(ORIGIN, verifies=False).create(options)
    answer = front.post("/auth/passkeys/enrolment", {**link, "credential": credential})
    assert answer.status_code == 401
    assert front.last("auth.passkey_enrol") == ("refused", "user-not-verified")


def test_another_keys_signature_is_refused(front: Front, device: Authenticator) -> None:
    own = device.credentials[0]
    forged = Authenticator(ORIGIN, counter=1000)
    forged.create({"rp": {"id": "localhost"}, "user": {"id": "AAAA"}, "challenge": "AAAA"})
    posing = Credential(own.id, own.rp_id, own.user_handle, forged.credentials[0].key)
    assert front.signed_in(forged.get(front.options(), of=posing)).status_code == 401
    assert front.last("auth.passkey_login") == ("refused", "bad-signature")


def test_another_persons_passkey_steps_nobody_up(front: Front, device: Authenticator) -> None:
    thief = Authenticator(ORIGIN)
    token = front.enrolled("thief", thief)
    options = front.post("/auth/passkeys/step-up-options", token=token).json()
    body = {"credential": device.get(options, of=device.credentials[0])}
    assert front.post("/auth/passkeys/step-up", body, token=token).status_code == 401
    assert front.last("auth.step_up") == ("refused", "wrong-account")


def test_another_persons_password_does_not_go_with_ones_own_passkey(front: Front) -> None:
    own = Authenticator(ORIGIN)
    front.enrolled("insider", own)
    answer = front.signed_in(own.get(front.options()), name="victim", password="guessed")
    assert answer.status_code == 401
    assert front.last("auth.passkey_login") == ("refused", "wrong-name-or-password")


def test_a_stranger_learns_nothing_of_who_has_a_passkey(front: Front) -> None:
    options = front.options()
    assert options["allowCredentials"] == []
    assert "victim" not in str(options)
    stray = Authenticator(ORIGIN)
    stray.create({"rp": {"id": "localhost"}, "user": {"id": "AAAA"}, "challenge": "AAAA"})
    unknown = front.signed_in(stray.get(front.options()))
    assert (unknown.status_code, unknown.json()["code"]) == (401, "wrong-credentials")


@pytest.mark.parametrize(
    "credential",
    [{}, {"response": 1}, {"response": {"clientDataJSON": "!!"}}, {"rawId": "é", "response": {}},
     {"response": {"clientDataJSON": "W10"}}, {"response": {"clientDataJSON": "e30"}}],
)  # fmt: skip
def test_what_is_no_answer_is_refused(front: Front, credential: dict[str, Any]) -> None:
    answer = front.signed_in(credential)
    assert answer.status_code == 401, answer.text


def test_broken_parts_of_an_answer_are_refused(front: Front, device: Authenticator) -> None:
    for part in ("authenticatorData", "signature"):
        credential = device.get(front.options())
        credential["response"][part] = "AAAA"
        assert front.signed_in(credential).status_code == 401


def test_a_registration_is_for_the_one_who_asked(front: Front) -> None:
    first, second = Authenticator(ORIGIN), Authenticator(ORIGIN)
    mine, theirs = front.enrolled("asker", first), front.enrolled("other", second)
    options = front.post("/auth/passkeys/registration-options", token=mine).json()
    made = {"credential": Authenticator(ORIGIN).create(options)}
    assert front.post("/auth/passkeys/registration", made, token=theirs).status_code == 401
    assert front.last("auth.add_passkey") == ("refused", "wrong-challenge")


@pytest.mark.parametrize(
    "lie",
    [
        {"origin": "https://evil.example"},
        {"rp_id": "evil.example"},
        {"fmt": "android-safetynet"},
        {"type": "webauthn.get"},
    ],
)
def test_a_registration_for_another_page_is_refused(front: Front, lie: dict[str, Any]) -> None:
    name = f"fooled{abs(hash(str(lie))) % 10**8}"
    token = front.enrolled(name, Authenticator(ORIGIN))
    options = front.post("/auth/passkeys/registration-options", token=token).json()
    made = {"credential": Authenticator(ORIGIN).create(options, **lie)}
    assert front.post("/auth/passkeys/registration", made, token=token).status_code == 401


@pytest.mark.parametrize("step", ["step-up-options", "step-up", "registration-options"])
def test_ceremonies_of_a_person_need_a_token(front: Front, step: str) -> None:
    body = {"credential": {}} if step == "step-up" else {}
    assert front.post(f"/auth/passkeys/{step}", body).status_code == 401
