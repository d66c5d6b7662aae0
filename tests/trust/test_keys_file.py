"""The keyring file: the port's suite, and everything that can be wrong with a file."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import (
    AlreadyExists,
    Corrupt,
    FalajError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from falaj.testing.keys import KeyServiceSuite
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal, PassphraseSeal, WrongSeal
from falaj.trust.keys import Keyset
from falaj.trust.ports import WRAPPING, WrappedKey

CLOCK = SetClock(datetime(2026, 11, 23, tzinfo=UTC))
CHEAP = {"memory_kib": 64, "passes": 1, "lanes": 1}


def passphrase(text="correct horse battery"):
    return PassphraseSeal(text, **CHEAP)


class TestFileKeyringWithAPassphrase(KeyServiceSuite):
    @pytest.fixture
    def keys(self, tmp_path):
        return FileKeyring.create(tmp_path / "keys.json", passphrase(), clock=CLOCK)

    @pytest.fixture
    def again(self, keys, tmp_path):
        return FileKeyring(tmp_path / "keys.json", passphrase(), clock=CLOCK)


class TestFileKeyringWithAMachineSecret(KeyServiceSuite):
    @pytest.fixture
    def keys(self, tmp_path):
        seal = MachineSeal.create(tmp_path / "etc" / "machine.secret")
        return FileKeyring.create(tmp_path / "keys.json", seal, clock=CLOCK)

    @pytest.fixture
    def again(self, keys, tmp_path):
        seal = MachineSeal(tmp_path / "etc" / "machine.secret")
        return FileKeyring(tmp_path / "keys.json", seal, clock=CLOCK)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.json"
    FileKeyring.create(path, passphrase(), clock=CLOCK)
    return path


def opened(path, text="correct horse battery"):
    return FileKeyring(path, passphrase(text), clock=CLOCK)


def test_a_wrong_passphrase_opens_nothing(path):
    with pytest.raises(WrongSeal) as told:
        opened(path, "incorrect horse battery")
    assert "incorrect horse" not in str(told.value)
    assert told.value.hint


def test_a_short_passphrase_is_refused():
    with pytest.raises(InvalidInput):
        PassphraseSeal("short")


def test_the_default_cost_of_a_passphrase_is_that_of_rfc_9106():
    fresh = PassphraseSeal("correct horse battery").fresh()
    assert (fresh["memory_kib"], fresh["passes"], fresh["lanes"]) == (65_536, 3, 4)


def test_a_missing_keyring_is_named(tmp_path):
    with pytest.raises(NotFound, match="absent"):
        opened(tmp_path / "absent.json")


def test_a_keyring_is_never_replaced_by_a_new_one(path):
    before = path.read_bytes()
    with pytest.raises(AlreadyExists):
        FileKeyring.create(path, passphrase(), clock=CLOCK)
    assert path.read_bytes() == before


def test_neither_keys_nor_root_stand_in_the_file_in_clear(path):
    keys = opened(path)
    keys.sign("audit", b"m")
    text = path.read_text()
    for secret in json.dumps(keys._opened.keys.to_document()).split('"'):
        assert len(secret) < 40 or secret not in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(Corrupt):
            opened(path)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(path, place, bit):
    whole = path.with_suffix(".whole")
    if not whole.exists():
        whole.write_bytes(path.read_bytes())
    text = bytearray(whole.read_bytes())
    before = json.loads(text)
    text[int(place * len(text))] ^= 1 << bit
    path.write_bytes(text)
    try:
        opened(path)
    except FalajError as error:
        assert error.hint
    else:  # white space, or the unused bits of base64
        after = json.loads(text)
        assert after["sealed_by"] == before["sealed_by"]
        assert after["generation"] == before["generation"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(generation=7),
        lambda d: d["sealed_by"].update(note="x"),
        lambda d: d["sealed_by"].update(passes=2),
        lambda d: d.update(nonce="AAAAAAAAAAAAAAAA"),
    ],
)
def test_an_edited_header_is_refused(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(WrongSeal):
        opened(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(format="falaj-keyring-9"),
        lambda d: d.update(nonce="AAAA"),
        lambda d: d.update(keys="not base64!"),
        lambda d: d.update(keys=7),
        lambda d: d.update(sealed_by=7),
        lambda d: d.pop("generation"),
        lambda d: d["sealed_by"].update(memory_kib=10**9),
        lambda d: d["sealed_by"].update(passes=10**9),
        lambda d: d["sealed_by"].update(lanes=0),
        lambda d: d["sealed_by"].update(salt="AAAA"),
        lambda d: d["sealed_by"].pop("salt"),
    ],
)
def test_a_hostile_header_is_refused_at_once(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(Corrupt):
        opened(path)


@pytest.mark.parametrize("text", ["[]", "null", "7", '"x"', "[" * 100_000, "\x00", "{}"])
def test_a_file_that_is_no_keyring_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(Corrupt):
        opened(path)


def test_a_huge_file_is_not_read_whole(path):
    with path.open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(Corrupt):
        opened(path)


def test_the_wrong_sort_of_seal_is_told(path, tmp_path):
    with pytest.raises(WrongSeal, match="passphrase"):
        FileKeyring(path, MachineSeal.create(tmp_path / "secret"), clock=CLOCK)


def test_a_keyring_put_back_under_a_running_process_is_noticed(path):
    old = path.read_bytes()
    keys = opened(path)
    keys.rotate(WRAPPING)
    path.write_bytes(old)
    with pytest.raises(Corrupt, match="older"):
        keys.wrap(bytes(32), context="c")


def test_a_keyring_that_disappears_under_a_running_process_is_noticed(path):
    keys = opened(path)
    path.unlink()
    with pytest.raises(NotFound):
        keys.wrap(bytes(32), context="c")


def test_resealing_keeps_the_keys_and_shuts_out_the_old_passphrase(path):
    keys = opened(path)
    wrapped = keys.wrap(bytes(32), context="c")
    keys.reseal(passphrase("another long passphrase"))
    assert opened(path, "another long passphrase").unwrap(wrapped, context="c") == bytes(32)
    assert keys.unwrap(wrapped, context="c") == bytes(32)
    with pytest.raises(WrongSeal):
        opened(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(path):
    keys = opened(path)
    path.parent.chmod(0o500)
    try:
        with pytest.raises((LimitExceeded, Unavailable)):
            keys.rotate(WRAPPING)
    finally:
        path.parent.chmod(0o700)


def test_a_failed_write_leaves_the_old_keyring_and_no_litter(path, monkeypatch):
    keys = opened(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(LimitExceeded, match="No space left"):
            keys.rotate(WRAPPING)
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]
    assert keys.unwrap(keys.wrap(bytes(32), context="c"), context="c") == bytes(32)


def test_a_directory_in_place_of_the_keyring_is_told(tmp_path):
    with pytest.raises(Unavailable):
        opened(tmp_path)
    with pytest.raises(Unavailable):
        MachineSeal(tmp_path).key({"salt": "AAAAAAAAAAAAAAAAAAAAAA=="})


class TestMachineSecret:
    @pytest.fixture
    def secret(self, tmp_path):
        MachineSeal.create(tmp_path / "secret")
        return tmp_path / "secret"

    def test_it_is_readable_by_its_owner_alone(self, secret):
        assert secret.stat().st_mode & 0o777 == 0o600

    def test_it_is_never_replaced(self, secret):
        with pytest.raises(AlreadyExists):
            MachineSeal.create(secret)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
    def test_one_that_others_may_read_is_refused(self, secret, tmp_path, mode):
        secret.chmod(mode)
        with pytest.raises(InvalidInput, match="chmod 600"):
            FileKeyring.create(tmp_path / "k.json", MachineSeal(secret), clock=CLOCK)

    @pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31, "ab" * 33, "\u00e9" * 64])
    def test_a_damaged_one_is_refused(self, secret, tmp_path, text):
        secret.write_text(text)
        with pytest.raises(Corrupt):
            FileKeyring.create(tmp_path / "k.json", MachineSeal(secret), clock=CLOCK)

    def test_a_missing_one_is_named(self, tmp_path):
        with pytest.raises(NotFound, match="absent"):
            FileKeyring.create(tmp_path / "k.json", MachineSeal(tmp_path / "absent"), clock=CLOCK)

    def test_another_machines_secret_opens_nothing(self, secret, tmp_path):
        FileKeyring.create(tmp_path / "k.json", MachineSeal(secret), clock=CLOCK)
        other = MachineSeal.create(tmp_path / "other")
        with pytest.raises(WrongSeal):
            FileKeyring(tmp_path / "k.json", other, clock=CLOCK)


_ROTATE = """
import sys
from pathlib import Path
from falaj.kernel.clock import SystemClock
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
keys = FileKeyring(Path(sys.argv[1]), MachineSeal(Path(sys.argv[2])), clock=SystemClock())
for number in range(15):
    keys.rotate("wrapping")
    keys.sign("audit", b"m")
    print(keys.wrap(bytes(32), context="c").to_text())
