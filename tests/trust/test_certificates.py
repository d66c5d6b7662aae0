"""The built-in authority: proven by real TLS handshakes."""

import contextlib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded, Unavailable
from falaj.trust.certificates import CertificateAuthority, client_context
from falaj.trust.identities import Identity


@pytest.fixture
def clock():
    return SetClock(datetime.now(UTC))


@pytest.fixture
def authority(tmp_path, clock):
    return CertificateAuthority(tmp_path / "tls", clock=clock)


@contextlib.contextmanager
def serving(certificate):
    """A server that greets each client once; gives its port."""
    context = certificate.server_context()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with (
                raw,
                contextlib.suppress(OSError),
                context.wrap_socket(raw, server_side=True) as tls,
            ):
                tls.sendall(b"hello")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def greeted(port, name, context):
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=name) as tls,
    ):
        return tls.version(), tls.recv(5)


def test_a_client_that_trusts_the_authority_talks_tls_1_3(authority):
    certificate = authority.server_certificate(
        ["Falaj.Example.org", "127.0.0.1", "::1", "*.local.test"]
    )
    assert certificate.names == ("falaj.example.org", "127.0.0.1", "::1", "*.local.test")
    context = client_context(certificate.ca_path)
    with serving(certificate) as port:
        for name in ("falaj.example.org", "127.0.0.1", "::1", "any.local.test"):
            assert greeted(port, name, context) == ("TLSv1.3", b"hello")
        for name in ("other.example.org", "127.0.0.2", "local.test"):
            with pytest.raises(ssl.SSLCertVerificationError):
                greeted(port, name, context)


def test_a_client_of_another_authority_refuses_the_server(authority, tmp_path, clock):
    other = CertificateAuthority(tmp_path / "other", clock=clock).server_certificate(["localhost"])
    with (
        serving(authority.server_certificate(["localhost"])) as port,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        greeted(port, "localhost", client_context(other.ca_path))


def test_older_tls_is_refused_by_both_sides(authority):
    certificate = authority.server_certificate(["localhost"])
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificate.ca_path)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(certificate) as port, pytest.raises(ssl.SSLError):
        greeted(port, "localhost", old)
    assert client_context(certificate.ca_path).minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_certificate_is_kept_until_30_days_are_left_and_then_renewed(authority, clock):
    first = authority.server_certificate(["localhost"])
    assert first.expires_at - clock.now() <= timedelta(days=90)
    clock.move(timedelta(days=59))
    assert authority.server_certificate(["localhost"]).fingerprint == first.fingerprint
    clock.move(timedelta(days=1, seconds=1))
    renewed = authority.server_certificate(["localhost"])
    assert renewed.fingerprint != first.fingerprint
    assert renewed.expires_at > first.expires_at


def test_other_names_or_a_clock_put_back_give_a_new_certificate(authority, clock):
    first = authority.server_certificate(["localhost"])
    second = authority.server_certificate(["localhost", "10.0.0.1"])
    assert second.fingerprint != first.fingerprint
    clock.move(timedelta(days=-1))
    assert authority.server_certificate(["localhost", "10.0.0.1"]).fingerprint != second.fingerprint


def test_private_keys_are_readable_by_their_owner_alone(authority):
    certificate = authority.server_certificate(["localhost"])
    folder = certificate.path.parent
    assert certificate.path.stat().st_mode & 0o777 == 0o600
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in certificate.ca_path.read_bytes()
    certificate.path.chmod(0o644)
    assert authority.server_certificate(["localhost"]).fingerprint != certificate.fingerprint
    assert certificate.path.stat().st_mode & 0o777 == 0o600
    (folder / "ca.key").chmod(0o640)
    with pytest.raises(InvalidInput, match="chmod 600"):
        authority.server_certificate(["localhost"])


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_or_missing_server_file_is_made_again(authority, damage):
    certificate = authority.server_certificate(["localhost"])
    if damage is None:
        certificate.path.unlink()
    else:
        certificate.path.write_bytes(damage)
    again = authority.server_certificate(["localhost"])
    again.server_context()
    assert again.fingerprint != certificate.fingerprint


@pytest.mark.parametrize("file", ["ca.pem", "ca.key"])
def test_a_damaged_authority_is_told_and_never_replaced(authority, file):
    certificate = authority.server_certificate(["localhost"])
    damaged = certificate.path.parent / file
    damaged.write_bytes(b"rubbish")
    with pytest.raises(Corrupt, match="Restore"):
        authority.server_certificate(["localhost"])
    assert damaged.read_bytes() == b"rubbish"


