"""The built-in certificate authority: TLS without a person having to think of it.

It lives in a directory: ``ca.pem`` (to be given to clients), its key sealed by the key
service (``ca.key.sealed``), and one file with key and chain for each certificate, so that
renewal is one atomic replacement. Keys are ECDSA P-256, which every client knows, in files
readable by their owner alone. A server's certificate is valid for 90 days and renewed when
fewer than 30 are left.
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
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Corrupt, InvalidInput, LimitExceeded, Unavailable
from falaj.trust.authoritykey import AuthorityKey
from falaj.trust.pemfiles import pem, pem_key, write
from falaj.trust.ports import KeyService

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
    """Issues and renews certificates of servers and of programs.

    Args:
        directory: where its files are; made at first use.
        clock: tells validity.
        keys: seals the authority's key. None leaves it in clear, readable by its owner
            alone: for the servers that tests start, never for a platform.
        name: stands in the authority's certificate.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        keys: KeyService | None = None,
        name: str = "Falaj",
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._key = AuthorityKey(directory, keys)
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
        path = self._file(file)
        held = self._held(path, wanted[0], _general_names(wanted), ExtendedKeyUsageOID.SERVER_AUTH)
        return ServerCertificate(
            path,
            self.ca_path,
            wanted,
            held.not_valid_after_utc,
            held.fingerprint(hashes.SHA256()).hex(),
        )

    def process_certificate(self, identity: str, *, file: str) -> Path:
        """The file of a certificate with which a process of the platform asks another one.

        It holds key and chain, is good for 90 days and renewed as those of servers are.

        Args:
            identity: who it is, a URI (``spiffe://falaj/balancer/ray``).
            file: the PEM file's name without its ending.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: as for ``server_certificate``.
        """
        path, uri = self._file(file), x509.UniformResourceIdentifier(identity)
        name = identity.rpartition("/")[2]
        self._held(path, name, [uri], ExtendedKeyUsageOID.CLIENT_AUTH)
        return path

    def _file(self, name: str) -> Path:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or name in ("ca", "ca.key"):
            raise InvalidInput(
                f"{name!r} is not a file name for a certificate.", hint="Use a word."
            )
        return self._directory / f"{name}.pem"

    def _held(
        self,
        path: Path,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        """The certificate in a file, issued or renewed if it must be."""
        with self._writing():
            ca, ca_key = self._authority()
            current = self._current(path, names, ca)
            if current is not None:
                return current
            key = ec.generate_private_key(ec.SECP256R1())
            made = self._signed(key.public_key(), name, names, usage, SERVER_VALID, ca, ca_key)
            write(path, pem_key(key) + pem(made) + pem(ca))
            return made

    def _current(
        self, path: Path, names: Sequence[x509.GeneralName], ca: x509.Certificate
    ) -> x509.Certificate | None:
        """The certificate in the file, if it still serves."""
        try:
            content = path.read_bytes()
            held = x509.load_pem_x509_certificate(content)
            key = serialization.load_pem_private_key(content, None)
            held.verify_directly_issued_by(ca)
            held_names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return None
        now = self._clock.now()
        serves = (
            key.public_key() == held.public_key()
            and set(names) == set(held_names.value)
            and held.not_valid_before_utc <= now < held.not_valid_after_utc - RENEW_BEFORE
            and path.stat().st_mode & 0o077 == 0
        )
        return held if serves else None

    def program_certificate(
        self, public: CertificatePublicKeyTypes, identity: str, *, valid: timedelta
    ) -> tuple[x509.Certificate, x509.Certificate]:
        """A certificate with which a program proves who it is, and this authority's own.

        Args:
            public: the program's key.
            identity: who it is, a URI (``spiffe://falaj/service/ci``).
            valid: for how long.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: as for ``server_certificate``.
        """
        with self._writing():
            ca, ca_key = self._authority()
        uri = x509.UniformResourceIdentifier(identity)
        name = identity.rpartition("/")[2]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._signed(public, name, [uri], usage, valid, ca, ca_key), ca

    def checked(self) -> x509.Certificate:
        """This authority's certificate, after a look that its key is there and is its own.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: as for ``server_certificate``.
        """
        with self._writing():
            return self._authority()[0]

    def _signed(
        self,
        public: CertificatePublicKeyTypes,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        valid: timedelta,
        ca: x509.Certificate,
        ca_key: ec.EllipticCurvePrivateKey,
    ) -> x509.Certificate:
        issuer_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(ca.subject, _subject(name), public, self._clock.now(), valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not self.ca_path.exists():
            self._found()
        try:
            ca = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
            key = self._key.load()
            if key.public_key() != ca.public_key():
                raise ValueError("the key belongs to another certificate")
        except (OSError, ValueError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)[:200]
            raise Corrupt(
                f"The certificate authority in {self._directory} cannot be used: {reason}.",
                hint="Restore ca.pem and its key (ca.key.sealed), or move both away to found a new "
                "authority (its clients must then be given the new ca.pem).",
            ) from None
        if ca.not_valid_after_utc - SERVER_VALID < self._clock.now():
            raise InvalidInput(
                f"The authority in {self._directory} ends on {ca.not_valid_after_utc:%Y-%m-%d}.",
                hint="Move ca.pem and ca.key.sealed away to found a new one, and give clients its "
                "ca.pem.",
            )
        return ca, key

    def _found(self) -> None:
        """Write the authority's certificate, and its key before that if there is none.

        The name comes from the key: a certificate that was lost, or not yet written when
        a process was killed, is made again and the one that clients hold stays good.
        """
        if not self._key.exists:
            self._key.create()
        try:
            key = self._key.load()
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
        write(self.ca_path, pem(certificate), mode=0o644)

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


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public: CertificatePublicKeyTypes,
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


def server_context(
    certificate: Path,
    key: Path,
    *,
    clients: Path | None = None,
    authorities: Sequence[Path] = (),
) -> ssl.SSLContext:
    """TLS 1.3 for a server with that certificate chain and key (PEM).

    Args:
        certificate, key: of the server.
        clients: the authorities (PEM) of which clients must show a certificate; None: they
            need none.
        authorities: further ones (PEM), of which they may show one in any case.

    Raises:
        Unavailable: the file of the authorities cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(certificate, key)
    for path in (*authorities, *([clients] if clients is not None else [])):
        try:
            made.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            setting = "inference.client_ca_file"
            if path is not clients:
                setting = "certificates.client_ca_file"
            raise Unavailable(
                f"The authorities of clients in {path} cannot be read: {error}.",
                hint=f"Name a PEM file of certificates in {setting}.",
            ) from error
        made.verify_mode = ssl.CERT_REQUIRED if clients is not None else ssl.CERT_OPTIONAL
    return made