"""


def test_processes_that_rotate_at_once_lose_no_key(tmp_path):
    seal = MachineSeal.create(tmp_path / "secret")
    keys = FileKeyring.create(tmp_path / "k.json", seal, clock=CLOCK)
    command = [sys.executable, "-c", _ROTATE, str(tmp_path / "k.json"), str(tmp_path / "secret")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line for process in started for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(lines) == 45
    for line in lines:
        assert keys.unwrap(WrappedKey.parse(line), context="c") == bytes(32)
    wrapping = [item.version for item in keys.versions() if item.purpose == WRAPPING]
    assert wrapping == list(range(1, 47))
    assert len(keys.public_keys("audit")) == 1


@pytest.mark.parametrize("text", ["", "key", "key.", ".AAAA", "key.!!!", "key.A"])
def test_a_malformed_wrapped_key_text_is_refused(text):
    with pytest.raises(Corrupt):
        WrappedKey.parse(text)


@given(st.binary(min_size=1, max_size=80))
def test_a_wrapped_key_survives_its_text_form(value):
    assert WrappedKey.parse(WrappedKey("key_1", value).to_text()) == WrappedKey("key_1", value)


def test_a_keyset_shows_no_secret():
    keys = Keyset.fresh(CLOCK.now())
    assert "secret" not in repr(keys) and "secret" not in repr(keys.keys[0])
    assert Keyset.from_document(keys.to_document()) == keys


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"keys": [{}], "root": ""},
        {"keys": 5, "root": "x"},
        {"keys": [], "root": "AA=="},
    ],
)
def test_a_document_that_is_no_keyset_is_refused(document):
    with pytest.raises(ValueError):
        Keyset.from_document(document)
