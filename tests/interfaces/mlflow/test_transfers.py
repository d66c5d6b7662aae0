"""Uploads and downloads over TLS: slow, broken off, the sender put out, the server killed."""

import os
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from falaj.interfaces.http import SOON_SECONDS
from falaj.kernel.clock import SetClock
from falaj.testing.installations import alive, client, eventually
from falaj.testing.mlflowclients import for_clients
from falaj.wiring.artifactparts import artifact_chores
from falaj.wiring.assembly import Premises

API = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
PARTS = "/mlflow/api/2.0/mlflow-artifacts/mpu"


@pytest.fixture
def web(clients):
    with client(clients.installation.control, clients.installation.ca, clients.token()) as web:
        yield web


def connected(clients, method, path, token, length=None):
    """A connection on which the head of a request was sent."""
    parts = urlsplit(clients.installation.control)
    trusted = ssl.create_default_context(cafile=str(clients.installation.ca))
    plain = socket.create_connection((parts.hostname, parts.port), timeout=60)
    opened = trusted.wrap_socket(plain, server_hostname=parts.hostname)
    head = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", f"Authorization: Bearer {token}"]
    if length is not None:
        head.append(f"Content-Length: {length}")
    opened.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
    return opened


def status(opened):
    return int(opened.recv(65_536).split(b" ", 2)[1])


def kept(clients):
    """All files of the blob store."""
    folder = clients.installation.home / "blobs"
    return {path for path in folder.rglob("*") if path.is_file()}


def test_an_upload_that_is_broken_off_leaves_nothing(clients, run, web):
    before = kept(clients)
    upload = connected(clients, "PUT", f"{API}/x/{run}/artifacts/a", clients.token(), 10_000_000)
    upload.sendall(os.urandom(5_000_000))
    eventually(lambda: kept(clients) - before, what="the upload has begun")
    upload.close()
    eventually(lambda: kept(clients) == before, what="nothing is left")
    listed = web.get(API, params={"path": f"x/{run}/artifacts"}).json()
    assert listed == {"files": []}


def test_who_is_put_out_while_the_body_arrives_is_not_let_through(clients, run):
    token = clients.token()
    before = kept(clients)
    upload = connected(clients, "PUT", f"{API}/x/{run}/artifacts/a", token, 3_000_000)
    upload.sendall(os.urandom(2_900_000))
    eventually(lambda: kept(clients) - before, what="the upload has begun")
    with clients.installation.asked_as("administrator") as ask:
        ask("accounts.revoke_sessions", name="trainer")

    def refused():
        with client(clients.installation.control, clients.installation.ca, token) as web:
            return web.get(API, params={"path": f"x/{run}/artifacts"}).status_code == 401

    eventually(refused, what="the token is revoked")
    time.sleep(SOON_SECONDS)  # an upload that is quicker than this is not asked twice
    upload.sendall(os.urandom(100_000))
    assert status(upload) == 401
    assert kept(clients) == before


def test_parts_that_were_acknowledged_outlast_a_killed_server(tmp_path):
    whole = [os.urandom(2_000_000) for _ in range(3)]
    with for_clients(tmp_path / "project") as clients:
        installation = clients.installation
        with installation.near() as platform:
            run = platform.runs.start("by hand").id
        place, before = f"x/{run}/artifacts", kept(clients)

        def asked(method, address, **more):
            with client(installation.control, installation.ca, clients.token()) as web:
                return web.request(method, address, **more).raise_for_status()

        told = asked("POST", f"{PARTS}/create/{place}", json={"path": "a", "num_parts": 3}).json()
        paths = [urlsplit(one["url"]).path for one in told["credentials"]]
        etags = [asked("PUT", path, content=data).headers["etag"]
                 for path, data in zip(paths[:2], whole[:2], strict=True)]  # fmt: skip
        acknowledged = kept(clients)
        cut = connected(clients, "PUT", paths[2], clients.token(), 2_000_000)
        cut.sendall(whole[2][:-100_000])
        eventually(lambda: kept(clients) - acknowledged, what="the third part has begun")
        killed = installation.kill("control")
        eventually(lambda: not alive(killed), what="the server is gone")
        cut.close()
        installation.revived("control", killed)
        etags.append(asked("PUT", paths[2], content=whole[2]).headers["etag"])
        parts = [{"part_number": n, "etag": etag} for n, etag in enumerate(etags, 1)]
        upload = {"path": "a", "upload_id": told["upload_id"], "parts": parts}
        asked("POST", f"{PARTS}/complete/{place}", json=upload)
        assert asked("GET", f"{API}/{place}/a").content == b"".join(whole)
        assert len(kept(clients) - before) > 1  # what the killed server was writing
        left = swept(clients) - before
        assert len(left) == 1, left
        assert asked("GET", f"{API}/{place}/a").content == b"".join(whole)


def swept(clients):
    """All files of the blob store that are left when a day has passed."""
    premises = Premises(clients.installation.settings, process="test")
    try:
        now = premises.clock.now() + timedelta(hours=25)
        premises.clock = SetClock(now)
        artifact_chores(premises)["left-over streams"]()
    finally:
        premises.close()
    return kept(clients)


def test_slow_uploads_and_downloads_hold_up_nobody(clients, run, web):
    token, path = clients.token(), f"{API}/x/{run}/artifacts"
    web.put(path + "/large", content=bytes(20_000_000)).raise_for_status()
    n = 45  # more than a pool of threads has
    with ExitStack() as opened:
        for number in range(n):
            upload = connected(clients, "PUT", f"{path}/{number}", token, 4_000_000)
            opened.enter_context(upload)
            upload.sendall(bytes(2_500_000))
            download = connected(clients, "GET", path + "/large", token)
            opened.enter_context(download)
            assert download.recv(100).startswith(b"HTTP/1.1 200")
        assert web.put(path + "/quick", content=b"1").status_code == 200
        assert web.get(path + "/quick").content == b"1"


def test_large_uploads_at_once_each_arrive_whole(clients, run):
    token, bodies = clients.token(), [os.urandom(6_000_000) for _ in range(4)]
    told = {}

    def sent(number):
        with client(clients.installation.control, clients.installation.ca, token) as web:
            path = f"{API}/x/{run}/artifacts/{number}"
            web.put(path, content=bodies[number]).raise_for_status()
            told[number] = web.get(path).content == bodies[number]

    threads = [threading.Thread(target=sent, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == dict.fromkeys(range(4), True)
