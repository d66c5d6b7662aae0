"""Passkeys as honest people use them: beside a password, alone, for a step-up, and taken away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from falaj.kernel.call import Caller
from falaj.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from falaj.testing.authenticators import Authenticator
from falaj.trust.model import (
    LinkRequest,
    NewPasskeyRequest,
    PasskeyEnrolRequest,
    PasskeyLoginRequest,
    PasskeyRequest,
    Role,
    TokenPair,
    WrongCredentials,
)
from falaj.trust.ownfactors import OwnFactors
from falaj.trust.passkey_tables import used_challenges
from falaj.trust.passkeys import RelyingParty
from falaj.trust.passkeysignin import PasskeySignIn

ORIGIN = "https://falaj.test:8443"
PASSWORD = "seven camels cross the wadi"


@pytest.fixture
def passkeys(trust: Any) -> PasskeySignIn:
    party = RelyingParty("falaj.test", (ORIGIN,))
    return PasskeySignIn(trust.authentication, party, trust.keys.derive("passkey-challenges"))


def caller_of(trust: Any, pair: TokenPair) -> Caller:
    caller: Caller = trust.tokens.verify(pair.access_token.get_secret_value(), trust.now)
    return caller


def added(
    trust: Any, passkeys: PasskeySignIn, caller: Caller, device: Authenticator, label: str = "phone"
) -> Any:
    """A passkey of an authenticated person, made by a device."""
    credential = device.create(passkeys.registration_options(caller))
    return passkeys.register(caller, NewPasskeyRequest(credential=credential, label=label))


def enrolled(trust: Any, passkeys: PasskeySignIn, name: str, device: Authenticator) -> TokenPair:
    """A person without a password."""
    link = SecretStr(trust.invited(name, Role.VIEWER))
    options = passkeys.enrolment_options(LinkRequest(secret=link, name=name))
    request = PasskeyEnrolRequest(secret=link, name=name, credential=device.create(options))
    return passkeys.enrol(request)


def signed_in(passkeys: PasskeySignIn, device: Authenticator, **more: Any) -> TokenPair:
    credential = device.get(passkeys.sign_in_options())
    return passkeys.sign_in(PasskeyLoginRequest(credential=credential, **more))


@pytest.mark.parametrize("ed25519", [False, True], ids=["P-256", "Ed25519"])
def test_a_person_without_a_password_signs_in_with_a_passkey(
    trust: Any, passkeys: PasskeySignIn, ed25519: bool
) -> None:
    device = Authenticator(ORIGIN, ed25519=ed25519)
    first = enrolled(trust, passkeys, "maryam", device)
    assert caller_of(trust, first).stepped_up(trust.now)
    again = signed_in(passkeys, device, client="a phone")
    caller = caller_of(trust, again)
    assert (caller.principal.id, caller.stepped_up(trust.now)) == ("user:maryam", True)
    record = trust.last_record()
    assert (record.action, record.reasons) == ("auth.passkey_login", ("passkey",))


def test_a_passkey_stands_beside_a_password(trust: Any, passkeys: PasskeySignIn) -> None:
    person = trust.person("amina")
    key = Authenticator(ORIGIN, verifies=False)  # a security key without a PIN
    done = added(trust, passkeys, caller_of(trust, person.tokens), key)
    assert not done.passkey.verifies
    assert done.recovery is None  # those of the authenticator stay good
    with pytest.raises(WrongCredentials):
        signed_in(passkeys, key)
    pair = signed_in(passkeys, key, name="Amina ", password=SecretStr(PASSWORD))
    assert caller_of(trust, pair).principal.id == "user:amina"
    with pytest.raises(WrongCredentials):
        signed_in(passkeys, key, name="amina", password=SecretStr("wrong"))


def test_a_copied_passkey_has_no_counter_and_is_taken(trust: Any, passkeys: PasskeySignIn) -> None:
    device = Authenticator(ORIGIN, counts=False)
    enrolled(trust, passkeys, "maryam", device)
    for _ in range(2):
        signed_in(passkeys, device)
    with trust.database.reading() as connection:
        account = trust.accounts.get(connection, "maryam")
        (passkey,) = passkeys.passkeys.of(connection, account.id)
    assert passkey.backed_up
    assert passkey.last_used_at == trust.now


def test_a_passkey_steps_a_session_up(trust: Any, passkeys: PasskeySignIn) -> None:
    device = Authenticator(ORIGIN)
    pair = enrolled(trust, passkeys, "maryam", device)
    trust.wait(minutes=4)
    token = pair.access_token.get_secret_value()
    credential = device.get(passkeys.step_up_options(caller_of(trust, pair)))
    fresh = passkeys.step_up_session(token, PasskeyRequest(credential=credential))
    trust.wait(minutes=2)
    assert caller_of(trust, fresh).stepped_up(trust.now)
    assert fresh.session == pair.session


def test_another_factor_needs_a_fresh_one(trust: Any, passkeys: PasskeySignIn) -> None:
    person = trust.person("amina")
    caller = caller_of(trust, person.tokens)
    trust.wait(minutes=6)
    with pytest.raises(Forbidden, match="needs one that you have"):
        passkeys.registration_options(caller)


def test_one_device_is_not_registered_twice(trust: Any, passkeys: PasskeySignIn) -> None:
    caller = caller_of(trust, trust.person("amina").tokens)
    device = Authenticator(ORIGIN)
    added(trust, passkeys, caller, device)
    with pytest.raises(ValueError, match="already"):
        device.create(passkeys.registration_options(caller))


def test_all_passkeys_of_an_account_name_the_same_user_and_tell_nothing(
    trust: Any, passkeys: PasskeySignIn
) -> None:
    caller = caller_of(trust, trust.person("amina").tokens)
    devices = [Authenticator(ORIGIN), Authenticator(ORIGIN)]
    for device in devices:
        added(trust, passkeys, caller, device)
    handles = {device.credentials[0].user_handle for device in devices}
    assert len(handles) == 1
    assert len(handles.pop()) == 32


def factors(trust: Any, name: str, remove: str | None = None) -> Any:
    own = OwnFactors(trust.authentication.exchanges)
    with trust.database.transaction() as connection:
        account = trust.accounts.get(connection, name)
        return own.remove(connection, account, remove) if remove else own.of(connection, account)


def test_the_last_factor_stays(trust: Any, passkeys: PasskeySignIn) -> None:
    enrolled(trust, passkeys, "maryam", Authenticator(ORIGIN))
    (only,) = factors(trust, "maryam").passkeys
    with pytest.raises(Conflict, match="last factor"):
        factors(trust, "maryam", only.id)
    person = trust.person("amina")
    with pytest.raises(Conflict, match="last factor"):
        factors(trust, "amina", "totp")
    key = Authenticator(ORIGIN, verifies=False)
    done = added(trust, passkeys, caller_of(trust, person.tokens), key)
    left = factors(trust, "amina", "totp")
    assert (left.totp, left.password, len(left.passkeys)) == (False, True, 1)
    with pytest.raises(Conflict, match="last factor"):
        factors(trust, "amina", done.passkey.id)
    with pytest.raises(NotFound):
        factors(trust, "amina", only.id)
    assert trust.login("amina", person.recovery[0])  # recovery codes outlive the authenticator


def test_a_passkey_that_was_taken_away_opens_nothing(trust: Any, passkeys: PasskeySignIn) -> None:
    person = trust.person("amina")
    device = Authenticator(ORIGIN)
    done = added(trust, passkeys, caller_of(trust, person.tokens), device)
    factors(trust, "amina", done.passkey.id)
    with pytest.raises(WrongCredentials):
        signed_in(passkeys, device)
    assert trust.last_record().reasons == ("unknown-passkey",)


def test_a_reset_account_forgets_its_passkeys(trust: Any, passkeys: PasskeySignIn) -> None:
    device = Authenticator(ORIGIN)
    enrolled(trust, passkeys, "maryam", device)
    with trust.database.transaction() as connection:
        trust.authentication.enrolment.reset(connection, "maryam", now=trust.now)
    with pytest.raises(WrongCredentials):
        signed_in(passkeys, device)


def test_a_deactivated_account_is_not_let_in(trust: Any, passkeys: PasskeySignIn) -> None:
    device = Authenticator(ORIGIN)
    enrolled(trust, passkeys, "maryam", device)
    with trust.database.transaction() as connection:
        trust.accounts.deactivate(connection, "maryam", now=trust.now)
        assert passkeys.passkeys.count(connection, trust.accounts.get(connection, "maryam").id) == 0
    with pytest.raises(WrongCredentials):
        signed_in(passkeys, device)


def test_asking_for_challenges_leaves_nothing_behind(trust: Any, passkeys: PasskeySignIn) -> None:
    device = Authenticator(ORIGIN)
    enrolled(trust, passkeys, "maryam", device)
    for _ in range(5):
        passkeys.sign_in_options()
    with trust.database.reading() as connection:
        assert len(connection.execute(select(used_challenges)).all()) == 1
    trust.wait(minutes=6)
    signed_in(passkeys, device)
    with trust.database.reading() as connection:
        rows = connection.execute(select(used_challenges)).all()
    assert len(rows) == 1
    assert rows[0].expires_at > trust.now + timedelta(minutes=4)


def test_a_platform_without_a_name_has_no_passkeys(trust: Any) -> None:
    nameless = PasskeySignIn(
        trust.authentication, RelyingParty("", ("https://10.0.0.1",)), b"x" * 32
    )
    with pytest.raises(InvalidInput, match="belong to a name"):
        nameless.sign_in_options()
