"""The key service on a hardware module (SoftHSM2): the port's suite, and what can go wrong."""

import os
import secrets
from dataclasses import replace
from datetime import UTC, datetime

import pkcs11
import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import ComponentRefused, Corrupt, InvalidInput, Unavailable
from falaj.testing.keys import KeyServiceSuite
from falaj.trust.adapters.keys_file import FileKeyring
from falaj.trust.adapters.keys_pkcs11 import Pkcs11Place, Pkcs11Wrapping
from falaj.trust.adapters.seals_remote import RemoteSeal, SealedKeyring
from falaj.trust.keys_hybrid import HybridKeys
from falaj.trust.ports import WRAPPING, UnknownKey, WrappedKey

pytestmark = pytest.mark.services
CLOCK = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
DATA_KEY = bytes(range(32))


@pytest.fixture
def place(hsm_token):
    url = hsm_token.url(f"t{secrets.token_hex(6)}")
    return Pkcs11Place.of(url, pin=hsm_token.pin)


@pytest.fixture
def wrapping(place, tmp_path):
    return Pkcs11Wrapping(place, lock_file=tmp_path / "lock", clock=CLOCK)


@pytest.fixture
def keyring(wrapping, tmp_path):
    return FileKeyring.create(tmp_path / "keyring", RemoteSeal("pkcs11", wrapping), clock=CLOCK)


class TestPkcs11Keys(KeyServiceSuite):
    @pytest.fixture
    def keys(self, wrapping, keyring):
        return HybridKeys(wrapping, keyring)

    @pytest.fixture
    def again(self, keys, place, tmp_path):
        wrapping = Pkcs11Wrapping(place, lock_file=tmp_path / "lock", clock=CLOCK)
        seal = RemoteSeal("pkcs11", wrapping)
        return HybridKeys(wrapping, FileKeyring(tmp_path / "keyring", seal, clock=CLOCK))


def test_the_wrapping_key_cannot_be_taken_out_of_the_module(wrapping):
    wrapping.wrap(DATA_KEY, context="c")

    def taken(session):
        (key,) = wrapping._held(session).values()
        assert key[pkcs11.Attribute.SENSITIVE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]

    wrapping._with_session(taken)


def test_the_keyring_opens_with_the_module_alone_and_moves_to_its_new_version(
    wrapping, keyring, tmp_path
):
    other_process = FileKeyring(tmp_path / "keyring", RemoteSeal("pkcs11", wrapping), clock=CLOCK)
    signature = keyring.sign("audit", b"m")
    before = wrapping.versions()[0]
    made = wrapping.rotate()
    store = SealedKeyring(keyring, RemoteSeal("pkcs11", wrapping))
    assert list(store.items()) == [("keyring", before.id)]
    assert store.rewrap("keyring")
    assert list(store.items()) == [("keyring", made.id)]
    assert list(store.items(after="keyring")) == []
    wrapping.discard(before.id)
    other_process.verify("audit", b"m", signature)
    again = FileKeyring(tmp_path / "keyring", RemoteSeal("pkcs11", wrapping), clock=CLOCK)
    again.verify("audit", b"m", signature)


def test_a_wrong_pin_is_told_and_is_no_secret_in_the_error(hsm_token, place, tmp_path):
    pid = os.fork()
    if pid == 0:  # the login is the whole process's: a fresh one has none
        status = 1
        try:
            wrong = Pkcs11Wrapping(
                replace(place, pin="00009999"), lock_file=tmp_path / "lock", clock=CLOCK
            )
            try:
                pkcs11.lib(place.module).reinitialize()
                wrong.wrap(DATA_KEY, context="c")
            except ComponentRefused as error:
                status = 2 if "00009999" in str(error) else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "00009999" not in repr(replace(place, pin="00009999"))


def test_a_forked_process_opens_the_module_for_itself(wrapping):
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if wrapping.unwrap(wrapped, context="c") == DATA_KEY else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert wrapping.unwrap(wrapped, context="c") == DATA_KEY


# The library closes its search on the lost session once more, and says that it cannot.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_session_is_opened_again(wrapping):
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    wrapping._device.session.close()
    assert wrapping.unwrap(wrapped, context="c") == DATA_KEY


def test_a_module_or_token_that_is_not_there_is_told(place, tmp_path):
    for other in (
        replace(place, module="/nowhere/module.so"),
        replace(place, token="another"),
    ):
        missing = Pkcs11Wrapping(other, lock_file=tmp_path / "lock", clock=CLOCK)
        with pytest.raises(Unavailable, match="does not answer"):
            missing.wrap(DATA_KEY, context="c")


def test_two_installations_share_a_token_and_not_their_keys(hsm_token, wrapping, tmp_path):
    place = Pkcs11Place.of(hsm_token.url(f"t{secrets.token_hex(6)}"), pin=hsm_token.pin)
    other = Pkcs11Wrapping(place, lock_file=tmp_path / "lock", clock=CLOCK)
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    mine = other.wrap(DATA_KEY, context="c")
    with pytest.raises(UnknownKey):
        other.unwrap(wrapped, context="c")
    with pytest.raises(Corrupt):
        other.unwrap(WrappedKey(mine.key_id, wrapped.value), context="c")


def test_a_wrap_under_an_old_version_does_not_pass_for_a_new_one(wrapping):
    old = wrapping.wrap(DATA_KEY, context="c")
    made = wrapping.rotate()
    with pytest.raises(Corrupt):
        wrapping.unwrap(WrappedKey(made.id, old.value), context="c")


@pytest.mark.parametrize(
    "url",
    [
        "pkcs11:", "pkcs11:module.so?token=a", "pkcs11:/m.so", "pkcs11://host/m.so?token=a",
        "pkcs11:/m.so?token=a&pin-value=1234", "pkcs11:/m.so?token=a&prefix=A-b",
    ],
)  # fmt: skip
def test_an_odd_address_is_refused(url):
    with pytest.raises(InvalidInput):
        Pkcs11Place.of(url, pin="1234")


def test_a_token_without_its_pin_is_refused():
    with pytest.raises(InvalidInput, match="FALAJ_KEY_SERVICE__PIN"):
        Pkcs11Place.of("pkcs11:/m.so?token=a", pin="")


def test_the_wrapping_key_is_rotated_in_the_module_and_the_others_in_the_keyring(wrapping, keyring):
    keys = HybridKeys(wrapping, keyring)
    keys.sign("audit", b"m")
    assert keys.rotate("audit").version == 2
    keys.wrap(DATA_KEY, context="c")
    made = keys.rotate(WRAPPING)
    assert made == wrapping.versions()[-1]
