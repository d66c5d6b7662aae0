"""A program's certificate, as its client keeps it: got once, renewed by itself, never sent.

The key is made here, anew for each certificate, and stands in one file with it, which only
its owner can read. A thread renews when half of the time is over; where that fails it tries
again, at first soon, then each minute, and says so in the log. The old one serves meanwhile.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from falaj.interfaces.client import sent
from falaj.kernel.errors import FalajError, InvalidInput, Unauthenticated
from falaj.kernel.telemetry import logger
from falaj.trust.identities import Identity
from falaj.trust.pemfiles import pem_key, read_key, write

FILE = "program.pem"
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_log = logger(__name__)

Trusted = Callable[[], ssl.SSLContext]
"""Makes a new TLS context that trusts the server."""


@dataclass(frozen=True)
class Held:
    """A certificate with its key, in one file."""

    path: Path
    name: str
    """Of the service account."""
    issued_at: datetime
    expires_at: datetime
    serial: str

    def due_at(self) -> datetime:
        """When half of its time is over."""
        return self.issued_at + (self.expires_at - self.issued_at) / 2

    @classmethod
    def read(cls, path: Path) -> Held | None:
        """What is in the file; None if there is none, or nothing that can be used."""
        try:
            content = path.read_bytes()
            found = x509.load_pem_x509_certificate(content)
            matches = read_key(content).public_key() == found.public_key()
            identity = Identity.of(found)
        except (OSError, ValueError, TypeError, InvalidInput):
            return None
        if not matches:
            return None
        begun, ended = found.not_valid_before_utc, found.not_valid_after_utc
        return cls(path, identity.path[-1], begun, ended, f"{found.serial_number:x}")


class CertificateSource:
    """Gives the certificate of a service account, and keeps it renewed.

    Args:
        control: the control plane's address.
        folder: where the certificate is kept; made if it is not there. One for each program.
        trusted: makes a TLS context that trusts the server.
        service, secret: a service account, for the first certificate and for when renewal
            has failed for too long; not needed where the folder holds one that is good.
        now: tells the time.

    Raises:
        Unauthenticated: there is no good certificate, and nothing to get one with.
    """

    def __init__(
        self,
        control: str,
        folder: Path,
        *,
        trusted: Trusted,
        service: str | None = None,
        secret: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._control = control
        self._folder = folder
        self._trusted = trusted
        self._login = (service, secret)
        self._now = now
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._held = Held.read(folder / FILE)
        if self._held is not None and service not in (None, self._held.name):
            self._held = None  # of another account, which lived here before
        self.held()

    def held(self) -> Held:
        """A good certificate; raises what stood in the way of one."""
        with self._lock:
            if self._held is None or self._held.expires_at <= self._now():
                self._held = self._renewed(None)
            return self._held

    def renew_if_due(self) -> bool:
        """Renew if half of the time is over; True if there is a new one. Raises FalajError."""
        with self._lock:
            held = self._held
            if held is not None and self._now() < held.due_at():
                return False
            good = held is not None and held.expires_at > self._now()
            self._held = self._renewed(held if good else None)
            return True

    def context(self) -> tuple[Held, ssl.SSLContext]:
        """The present certificate, and a TLS context that shows it."""
        held = self.held()
        found = self._trusted()
        found.load_cert_chain(held.path)
        return held, found

    def start(self) -> None:
        """Begin to renew on a thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="falaj-renewal", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while not self._stopped.wait(wait):
            try:
                self.renew_if_due()
            except FalajError as error:
                wait = min(wait * 2, _LONGEST_WAIT)
                _log.warning("the certificate is not renewed yet", error=str(error), again=wait)
                continue
            wait = _FIRST_WAIT
            held = self._held
            if held is not None:
                left = (held.due_at() - self._now()).total_seconds()
                wait = min(max(left, _FIRST_WAIT), _LONGEST_WAIT)

    def _renewed(self, present: Held | None) -> Held:
        """A new certificate: by the present one, else (or if that is refused) by the secret."""
        service, secret = self._login
        if present is not None:
            try:
                return self._issued(present, "/auth/certificate-login", {}, present.name)
            except Unauthenticated:
                if service is None or secret is None:
                    raise
        if service is None or secret is None:
            raise Unauthenticated(
                f"There is no certificate in {self._folder} that is still good.",
                hint="Give service= and secret= of the service account once more.",
            )
        login = {"name": service, "secret": secret}
        return self._issued(None, "/auth/service-login", login, service)

    def _issued(self, present: Held | None, path: str, login: dict[str, Any], name: str) -> Held:
        key, request = new_request(name)
        context = self._trusted()
        if present is not None:
            context.load_cert_chain(present.path)
        with httpx.Client(base_url=self._control, verify=context, timeout=30) as client:
            token = sent(client, client.build_request("POST", path, json=login)).json()
            asked = client.build_request(
                "POST",
                f"/api/certificates/{name}",
                json={"request": request},
                headers={"Authorization": f"Bearer {token['access_token']}"},
            )
            issued = sent(client, asked).json()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._folder / FILE
        chain = f"{issued['certificate']}{issued['authority']}"
        write(target, pem_key(key) + chain.encode())
        held = Held.read(target)
        if held is None:
            raise InvalidInput(f"The server's answer holds no certificate for {name!r}.")
        return held


def new_request(name: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A fresh key, and a request (CSR in PEM) for a certificate of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return key, signed.public_bytes(serialization.Encoding.PEM).decode()
