"""The key service on AWS KMS: the port's suite against a stand-in. No AWS was spoken to."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.errors import ComponentRefused, Corrupt, InvalidInput, Unavailable
from falaj.testing.keys import KeyServiceSuite
from falaj.testing.kms import REGION, KmsStandIn
from falaj.trust.adapters.keys_aws import KmsPlace, KmsWrapping
from falaj.trust.adapters.keys_file import FileKeyring
from falaj.trust.adapters.seals_remote import RemoteSeal
from falaj.trust.adapters.sigv4 import Credentials
from falaj.trust.keys_hybrid import HybridKeys
from falaj.trust.ports import UnknownKey, WrappedKey

DATA_KEY = bytes(range(32))
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def kms(tmp_path_factory):
    found = KmsStandIn(tmp_path_factory.mktemp("kms"))
    yield found
    found.close()


@pytest.fixture
def place(kms):
    credentials = Credentials(kms.access_key, kms.secret_key)
    url = kms.url(f"t{secrets.token_hex(6)}")
    return KmsPlace.of(url, credentials=credentials, ca_file=kms.ca_file)


@pytest.fixture
def make(tmp_path):
    made = []

    def wrapping(place, clock=CLOCK):
        made.append(KmsWrapping(place, lock_file=tmp_path / "lock", clock=clock))
        return made[-1]

    yield wrapping
    for one in made:
        one.close()


@pytest.fixture
def wrapping(make, place):
    return make(place)


class TestKmsKeys(KeyServiceSuite):
    @pytest.fixture
    def keys(self, wrapping, tmp_path):
        seal = RemoteSeal("awskms", wrapping)
        return HybridKeys(wrapping, FileKeyring.create(tmp_path / "ring", seal, clock=CLOCK))

    @pytest.fixture
    def again(self, keys, make, place, tmp_path):
        other = make(place)
        seal = RemoteSeal("awskms", other)
        return HybridKeys(other, FileKeyring(tmp_path / "ring", seal, clock=CLOCK))


def test_kms_learns_no_name_of_what_is_sealed(kms, wrapping):
    wrapping.wrap(DATA_KEY, context="second factor of account_amina")
    assert "amina" not in str(kms.contexts[-1])


def test_a_wrong_secret_or_a_wrong_clock_is_told_and_not_shown(kms, place, make):
    wrong = Credentials(kms.access_key, "not-the-secret-of-anybody")
    with pytest.raises(ComponentRefused, match="InvalidSignatureException") as refused:
        make(replace(place, credentials=wrong)).wrap(DATA_KEY, context="c")
    assert "not-the-secret" not in str(refused.value)
    unknown = Credentials("AKIAUNKNOWN", kms.secret_key)
    with pytest.raises(ComponentRefused, match="UnrecognizedClientException"):
        make(replace(place, credentials=unknown)).wrap(DATA_KEY, context="c")
    other = KmsPlace.of(
        f"awskms://eu-central-1?endpoint={kms.endpoint}",
        credentials=place.credentials,
        ca_file=kms.ca_file,
    )
    with pytest.raises(ComponentRefused, match="InvalidSignatureException"):
        make(other).wrap(DATA_KEY, context="c")


def test_every_request_is_signed_at_the_platforms_time(place, make):
    clock = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
    wrapping = make(place, clock)
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    clock.move(timedelta(days=1))  # another day has another signing key
    assert wrapping.unwrap(wrapped, context="c") == DATA_KEY


def test_a_disabled_key_opens_nothing(kms, wrapping, place):
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    kms.disable(f"alias/{place.prefix}-wrapping-v1")
    with pytest.raises(UnknownKey):
        wrapping.unwrap(wrapped, context="c")


def test_a_busy_kms_is_asked_again_later(kms, wrapping, monkeypatch):
    wrapped = wrapping.wrap(DATA_KEY, context="c")
    for failing in ("ThrottlingException", "KMSInternalException"):
        monkeypatch.setattr(kms, "failing", failing)
        with pytest.raises(Unavailable, match=failing):
            wrapping.unwrap(wrapped, context="c")
    monkeypatch.setattr(kms, "failing", "AccessDeniedException")
    with pytest.raises(ComponentRefused, match="AccessDeniedException"):
        wrapping.unwrap(wrapped, context="c")
    monkeypatch.setattr(kms, "failing", "")
    assert wrapping.unwrap(wrapped, context="c") == DATA_KEY


def test_a_kms_that_is_down_or_not_believed_is_told(place, make):
    for other in (
        replace(place, endpoint="https://127.0.0.1:9"),
        replace(place, ca_file=None),
    ):
        with pytest.raises(Unavailable, match="does not answer"):
            make(other).wrap(DATA_KEY, context="c")


def test_a_wrap_is_one_question(kms, wrapping):
    wrapping.wrap(DATA_KEY, context="c")
    before = len(kms.asked)
    for _ in range(5):
        wrapping.wrap(DATA_KEY, context="c")
    assert kms.asked[before:] == ["Encrypt"] * 5


def test_two_installations_share_an_account_and_not_their_keys(kms, place, wrapping, make):
    url = kms.url(f"t{secrets.token_hex(6)}")
    other = make(KmsPlace.of(url, credentials=place.credentials, ca_file=kms.ca_file))
    wrapped, mine = wrapping.wrap(DATA_KEY, context="c"), other.wrap(DATA_KEY, context="c")
    with pytest.raises(UnknownKey):
        other.unwrap(wrapped, context="c")
    with pytest.raises(Corrupt):
        other.unwrap(WrappedKey(mine.key_id, wrapped.value), context="c")


@pytest.mark.parametrize(
    "url",
    [
        "awskms://", "awskms://nowhere", f"awskms://{REGION}/path", f"awskms://{REGION}?a=b",
        f"awskms://{REGION}?endpoint=http://127.0.0.1:4566", f"awskms://u:p@{REGION}",
        f"awskms://{REGION}?prefix=A-b", f"awskms://{REGION}?endpoint=https://h/path",
    ],
)  # fmt: skip
def test_an_odd_address_is_refused(url):
    with pytest.raises(InvalidInput):
        KmsPlace.of(url, credentials=Credentials("a", "b"))


def test_an_address_without_credentials_is_refused():
    with pytest.raises(InvalidInput, match="FALAJ_KEY_SERVICE__ACCESS_KEY"):
        KmsPlace.of(f"awskms://{REGION}", credentials=Credentials("", ""))
