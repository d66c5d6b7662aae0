"""The authority's key stands sealed, and one in clear does not stay so."""

import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.lake.sealedfiles import SealedFiles
from falaj.trust import authoritykey
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.authoritykey import CONTEXT, SEALED_FILE
from falaj.trust.certificates import CertificateAuthority
from falaj.trust.ports import WRAPPING


@pytest.fixture
def clock():
    return SetClock(datetime(2026, 11, 30, tzinfo=UTC))


@pytest.fixture
def keyring(tmp_path, clock):
    return FileKeyring.create(
        tmp_path / "keyring", MachineSeal.create(tmp_path / "machine"), clock=clock
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tls"


@pytest.fixture
def authority(folder, clock, keyring):
    return CertificateAuthority(folder, clock=clock, keys=keyring)


def of_an_older_version(folder, clock):
    """An authority whose key stands in clear; its certificate."""
    older = CertificateAuthority(folder, clock=clock)
    older.server_certificate(["localhost"])
    return (folder / "ca.pem").read_bytes()


def test_the_key_of_an_authority_is_nowhere_on_the_disk_in_clear(authority, folder):
    authority.server_certificate(["localhost"])
    assert not (folder / "ca.key").exists()
    sealed = folder / SEALED_FILE
    assert sealed.read_bytes().startswith(b"FLJ1")
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    clear = [one.name for one in folder.iterdir() if b"PRIVATE" in one.read_bytes()]
    assert clear == ["server.pem"]  # the server's own, which TLS reads from a file


def test_a_key_in_clear_is_sealed_and_removed_and_the_authority_stays_the_same(
    folder, clock, authority
):
    before = of_an_older_version(folder, clock)
    kept = (folder / "server.pem").read_bytes()
    authority.server_certificate(["localhost"])
    assert not (folder / "ca.key").exists()
    assert (folder / "ca.pem").read_bytes() == before
    assert (folder / "server.pem").read_bytes() == kept
    renewed = authority.server_certificate(["localhost", "other.test"])
    held = x509.load_pem_x509_certificate(renewed.path.read_bytes())
    held.verify_directly_issued_by(x509.load_pem_x509_certificate(before))


def test_a_process_that_is_killed_before_the_key_in_clear_is_gone_is_made_up_for(
    folder, clock, authority, monkeypatch
):
    of_an_older_version(folder, clock)

    def killed(_path):
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(authoritykey, "removed", killed)
        with pytest.raises(KeyboardInterrupt):
            authority.server_certificate(["localhost"])
    assert (folder / "ca.key").exists()
    authority.server_certificate(["localhost"])
    assert not (folder / "ca.key").exists()


def test_two_different_keys_are_told_and_neither_is_removed(folder, clock, authority, tmp_path):
    authority.server_certificate(["localhost"])
    of_an_older_version(tmp_path / "other", clock)
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    (folder / "ca.key").chmod(0o600)
    with pytest.raises(Corrupt, match="two different keys"):
        authority.server_certificate(["localhost"])
    assert (folder / "ca.key").exists()
    assert (folder / SEALED_FILE).exists()


def test_a_key_in_clear_that_others_may_read_is_not_taken_over_in_silence(folder, clock, authority):
    of_an_older_version(folder, clock)
    (folder / "ca.key").chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        authority.server_certificate(["localhost"])


def test_the_key_opens_with_no_other_keyring(folder, clock, authority, tmp_path):
    authority.server_certificate(["localhost"])
    seal = MachineSeal.create(tmp_path / "machine2")
    stranger = FileKeyring.create(tmp_path / "keyring2", seal, clock=clock)
    with pytest.raises(Corrupt):
        CertificateAuthority(folder, clock=clock, keys=stranger).server_certificate(["localhost"])


def test_a_rotation_puts_the_key_under_the_new_version_and_it_still_signs(
    folder, clock, authority, keyring
):
    authority.server_certificate(["localhost"])
    new = keyring.rotate(WRAPPING)
    store = SealedFiles(
        "certificate authority",
        folder,
        keyring,
        lambda path: CONTEXT if str(path) == SEALED_FILE else None,
    )
    ((item, before),) = store.items()
    assert before != new.id
    assert store.rewrap(item)
    assert [key for _, key in store.items()] == [new.id]
    assert store.reseal(item)
    authority.server_certificate(["after.test"])
