"""Around the front: other ports, sockets and shared memory of the processes, plain HTTP."""

from __future__ import annotations

import socket
import ssl
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = place.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(told[1]), []).append(int(place.parent.name))
    found, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        found.add(one)
        waiting += children.get(one, [])
    return found


def sockets_of(pids: set[int]) -> set[str]:
    """The inodes of their sockets."""
    found = set()
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                led = str(descriptor.readlink())
            except OSError:
                continue
            if led.startswith("socket:["):
                found.add(led[8:-1])
    return found


def listening(inodes: set[str]) -> set[tuple[str, int]]:
    """Where these sockets listen: address as /proc writes it, and port."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def test_the_processes_listen_at_the_two_fronts_and_nowhere_else(running: Any) -> None:
    """No worker has a port that could be called around the door."""
    fronts = {urlsplit(running.installation.control).port,
              urlsplit(running.installation.inference).port}  # fmt: skip
    pids = family(running.installation.process.pid)
    assert len(pids) >= 4
    found = listening(sockets_of(pids))
    assert {port for _, port in found} == fronts
    assert {address for address, _ in found} == {"0100007F"}  # 127.0.0.1, unless settings say more


def test_what_the_processes_share_is_closed_to_other_accounts(running: Any) -> None:
    home = running.installation.home
    for place in (home, home / "run", home / "keys", home / "tls"):
        assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0, place
    for file in home.rglob("*"):
        mode = file.lstat().st_mode
        if stat.S_ISSOCK(mode) or file.name in ("ca.key", "machine.secret", "owner.key"):
            assert stat.S_IMODE(mode) & 0o077 == 0, file


@pytest.mark.parametrize("at", ["control", "inference"])
@pytest.mark.parametrize(
    "sent",
    [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64],
    ids=["HTTP", "HTTP/2 in clear", "noise"],
)  # fmt: skip
def test_what_is_not_tls_is_answered_with_nothing_readable(
    running: Any, at: str, sent: bytes
) -> None:
    address = urlsplit(getattr(running.installation, at))
    with socket.create_connection((address.hostname, address.port), 10) as plain:
        plain.settimeout(10)
        plain.sendall(sent)
        told = b""
        try:
            while part := plain.recv(65_536):
                told += part
        except ConnectionResetError:
            pass
    assert b"HTTP" not in told
    assert b"ok" not in told


@pytest.mark.parametrize("at", ["control", "inference"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_an_older_tls_is_refused(running: Any, at: str, version: ssl.TLSVersion) -> None:
    address = urlsplit(getattr(running.installation, at))
    context = ssl.create_default_context(cafile=str(running.installation.ca))
    context.maximum_version = version
    with (
        socket.create_connection((address.hostname, address.port), 10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname=address.hostname)


SMUGGLED = {
    "both lengths": b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "two lengths": b"content-length: 5\r\ncontent-length: 60\r\n",
    "a length that is none": b"content-length: +5\r\n",
    "an encoding with a blank": b"transfer-encoding : chunked\r\n",
    "an unknown encoding": b"transfer-encoding: xchunked\r\n",
}


@pytest.mark.parametrize("at", ["control", "inference"])
@pytest.mark.parametrize("headers", list(SMUGGLED.values()), ids=list(SMUGGLED))
def test_no_second_request_is_smuggled_in_a_first(running: Any, at: str, headers: bytes) -> None:
    """Nothing behind an ambiguous head is answered as a request of its own."""
    head = b"POST /auth/login HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n"
    inner = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    told = running.raw(head + b"0\r\n\r\n" + inner, at=at, seconds=3)
    assert b'"status": "ok"' not in told and b'"status":"ok"' not in told
    assert told == b"" or told.startswith(b"HTTP/1.1 4"), told
