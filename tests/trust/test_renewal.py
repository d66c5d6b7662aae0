"""A server's certificate is replaced while it serves, and no connection notices."""

import socket
import ssl
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from falaj.kernel.clock import SetClock
from falaj.trust.certificates import CertificateAuthority, client_context, server_context
from falaj.trust.renewal import ServedCertificate


@pytest.fixture
def clock():
    """Set 61 days ago: a certificate of that day is good, and due for renewal today."""
    return SetClock(datetime.now(UTC) - timedelta(days=61))


@pytest.fixture
def authority(tmp_path, clock):
    return CertificateAuthority(tmp_path / "tls", clock=clock)


def served_by(authority, **more):
    def files():
        made = authority.server_certificate(["localhost"])
        return made.path, made.path

    return ServedCertificate(files, server_context, every_seconds=3600, **more)


@contextmanager
def echoing(context):
    """A server that answers each line with itself; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(raw):
        with closing(raw):
            try:
                with context.wrap_socket(raw, server_side=True) as secure:
                    while data := secure.recv(100):
                        secure.sendall(data)
            except OSError:
                return  # the client has gone, or does not trust us

    def accept():
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(raw,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def connected(port, ca, name="localhost"):
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        client_context(ca).wrap_socket(raw, server_hostname=name) as secure,
    ):
        yield secure


def said(secure):
    secure.sendall(b"hello")
    return secure.recv(100) == b"hello"


def fingerprint(secure):
    return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True)).fingerprint(
        hashes.SHA256()
    )


def test_a_renewed_certificate_is_seen_by_new_handshakes_and_no_connection_is_dropped(
    authority, clock
):
    served = served_by(authority)
    with echoing(served.context) as port, connected(port, authority.ca_path) as old:
        assert said(old)
        assert not served.look()
        clock.move(timedelta(days=61))
        assert served.look()
        with connected(port, authority.ca_path) as new:
            assert said(new)
            assert fingerprint(new) != fingerprint(old)
        assert said(old)
    assert served.generation == 1


def test_files_of_the_operator_that_change_are_taken_and_half_of_a_change_is_not(
    tmp_path, clock, authority
):
    def pair(name):
        made = authority.server_certificate(["localhost"], file=name)
        content = made.path.read_bytes()
        cut = content.index(b"-----BEGIN CERTIFICATE")
        return content[cut:], content[:cut]

    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    (chain, secret), (newer, newer_secret) = pair("one"), pair("two")
    certificate.write_bytes(chain)
    key.write_bytes(secret)
    served = ServedCertificate(lambda: (certificate, key), server_context, every_seconds=3600)
    with echoing(served.context) as port:
        with connected(port, authority.ca_path) as old:
            before = fingerprint(old)
        certificate.write_bytes(newer)  # the key does not belong to it yet
        with pytest.raises(ssl.SSLError):
            served.look()
        with connected(port, authority.ca_path) as still:
            assert fingerprint(still) == before
            assert said(still)
        key.write_bytes(newer_secret)
        assert served.look()
        with connected(port, authority.ca_path) as new:
            assert fingerprint(new) != before
            assert said(new)


def test_the_thread_takes_a_change_and_goes_on_after_an_error(authority, clock):
    told = threading.Event()
    errors = iter([OSError(5, "the disk is away")])

    def files():
        if told.is_set():
            for error in errors:
                raise error
        made = authority.server_certificate(["localhost"])
        return made.path, made.path

    served = ServedCertificate(files, server_context, every_seconds=0.01)
    told.set()
    clock.move(timedelta(days=61))
    served.start()
    patience = threading.Event()
    for _ in range(500):
        if served.generation:
            break
        patience.wait(0.01)
    served.stop()
    assert served.generation == 1
    key, chain = served.pair()
    assert b"PRIVATE KEY" in key
    assert b"BEGIN CERTIFICATE" in chain


def test_authorities_of_clients_hold_for_the_renewed_certificate_too(authority, clock, tmp_path):
    strange = CertificateAuthority(tmp_path / "strange", clock=clock)

    def shown(issuer):
        path = issuer.process_certificate("spiffe://falaj/worker/one", file="one")
        context = client_context(authority.ca_path)
        context.load_cert_chain(path)
        return context

    def files():
        made = authority.server_certificate(["localhost"])
        return made.path, made.path

    served = ServedCertificate(
        files,
        lambda one, key: server_context(one, key, authorities=[authority.ca_path]),
        every_seconds=3600,
    )
    with echoing(served.context) as port:
        for _ in range(2):
            for context, taken in ((shown(authority), True), (shown(strange), False)):
                with socket.create_connection(("127.0.0.1", port), 5) as raw:
                    try:
                        with context.wrap_socket(raw, server_hostname="localhost") as secure:
                            answered = said(secure)
                    except OSError:
                        answered = False
                assert answered is taken
            clock.move(timedelta(days=61))
            assert served.look() or served.generation == 1
