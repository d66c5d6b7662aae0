"""The built-in certificate authority, and what stands on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.trust.certificates import CertificateAuthority, server_context
from falaj.wiring.parts import part

if TYPE_CHECKING:
    import ssl

    from falaj.trust.certificatelogin import CertificateLogin
    from falaj.trust.renewal import ServedCertificate
    from falaj.trust.workload import ProgramCertificates
    from falaj.wiring.assembly import Premises


def nonces(made: Premises) -> Callable[[], str]:
    """Gives the nonce for the next signed request (DPoP) to this platform."""
    proofs = made.tokens.proofs
    assert proofs is not None  # noqa: S101 - `Premises.tokens` is made with them
    return lambda: proofs.nonce(made.clock.now())


class CertificateParts:
    """Certificates of one process, each part made when it is first asked for.

    Args:
        made: the rest of the platform.
    """

    def __init__(self, made: Premises) -> None:
        self._made = made
        self.making: threading.RLock = made.making
        self._served: dict[Path | None, ServedCertificate] = {}

    @part
    def authority(self) -> CertificateAuthority:
        """The built-in authority; the key service seals its key."""
        made = self._made
        return CertificateAuthority(made.settings.home / "tls", clock=made.clock, keys=made.keys)

    @part
    def of_programs(self) -> ProgramCertificates:
        """Issues and recognises the certificates of service accounts."""
        from falaj.trust.workload import ProgramCertificates

        settings = self._made.settings.certificates
        authentication = self._made.authentication
        return ProgramCertificates(
            authentication.accounts,
            authentication.sessions,
            lambda: self.authority,
            trust_domain=settings.trust_domain,
            valid=timedelta(minutes=settings.program_minutes),
            foreign=settings.client_ca_file is not None,
        )

    @part
    def login(self) -> CertificateLogin:
        """Exchanges certificates for tokens."""
        from falaj.trust.certificatelogin import CertificateLogin

        return CertificateLogin(self._made.authentication, self.of_programs)

    def process_certificate(self, role: str, name: str) -> Path:
        """The file of a certificate with which one of our own processes asks another."""
        from falaj.trust.identities import process_identity

        domain = self._made.settings.certificates.trust_domain
        identity = str(process_identity(domain, role, name))
        return self.authority.process_certificate(identity, file=f"{role}-{name}")

    def metrics_guard(self) -> Callable[[bytes | None], None] | None:
        """Refuses who shows no certificate of the built-in authority; None if nobody must."""
        from falaj.trust.workload import checked_shown

        if not self._made.settings.certificates.metrics_need_certificate:
            return None
        authority = self.authority.checked()
        return lambda shown: checked_shown(shown, authority, self._made.clock.now())

    def server_files(self) -> tuple[Path, Path]:
        """The files of the servers' certificate and its key: the operator's, or our own."""
        http = self._made.settings.http
        if http.certificate_file is not None and http.private_key_file is not None:
            return http.certificate_file, http.private_key_file
        made = self.authority.server_certificate(http.names)
        return made.path, made.path

    def served(self, *, required: Path | None = None) -> ServedCertificate:
        """The certificate of a server of this process, renewed while it serves.

        Clients may show a certificate of the built-in authority, or of those that the
        setting ``certificates.client_ca_file`` names.

        Args:
            required: the authorities (PEM) of which clients must show a certificate.
        """
        with self.making:
            if required not in self._served:
                self._served[required] = self._followed(required)
            return self._served[required]

    def _followed(self, required: Path | None) -> ServedCertificate:
        from falaj.trust.renewal import ServedCertificate

        settings = self._made.settings.certificates
        self.authority.checked()  # its certificate is there from now on
        named = (self.authority.ca_path, settings.client_ca_file)
        optional = [path for path in named if path is not None]

        def context(certificate: Path, key: Path) -> ssl.SSLContext:
            return server_context(certificate, key, clients=required, authorities=optional)

        found = ServedCertificate(self.server_files, context, every_seconds=settings.check_seconds)
        found.start()
        self._made.closing.append(found.stop)
        return found
