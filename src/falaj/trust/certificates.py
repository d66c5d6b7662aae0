"""The built-in certificate authority: TLS without a person having to think of it.

It lives in a directory: ``ca.pem`` (to be given to clients), ``ca.key``, and one file
with key and chain for each certificate, so that renewal is one atomic replacement. Keys
are ECDSA P-256, which every client knows, in files readable by their owner alone. A
server's certificate is valid for 90 days and renewed when fewer than 30 are left.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded, Unavailable

CA_VALID = timedelta(days=3_650)
SERVER_VALID = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
_SKEW = timedelta(minutes=5)
"""How far behind a client's clock may be."""
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_MOST_NAMES = 100


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate with its key and chain in one PEM file."""

    path: Path
    """For a server: both its ``certfile`` and its ``keyfile``."""
    ca_path: Path
    """For clients: what they trust."""
    names: tuple[str, ...]
    expires_at: datetime
    fingerprint: str
    """SHA-256 of the certificate, in hex."""

    def server_context(self) -> ssl.SSLContext:
        """A TLS 1.3 context for a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.path)
        return context


def client_context(ca_path: Path) -> ssl.SSLContext:
    """A TLS 1.3 context for a client that trusts this authority and no other.

    Raises:
        Unavailable: the authority's certificate cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca_path)
    except OSError as error:  # ssl.SSLError is one
        raise Unavailable(
            f"The authority's certificate {ca_path} cannot be used: {error.strerror or error}.",
            hint="Copy ca.pem from the server's data folder.",
        ) from None
    return context


class CertificateAuthority:
    """Issues and renews server certificates.

    Args:
        directory: where its files are; made at first use.
        clock: tells validity.
        name: stands in the authority's certificate.
    """

    def __init__(self, directory: Path, *, clock: Clock, name: str = "Falaj") -> None:
        self._directory = directory
        self._clock = clock
        self._name = name
        self.ca_path = directory / "ca.pem"

    def server_certificate(
        self, names: Sequence[str], *, file: str = "server"
    ) -> ServerCertificate:
        """A valid certificate for these names, issued or renewed if it must be.

        Args:
            names: host names (a leading ``*.`` is allowed) and IP addresses.
            file: the PEM file's name without its ending.

        Raises:
            InvalidInput: a name is neither a host name nor an address.
            Corrupt: the authority's files are damaged.
            LimitExceeded: the files cannot be written.
        """
        wanted = _checked_names(names)
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", file) or file in ("ca", "ca.key"):
            raise InvalidInput(
                f"{file!r} is not a file name for a certificate.", hint="Use a word."
            )
        path = self._directory / f"{file}.pem"
        with self._writing():
            ca, ca_key = self._authority()
            current = self._current(path, wanted, ca)
            if current is None:
                current, pem = self._issued(wanted, ca, ca_key)
                _write(path, pem)
        return ServerCertificate(
            path,
            self.ca_path,
            wanted,
            current.not_valid_after_utc,
            current.fingerprint(hashes.SHA256()).hex(),
        )

    def _current(
        self, path: Path, names: tuple[str, ...], ca: x509.Certificate
    ) -> x509.Certificate | None:
        """The certificate in the file, if it still serves."""
        try:
            pem = path.read_bytes()
            held = x509.load_pem_x509_certificate(pem)
            key = serialization.load_pem_private_key(pem, None)
            held.verify_directly_issued_by(ca)
            held_names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return None
        now = self._clock.now()
        serves = (
            key.public_key() == held.public_key()
            and set(_general_names(names)) == set(held_names.value)
            and held.not_valid_before_utc <= now < held.not_valid_after_utc - RENEW_BEFORE
            and path.stat().st_mode & 0o077 == 0
        )
        return held if serves else None

    def _issued(
        self, names: tuple[str, ...], ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
    ) -> tuple[x509.Certificate, bytes]:
        now = self._clock.now()
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        issuer_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(ca.subject, _subject(names[0]), public, now, SERVER_VALID)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        pem = _pem_key(key) + _pem(certificate) + _pem(ca)
        return certificate, pem

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key_path = self._directory / "ca.key"
        if not self.ca_path.exists():
            self._found(key_path)
        try:
            ca = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
            key = _read_key(key_path)
            if key.public_key() != ca.public_key():
                raise ValueError("the key belongs to another certificate")
        except (OSError, ValueError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)[:200]
            raise Corrupt(
                f"The certificate authority in {self._directory} cannot be used: {reason}.",
                hint="Restore ca.pem and ca.key, or move both away to found a new authority "
                "(its clients must then be given the new ca.pem).",
            ) from None
        if key_path.stat().st_mode & 0o077:
            raise InvalidInput(
                f"The authority's key {key_path} is open to others.",
                hint=f"Run `chmod 600 {key_path}`; if others may have read it, found a new one.",
            )
        if ca.not_valid_after_utc - SERVER_VALID < self._clock.now():
            raise InvalidInput(
                f"The authority in {self._directory} ends on {ca.not_valid_after_utc:%Y-%m-%d}.",
                hint="Move ca.pem and ca.key away to found a new one, and give clients its ca.pem.",
            )
        return ca, key

    def _found(self, key_path: Path) -> None:
        """Write the authority's certificate, and its key before that if there is none.

        The name comes from the key: a certificate that was lost, or not yet written when
        a process was killed, is made again and the one that clients hold stays good.
        """
        if not key_path.exists():
            _write(key_path, _pem_key(ec.generate_private_key(ec.SECP256R1())))
        try:
            key = _read_key(key_path)
        except (OSError, ValueError, TypeError):
            return  # told by whoever reads it next
        public = key.public_key()
        key_id = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()
        name = _subject(f"{self._name} authority {key_id[:8]}")
        certificate = (
            _builder(name, name, public, self._clock.now(), CA_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self.ca_path, _pem(certificate), mode=0o644)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LimitExceeded(
                f"The certificates' folder {self._directory} cannot be written: {error.strerror}.",
                hint="Give the platform's user the right to write there.",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("another kind of key")
    return key


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + valid)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    if not 0 < len(names) <= _MOST_NAMES:
        raise InvalidInput(f"A certificate needs 1 to {_MOST_NAMES} names, not {len(names)}.")
    return tuple(dict.fromkeys(_checked_name(name) for name in names))


def _checked_name(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        lowered = name.lower().removesuffix(".")
    labels = lowered.removeprefix("*.").split(".")
    if len(lowered) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(
            f"{name[:100]!r} is neither a host name nor an IP address.",
            hint="Use a name such as falaj.example.org (in its xn-- form if it is not ASCII).",
        )
    return lowered


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step, synced; never readable by others in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LimitExceeded(
            f"The file {path} cannot be written: {error.strerror}.",
            hint="Free some space or mend the permissions.",
        ) from None


def server_context(certificate: Path, key: Path, *, clients: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 for a server with that certificate chain and key (PEM).

    Args:
        certificate, key: of the server.
        clients: the authorities (PEM) of which clients must show a certificate; None: they
            need none.

    Raises:
        Unavailable: the file of the authorities cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(certificate, key)
    if clients is not None:
        try:
            made.load_verify_locations(clients)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(
                f"The authorities of clients in {clients} cannot be read: {error}.",
                hint="Name a PEM file of certificates in inference.client_ca_file.",
            ) from error
        made.verify_mode = ssl.CERT_REQUIRED
    return made