def test_a_missing_key_is_told_and_keys_of_other_kinds_are_refused(authority, tmp_path, clock):
    certificate = authority.server_certificate(["localhost"])
    key = certificate.path.parent / "ca.key"
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(Corrupt, match="No such file"):
        authority.server_certificate(["localhost"])
    other = CertificateAuthority(tmp_path / "other", clock=clock)
    other.server_certificate(["localhost"])
    key.write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    key.chmod(0o600)
    with pytest.raises(Corrupt, match="another certificate"):
        authority.server_certificate(["localhost"])
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(Corrupt, match="another kind"):
        authority.server_certificate(["localhost"])
    certificate.ca_path.unlink()
    with pytest.raises(Corrupt):
        authority.server_certificate(["localhost"])
    key.write_bytes(kept)
    authority.server_certificate(["localhost"])


def test_a_lost_ca_certificate_is_made_again_and_clients_of_the_old_one_go_on(authority, tmp_path):
    certificate = authority.server_certificate(["localhost"])
    old_ca = tmp_path / "client-ca.pem"
    old_ca.write_bytes(certificate.ca_path.read_bytes())
    certificate.ca_path.unlink()
    again = authority.server_certificate(["localhost", "127.0.0.1"])
    with serving(again) as port:
        assert greeted(port, "localhost", client_context(old_ca))[1] == b"hello"


def test_a_process_gets_a_certificate_that_names_it_and_is_renewed_as_those_of_servers(
    authority, clock
):
    named = "spiffe://falaj/balancer/ray"
    path = authority.process_certificate(named, file="balancer-ray")
    held = x509.load_pem_x509_certificate(path.read_bytes())
    assert str(Identity.of(held)) == named
    assert path.stat().st_mode & 0o777 == 0o600
    assert authority.process_certificate(named, file="balancer-ray").read_bytes() == (
        path.read_bytes()
    )
    clock.move(timedelta(days=61))
    authority.process_certificate(named, file="balancer-ray")
    assert x509.load_pem_x509_certificate(path.read_bytes()) != held
    with pytest.raises(InvalidInput):
        Identity.of(
            x509.load_pem_x509_certificate(
                authority.server_certificate(["localhost"]).path.read_bytes()
            )
        )


def test_an_authority_about_to_end_says_so(authority, clock):
    authority.server_certificate(["localhost"])
    clock.move(timedelta(days=3_600))
    with pytest.raises(InvalidInput, match="ends on"):
        authority.server_certificate(["localhost"])


def test_the_authority_may_sign_servers_and_no_further_authority(authority):
    certificate = authority.server_certificate(["localhost"])
    ca = x509.load_pem_x509_certificate(certificate.ca_path.read_bytes())
    held = x509.load_pem_x509_certificate(certificate.path.read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert not held.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    held.verify_directly_issued_by(ca)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "two words",
        "a..b",
        "-a.test",
        "a-.test",
        "ü.test",
        "a/b",
        "x" * 64,
        "a." * 127 + "test",
        "*",
        "a*.b",
        "\0",
        "a\n",
    ],
)
def test_a_name_that_is_none_is_refused(authority, name):
    with pytest.raises(InvalidInput):
        authority.server_certificate([name])


def test_no_names_too_many_names_and_odd_file_names_are_refused(authority):
    for names in ([], [f"h{n}.test" for n in range(101)]):
        with pytest.raises(InvalidInput):
            authority.server_certificate(names)
    for file in ("ca", "../x", "", "A B"):
        with pytest.raises(InvalidInput):
            authority.server_certificate(["localhost"], file=file)


def test_many_processes_that_start_at_once_share_one_authority_and_certificate(tmp_path, clock):
    def issue(_):
        return CertificateAuthority(tmp_path / "tls", clock=clock).server_certificate(["localhost"])

    with ThreadPoolExecutor(6) as pool:
        issued = list(pool.map(issue, range(6)))
    assert len({item.fingerprint for item in issued}) == 1


def test_a_folder_that_cannot_be_made_and_a_missing_ca_are_told(
    tmp_path, clock, authority, monkeypatch
):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LimitExceeded):
        CertificateAuthority(tmp_path / "file" / "tls", clock=clock).server_certificate(["a.test"])
    with pytest.raises(Unavailable):
        client_context(tmp_path / "absent.pem")
    with pytest.raises(Unavailable):
        client_context(tmp_path / "file")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LimitExceeded, match="No space"):
        authority.server_certificate(["localhost"])
    assert [item.name for item in (tmp_path / "tls").iterdir()] == [".lock"]
