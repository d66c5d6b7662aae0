"""The platform of the demo, up: its processes, its people, and questions over HTTPS."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyotp

from falaj.interfaces.client import sent
from falaj.interfaces.credentials import ServiceTokens
from falaj.interfaces.platform import Platform, connect, trusted
from falaj.kernel.errors import Unavailable
from falaj.trust.model import Role

READY_SECONDS = 60.0
END_SECONDS = 15.0


@dataclass
class Up:
    """A platform that ``falaj up`` runs."""

    process: subprocess.Popen[bytes]
    control: str
    inference: str
    ca: Path
    seconds: float
    """From the start of the command to the last process ready."""

    def end(self) -> None:
        """Stop it, as Ctrl-C would."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def started(folder: Path, home: Path) -> Up:
    """Run ``falaj up`` for a folder; returns when all its processes are ready.

    Raises:
        Unavailable: it ended, or was not ready in time; its log is named.
    """
    addresses = home / "run" / "addresses.json"
    addresses.unlink(missing_ok=True)
    log = folder / "falaj-up.log"
    began = time.perf_counter()
    program = "from falaj.interfaces.cli import main; main()"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--folder", str(folder), "up"],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    while not addresses.exists():
        if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
            process.kill()
            raise Unavailable("`falaj up` did not start.", hint=f"Its reason stands in {log}.")
        time.sleep(0.02)
    told = json.loads(addresses.read_text(encoding="utf-8"))
    seconds = time.perf_counter() - began
    return Up(process, told["control"], told["inference"], home / "tls" / "ca.pem", seconds)


@dataclass
class Codes:
    """An authenticator whose codes are given once each.

    Args:
        secret: shared with the platform.
        last: the number of the 30-second step whose code was used last; the present one if None.
    """

    secret: str = field(repr=False)
    last: int | None = None

    def __post_init__(self) -> None:
        self._totp = pyotp.TOTP(self.secret)
        self.last = self._now() if self.last is None else self.last

    def next(self) -> str:
        """A code that was not used yet, at most one step ahead; waits for it if it must."""
        step = max((self.last or 0) + 1, self._now())
        while step > self._now() + 1:
            time.sleep(0.2)
        self.last = step
        return self._totp.generate_otp(step)

    def _now(self) -> int:
        return int(time.time()) // self._totp.interval


@dataclass
class Person:
    """Somebody who enrolled by a one-time link, with an authenticator of their own."""

    name: str
    password: str = field(repr=False)
    codes: Codes
    platform: Platform

    def enter(self, up: Up) -> None:
        """Log in anew, with password and a code that was not used yet: a session and a second
        factor last five minutes."""
        with httpx.Client(base_url=up.control, verify=trusted(up.control, up.ca)) as client:
            body = {"name": self.name, "password": self.password, "code": self.codes.next()}
            told = sent(client, client.build_request("POST", "/auth/login", json=body)).json()
        self.platform.close()
        self.platform = connect(up.control, token=told["access_token"], ca=up.ca)


def enrolled(up: Up, link: str, name: str, password: str) -> Person:
    """Enrol over HTTPS as a person would: link, password, authenticator, first code."""
    with httpx.Client(base_url=up.control, verify=trusted(up.control, up.ca)) as client:

        def posted(path: str, body: Mapping[str, str]) -> Any:
            return sent(client, client.build_request("POST", path, json=dict(body))).json()

        offer = posted("/auth/enrol", {"secret": link, "name": name, "password": password})
        codes = Codes(offer["totp_secret"], last=0)
        confirmed = posted("/auth/confirm", {"ticket": offer["ticket"], "code": codes.next()})
    platform = connect(up.control, token=confirmed["tokens"]["access_token"], ca=up.ca)
    return Person(name, password, codes, platform)


def hired(owner: Platform, name: str) -> str:
    """Make a service account; returns its secret, which is shown once."""
    made = owner.accounts.create_service(name, roles=(Role.SERVICE,))
    return made.secret.get_secret_value()


@dataclass(frozen=True)
class Answered:
    """One prediction: what was asked, what came back, and how long it took."""

    request_id: str
    prediction_id: str
    score: float
    seconds: float
    variant: str = "champion"


class Questions:
    """Asks an endpoint for predictions over HTTPS, one row a request, on a few connections.

    Args:
        up: the running platform.
        endpoint: whom to ask.
        service, secret: the service account that asks.
        connections: how many at once.
    """

    def __init__(
        self, up: Up, endpoint: str, *, service: str, secret: str, connections: int = 4
    ) -> None:
        address = urlsplit(up.inference)
        self._host, self._port = address.hostname or "", address.port or 443
        self._path = f"/v1/endpoints/{endpoint}/predict"
        self._context = ssl.create_default_context(cafile=str(up.ca))
        self._control = httpx.Client(base_url=up.control, verify=trusted(up.control, up.ca))
        self._token: Callable[[], str] = ServiceTokens(self._control, service, secret)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="questions")
        self._idle: SimpleQueue[http.client.HTTPSConnection] = SimpleQueue()
        for _ in range(connections):
            self._idle.put(
                http.client.HTTPSConnection(self._host, self._port, context=self._context)
            )

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> list[Answered]:
        """Ask all, in parallel; the answers in the order of the requests.

        Args:
            requests: bodies of ``{"request_id", "at", "inputs": [row]}``.

        Raises:
            Unavailable: a request was not answered with 200; its answer is told.
        """
        return list(self._pool.map(self._one, requests))

    def _one(self, body: Mapping[str, Any]) -> Answered:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
        }
        data = json.dumps(body).encode()
        connection = self._idle.get()
        try:
            began = time.perf_counter()
            connection.request("POST", self._path, body=data, headers=headers)
            response = connection.getresponse()
            answer = response.read()
            seconds = time.perf_counter() - began
        finally:
            self._idle.put(connection)
        if response.status != 200:
            raise Unavailable(f"The endpoint answered {response.status}: {answer[:300]!r}.")
        (prediction,) = json.loads(answer)["predictions"]
        return Answered(
            str(body["request_id"]),
            prediction["id"],
            float(prediction["score"]),
            seconds,
            prediction.get("variant", "champion"),
        )

    def rested(self) -> None:
        """Begin anew after a while without questions: the server closes connections that idle."""
        for _ in range(self._idle.qsize()):
            connection = self._idle.get()
            connection.close()  # the next question opens it
            self._idle.put(connection)

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get().close()
        self._control.close()


@contextlib.contextmanager
def running(folder: Path, home: Path, *, keep: bool) -> Iterator[Up]:
    """``falaj up`` for a while; left running if ``keep`` and nothing failed."""
    up = started(folder, home)
    try:
        yield up
    except BaseException:
        up.end()
        raise
    if not keep:
        up.end()
