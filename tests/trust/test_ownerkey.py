"""The owner of an embedded workspace: a key file proves who asks, a code steps up."""

from __future__ import annotations

import os

import pyotp
import pytest
from pydantic import SecretStr

from falaj.kernel.errors import AlreadyExists, Corrupt, Forbidden, NotFound
from falaj.kernel.ports import Outcome
from falaj.trust.authentication import OWNER_ROLES
from falaj.trust.model import ConfirmRequest, Role, WrongCredentials
from falaj.trust.ownerkey import OwnerKey, proves


@pytest.fixture
def key(tmp_path) -> OwnerKey:
    return OwnerKey.create(tmp_path / "keys" / "owner.pem")


def owned(trust, key: OwnerKey):
    with trust.database.transaction() as connection:
        return trust.authentication.create_owner(
            connection, name="owner", public_key=key.public_key, now=trust.now
        )


def test_a_key_file_is_for_its_owner_alone_and_is_not_overwritten(tmp_path, key):
    path = tmp_path / "keys" / "owner.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists):
        OwnerKey.create(path)
    assert OwnerKey.load(path).public_key == key.public_key


def test_a_key_file_that_others_may_read_is_refused(tmp_path, key):
    path = tmp_path / "keys" / "owner.pem"
    path.chmod(0o640)
    with pytest.raises(Forbidden, match="640"):
        OwnerKey.load(path)


def test_a_missing_or_foreign_key_file_is_told(tmp_path):
    with pytest.raises(NotFound):
        OwnerKey.load(tmp_path / "none.pem")
    other = tmp_path / "other.pem"
    descriptor = os.open(other, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    os.close(descriptor)
    with pytest.raises(Corrupt):
        OwnerKey.load(other)


def test_a_proof_is_for_one_challenge_and_one_key(tmp_path, key):
    other = OwnerKey.create(tmp_path / "other.pem")
    answer = key.answer(b"one")
    assert proves(key.public_key, b"one", answer)
    assert not proves(key.public_key, b"two", answer)
    assert not proves(other.public_key, b"one", answer)
    assert not proves(b"short", b"one", answer)


def test_the_key_gives_a_caller_who_has_not_stepped_up(trust, key):
    account = owned(trust, key)
    assert account.has_key and not account.has_factor
    caller = trust.authentication.by_key(key)
    assert caller.principal.id == "user:owner"
    assert set(caller.principal.roles) == {role.value for role in OWNER_ROLES}
    assert caller.mfa_at is None
    assert trust.last_record().action == "auth.by_key"
    with trust.database.reading() as connection:
        assert [a.name for a in trust.accounts.administrators(connection)] == ["owner"]
    assert trust.first_link() is None


def test_an_unknown_key_and_an_answer_of_another_key_are_refused(trust, key, tmp_path):
    owned(trust, key)
    stranger = OwnerKey.create(tmp_path / "stranger.pem")

    class Impostor:
        public_key = key.public_key

        def answer(self, challenge: bytes) -> bytes:
            return stranger.answer(challenge)

    for credential in (stranger, Impostor()):
        with pytest.raises(WrongCredentials):
            trust.authentication.by_key(credential)
        assert trust.last_record().outcome is Outcome.REFUSED
        assert trust.last_record().principal == "unknown"


def test_the_key_of_a_deactivated_owner_opens_nothing(trust, key):
    owned(trust, key)
    trust.person("other", Role.ADMINISTRATOR)
    with trust.database.transaction() as connection:
        trust.accounts.deactivate(connection, "owner", now=trust.now)
    with pytest.raises(WrongCredentials):
        trust.authentication.by_key(key)


def test_the_owner_enrols_a_factor_and_steps_up_with_it(trust, key):
    owned(trust, key)
    caller = trust.authentication.by_key(key)
    with pytest.raises(Forbidden, match="no second factor"):
        trust.authentication.step_up(caller, SecretStr("123456"))
    offer = trust.authentication.offer_factor(caller)
    totp = pyotp.TOTP(offer.totp_secret.get_secret_value())
    done = trust.authentication.confirm(
        ConfirmRequest(ticket=offer.ticket, code=SecretStr(totp.at(trust.now)))
    )
    assert done.tokens is None
    with pytest.raises(WrongCredentials):
        trust.authentication.step_up(caller, SecretStr(totp.at(trust.now)))
    trust.wait(seconds=30)
    fresh = trust.authentication.step_up(caller, SecretStr(totp.at(trust.now)))
    assert fresh.stepped_up(trust.now)
    trust.wait(minutes=6)
    assert not fresh.stepped_up(trust.now)
    code = done.recovery.codes[0]
    assert trust.authentication.step_up(caller, code).stepped_up(trust.now)
