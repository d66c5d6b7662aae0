"""The server's end of TLS; what HTTP asks of it over TLS stands in ``test_front``."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.fronts import GET, Served, heard, post, serving, until

from falaj.kernel.clock import SystemClock
from falaj.serving.front import Bounds
from falaj.trust.certificates import CertificateAuthority, ServerCertificate, client_context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    authority = CertificateAuthority(tmp_path_factory.mktemp("tls"), clock=SystemClock())
    return authority.server_certificate(["127.0.0.1"])


@pytest.fixture
def served(certificate: ServerCertificate) -> Iterator[Served]:
    with serving(certificate, Bounds(head=10.0, idle=10.0, farewell=1.0)) as made:
        yield made


class Client:
    """A client's end of TLS, whose bytes a test hands over as it likes."""

    def __init__(self, served: Served) -> None:
        assert served.trusting is not None
        self.plain = socket.create_connection(("127.0.0.1", served.port), timeout=5)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = served.trusting.wrap_bio(
            self.incoming, self.outgoing, server_hostname="127.0.0.1"
        )

    def shake(self, piece: int = 1 << 20) -> None:
        """Make the handshake; what is sent goes out in pieces of so many bytes."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self.outgoing.read(), piece)
                self.incoming.write(self.plain.recv(1 << 16))
            else:
                self.send(self.outgoing.read(), piece)
                return

    def sealed(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes, piece: int = 1 << 20) -> None:
        for start in range(0, len(data), piece):
            self.plain.sendall(data[start : start + piece])
            if piece < 100:
                time.sleep(0.0002)  # so that the other side reads it by itself

    def heard(self) -> bytes:
        """Everything that comes until the other side is silent or has said its end."""
        self.incoming.write(heard(self.plain))
        told = b""
        try:
            while part := self.tls.read(1 << 16):
                told += part
        except ssl.SSLWantReadError:
            pass
        return told


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    made = Client(served)
    yield made
    made.plain.close()


def test_a_handshake_and_a_request_may_come_byte_by_byte(client: Client) -> None:
    client.shake(piece=1)
    client.send(client.sealed(post(b"abc")), piece=1)
    assert b'"body": "abc"' in client.heard()


def test_many_records_in_one_piece_are_read_together(client: Client) -> None:
    client.shake()
    client.send(b"".join(client.sealed(post(b"%d" % n)) for n in range(30)))
    told = client.heard()
    assert [told.count(b'"body": "%d"' % n) for n in range(30)] == [1] * 30


def test_a_record_whose_end_comes_with_the_next_one_is_read_with_it(client: Client) -> None:
    client.shake()
    both = client.sealed(post(b"x" * 1900)) + client.sealed(post(b"second"))
    client.send(both[:700])
    time.sleep(0.05)
    client.send(both[700:-5])
    time.sleep(0.05)
    client.send(both[-5:])
    told = client.heard()
    assert told.count(b"HTTP/1.1 200") == 2
    assert b'"body": "second"' in told


def test_the_last_bytes_of_the_handshake_may_bring_a_request(client: Client) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.send(client.outgoing.read())
    client.incoming.write(client.plain.recv(1 << 16))
    client.tls.do_handshake()
    client.tls.write(GET)
    client.send(client.outgoing.read())
    assert b"HTTP/1.1 200" in client.heard()


def test_who_says_the_end_behind_a_request_is_answered_and_told_the_end(
    served: Served, client: Client
) -> None:
    client.shake()
    asked = client.sealed(GET)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.send(asked + client.outgoing.read())
    client.incoming.write(heard(client.plain))
    assert client.tls.read(1 << 16).startswith(b"HTTP/1.1 200")
    client.tls.unwrap()  # raises if the other side has not said its end
    until(lambda: not served.front.connections)


def test_who_is_told_the_end_and_does_not_answer_is_let_go(served: Served, client: Client) -> None:
    client.shake()
    client.send(client.sealed(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
    until(lambda: len(served.echo.asked) == 1)
    assert served.front.connections, "the end is said, and not answered yet"
    for _ in range(3):
        client.send(client.sealed(GET))  # what comes behind the end is not heard
    until(lambda: not served.front.connections)
    assert len(served.echo.asked) == 1


def test_a_long_answer_comes_whole_though_it_is_the_last_one(client: Client) -> None:
    client.shake()
    client.send(client.sealed(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
    told = client.heard()
    assert told.endswith(b"\r\n\r\n" + b"x" * 1_000_000)
    assert client.tls.read(1) == b"", "and then the other side says its end"


def test_who_reads_slowly_but_reads_gets_all_of_it(served: Served, client: Client) -> None:
    client.shake()
    asked = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n" * 15
    client.send(client.sealed(asked + b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
    told = 0
    begun = time.monotonic()
    while part := client.plain.recv(1 << 16):
        told += len(part)
        if time.monotonic() < begun + 2.5:  # longer than the time of a farewell
            time.sleep(0.02)
    assert told > 15_000_000
    until(lambda: not served.front.connections)


def test_a_changed_byte_ends_the_connection_and_nothing_of_it_is_read(
    served: Served, client: Client
) -> None:
    client.shake()
    asked = bytearray(client.sealed(GET))
    asked[-9] ^= 1
    client.send(bytes(asked))
    client.incoming.write(heard(client.plain))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        client.tls.read(1 << 16)
    until(lambda: not served.front.connections)
    assert not served.echo.asked


@pytest.mark.parametrize("said", [GET, b"\x16\x03\x01\xff\xff" + b"a" * 70_000, b"\0" * 100])
def test_what_is_no_tls_is_ended_and_others_are_answered(served: Served, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain:
        plain.sendall(said)
        begun = time.monotonic()
        assert b"HTTP" not in heard(plain, 9.0)
    assert time.monotonic() - begun < 8.0, "it is ended at once, not when its time is over"
    until(lambda: not served.front.opening)
    assert b"HTTP/1.1 200" in served.say(GET)


def test_a_handshake_that_does_not_go_on_is_ended(certificate: ServerCertificate) -> None:
    with (
        serving(certificate, Bounds(handshake=0.3)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain,
    ):
        until(lambda: len(served.front.opening) == 1)
        plain.sendall(b"\x16\x03\x01")
        assert heard(plain, 5.0) == b""
        until(lambda: not served.front.opening)


def test_nobody_is_served_over_an_older_tls(served: Served, certificate: ServerCertificate) -> None:
    older = client_context(certificate.ca_path)
    older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain,
        pytest.raises(ssl.SSLError),
    ):
        older.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_client_may_change_its_keys_and_ask_for_ours(
    served: Served, certificate: ServerCertificate, tmp_path: Path
) -> None:
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("openssl is not installed: no other client here changes its keys")
    asked = [found, "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_3"]
    with subprocess.Popen(
        [*asked, "-CAfile", str(certificate.ca_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as other:  # fmt: skip
        assert other.stdin is not None
        until(lambda: bool(served.front.connections))
        for line in (b"K\n", b"k\n", b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"):
            other.stdin.write(line)
            other.stdin.flush()
            time.sleep(0.2)
        told, _ = other.communicate(timeout=10)
    assert told.count(b"KEYUPDATE") == 2
    assert b"HTTP/1.1 200" in told
