"""Addresses that lead back inside: nothing is sent to them, however they are written."""

from __future__ import annotations

import ast
import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import falaj
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import InvalidInput, LimitExceeded, Unavailable
from falaj.kernel.outgoing import Outgoing, OutgoingRefused
from falaj.kernel.settings_people import OutgoingSettings
from falaj.trust.certificates import CertificateAuthority, client_context

INSIDE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "224.0.0.1",
    "239.255.255.250", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1",
]  # fmt: skip


def outgoing(*addresses: str, allowed: tuple[str, ...] = (), **more: Any) -> Outgoing:
    settings = OutgoingSettings(allowed=allowed, timeout_seconds=5, max_bytes=4096)
    return Outgoing(settings, resolve=lambda _name, _port: addresses, **more)


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    with pytest.raises(OutgoingRefused, match="may not be called"):
        outgoing(address).send("POST", "https://hooks.example.com/x", content=b"{}")


def test_one_inner_address_among_outer_ones_is_enough_to_refuse() -> None:
    with pytest.raises(OutgoingRefused):
        outgoing("93.184.216.34", "127.0.0.1").check("https://hooks.example.com/")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_an_address_outside_is_let_through(address: str) -> None:
    outgoing(address).check("https://hooks.example.com/")


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://[::1]/", "https://localhost/", "https://localhost./",
        "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/",
        "https://[::ffff:7f00:1]/", "https://0/",
    ],
)  # fmt: skip
def test_odd_ways_to_write_this_machine_are_refused(url: str) -> None:
    with pytest.raises((OutgoingRefused, Unavailable, InvalidInput)):
        Outgoing(OutgoingSettings()).check(url)


@pytest.mark.parametrize("url", ["http://hooks.example.com/", "file:///etc/passwd", "gopher://x/"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises((OutgoingRefused, InvalidInput)):
        outgoing("93.184.216.34").check(url)


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InvalidInput):
        outgoing("93.184.216.34").check("https://a:b@hooks.example.com/")


class Answers(BaseHTTPRequestHandler):
    """Says what it was asked under which name; ``/away`` redirects, ``/long`` goes on."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.headers["host"], self.path))
        if self.path == "/drip":
            self.drip()
            return
        body = b"x" * (10_000 if self.path == "/long" else 5)
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("location", "https://169.254.169.254/")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        """A head without an end, a byte at a time."""
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nx-long: " + b"a" * 500:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)

    def log_message(self, *_told: Any) -> None: ...


@pytest.fixture(scope="module")
def inner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, ssl.SSLContext]]:
    """A server inside whose certificate names ``hooks.example.com``; its port, whom to trust."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = CertificateAuthority(folder, clock=SystemClock())
    made = authority.server_certificate(("hooks.example.com",))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = made.server_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    trust = client_context(folder / "ca.pem")
    yield server.server_address[1], trust
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_operator_names_is_called_under_its_own_name(
    inner: tuple[int, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, trust = inner
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    caller = outgoing("127.0.0.1", allowed=("127.0.0.0/8",), verify=trust)
    answer = caller.send("GET", f"https://hooks.example.com:{port}/ok")
    assert (answer.status_code, answer.content) == (200, b"xxxxx")
    assert Answers.asked[-1] == (f"hooks.example.com:{port}", "/ok")


def test_a_redirect_is_not_followed(inner: tuple[int, ssl.SSLContext]) -> None:
    port, trust = inner
    caller = outgoing("127.0.0.1", allowed=("hooks.example.com",), verify=trust)
    before = len(Answers.asked)
    assert caller.send("GET", f"https://hooks.example.com:{port}/away").status_code == 302
    assert len(Answers.asked) == before + 1


def test_a_server_without_the_names_certificate_is_not_believed(
    inner: tuple[int, ssl.SSLContext],
) -> None:
    port, trust = inner
    caller = outgoing("127.0.0.1", allowed=("127.0.0.1",), verify=trust)
    with pytest.raises(Unavailable, match="does not answer"):
        caller.send("GET", f"https://other.example.com:{port}/ok")


def test_an_answer_without_an_end_is_cut_off(inner: tuple[int, ssl.SSLContext]) -> None:
    port, trust = inner
    caller = outgoing("127.0.0.1", allowed=("127.0.0.1",), verify=trust)
    with pytest.raises(LimitExceeded, match="larger than 4096"):
        caller.send("GET", f"https://hooks.example.com:{port}/long")


def test_an_answer_that_drips_is_cut_off(inner: tuple[int, ssl.SSLContext]) -> None:
    port, trust = inner
    settings = OutgoingSettings(allowed=("127.0.0.1",), timeout_seconds=0.5)
    caller = Outgoing(settings, verify=trust, resolve=lambda _name, _port: ["127.0.0.1"])
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        caller.send("GET", f"https://hooks.example.com:{port}/drip")
    assert time.monotonic() - begun < 10  # the whole answer would take 26 s


def test_a_name_that_changes_its_address_gains_nothing(
    inner: tuple[int, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver is asked once: its second answer, which leads inside, is never used."""
    port, trust = inner
    answers = iter([["192.0.2.77"], ["127.0.0.1"]])
    settings = OutgoingSettings(allowed=("192.0.2.77",), timeout_seconds=0.3)
    caller = Outgoing(settings, verify=trust, resolve=lambda _name, _port: next(answers))
    before = len(Answers.asked)
    with pytest.raises(Unavailable):
        caller.send("GET", f"https://hooks.example.com:{port}/ok")
    assert len(Answers.asked) == before
    assert next(answers) == ["127.0.0.1"]  # nobody has asked for it


SPEAKS_HTTP = {"httpx", "requests", "aiohttp", "urllib3", "urllib.request", "http.client"}
ASKED_BY_PEOPLE = {
    "interfaces/certificatesource.py", "interfaces/certified.py", "interfaces/ci/plans.py",
    "interfaces/cicommands.py", "interfaces/cilogin.py", "interfaces/client.py",
    "interfaces/credentials.py", "interfaces/devicelogin.py",
    "interfaces/featuresclient.py", "interfaces/platform.py", "interfaces/session.py",
    "interfaces/signedrequests.py",
}  # fmt: skip
"""The clients of our own servers, and of the CI system that a job runs in: they run where their
user sits."""

ASKED_FOR_BY_SETTINGS = {
    "trust/adapters/bao_connection.py", "trust/adapters/keys_aws.py",
    "trust/adapters/s3_requests.py", "trust/adapters/witness_http.py",
}  # fmt: skip
"""They speak to the one place that the operator's settings name, which may well be inside."""


def test_nothing_on_a_server_speaks_http_but_through_the_guard() -> None:
    root = Path(falaj.__file__).parent
    speakers = set()
    for module in root.rglob("*.py"):
        name = module.relative_to(root).as_posix()
        if name.startswith(("testing/", "demo/")) or name in ASKED_BY_PEOPLE:
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
            else:
                continue
            if {name.split(".")[0] for name in found} & SPEAKS_HTTP or found & SPEAKS_HTTP:
                speakers.add(name)
    assert speakers == {"kernel/outgoing.py", *ASKED_FOR_BY_SETTINGS}
